"""Unfinished results of a study: how often they are made, by what making them takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.events import StudyGrown
from engine.job import Job
from engine.results import Provenance
from engine.studies import measure as measuring
from engine.studies.measure import Growing
from engine.study_results import StudyResult

RESULT = StudyResult("select", "t", {}, Provenance("m", "", {}, {}, "cpu", "float32", "off", {}, {}))


class Clock:
    """Seconds as the test says them."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def shown(monkeypatch: pytest.MonkeyPatch, work: float, making: float, steps: int) -> int:
    """How many unfinished results a study shows that works so long a step, and makes a result in so long."""
    clock = Clock()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    events: list[object] = []
    growing = Growing(Job(1, events.append))
    for _ in range(steps):
        clock.now += work
        if growing.is_due:
            clock.now += making
            growing.grown(RESULT)
    assert all(isinstance(event, StudyGrown) and not event.result.finished for event in events)
    return len(events)


def test_a_result_made_quickly_is_shown_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, work=0.01, making=0.001, steps=1000) in range(18, 21)


def test_a_result_that_takes_long_is_shown_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of 100 s; made every half a second, results of 2 s would take four times as long as it."""
    assert shown(monkeypatch, work=0.1, making=2.0, steps=1000) in range(4, 7)


def test_the_first_long_one_does_not_silence_all_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    events: list[object] = []
    growing = Growing(Job(1, events.append))
    for making in (1.0, 0.0, 0.0):
        while not growing.is_due:
            clock.now += 0.1
        clock.now += making
        growing.grown(RESULT)
    times = [event.result.seconds for event in events if isinstance(event, StudyGrown)]
    assert times[1] - times[0] == pytest.approx(10, abs=0.3)
    assert times[2] - times[1] == pytest.approx(0.5, abs=0.2)
