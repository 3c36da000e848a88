"""Ctrl-C that a library swallows."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from engine.interrupts import interrupts_kept, interrupts_later


@pytest.fixture(autouse=True)
def as_python_starts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def swallowed() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return
    raise AssertionError("no interrupt was raised")


def test_a_swallowed_interrupt_comes_at_the_end() -> None:
    done = []

    def working() -> None:
        with interrupts_kept():
            swallowed()
            done.append("the rest")

    with pytest.raises(KeyboardInterrupt):
        working()
    assert done == ["the rest"]


@pytest.mark.parametrize("watching", [interrupts_kept, interrupts_later])
def test_what_goes_wrong_after_it_is_its_doing(watching: Callable[[], AbstractContextManager[None]]) -> None:
    def working() -> None:
        with watching():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise ImportError("half of it")

    with pytest.raises(KeyboardInterrupt):
        working()


def test_one_that_gets_through_comes_at_once() -> None:
    def working() -> None:
        with interrupts_kept():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        working()


def test_an_import_in_the_middle_is_finished_first() -> None:
    done = []

    def working() -> None:
        with interrupts_kept():
            with interrupts_later():
                signal.raise_signal(signal.SIGINT)
                done.append("imported")
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        working()
    assert done == ["imported"]


def test_without_an_interrupt_nothing_happens() -> None:
    with interrupts_kept():
        done = True
    assert done


def test_another_handler_stays() -> None:
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with interrupts_kept():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert came == [signal.SIGINT]
