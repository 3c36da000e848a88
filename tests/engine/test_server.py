"""The engine's process: says hello, stops at once, keeps its output clean, dies with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import pytest

from engine.protocol import (
    Adjust,
    Adjusted,
    AnyEvent,
    Cancel,
    Count,
    Counted,
    Done,
    Failed,
    FeatureRef,
    FeaturesFound,
    Generated,
    Hello,
    Intervention,
    MeasureSweep,
    Open,
    Opened,
    Progress,
    Request,
    Run,
    ShowCard,
    Steer,
    Steered,
    Stopped,
    SweepGrown,
    Tokenised,
    Trace,
    TraceGrown,
    event_from_line,
    to_line,
)
from tests.conftest import ROOT


class Talk:
    """One engine process and both ends of its pipes."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def send(self, request: Request) -> None:
        self.raw(to_line(request))

    def raw(self, line: bytes) -> None:
        self.pipes[0].write(line)
        self.pipes[0].flush()

    def next(self) -> AnyEvent:
        return event_from_line(self.pipes[1].readline())

    def until(self, kind: type[AnyEvent], request: int | None = None) -> list[AnyEvent]:
        """Events up to and with the first of a kind (that answers a request)."""
        events = []
        while True:
            event = self.next()
            events.append(event)
            if isinstance(event, kind) and request in (None, event.id):
                return events


@contextmanager
def talking(*arguments: str) -> Iterator[Talk]:
    talk = Talk(*arguments)
    try:
        yield talk
    finally:
        talk.process.kill()
        talk.process.wait()
        for pipe in (talk.process.stdin, talk.process.stdout, talk.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    with talking("-m", "engine.fake") as talk:
        assert isinstance(talk.next(), Hello)
        talk.send(Open(id=1))
        talk.until(Done)
        yield talk


def test_hello_comes_before_torch() -> None:
    """The real engine answers before its libraries are read from disk."""
    with talking("-m", "engine") as talk:
        event = talk.next()
        assert isinstance(event, Hello)
        assert event.pid == talk.process.pid


def test_a_conversation(talk: Talk) -> None:
    talk.send(Run(id=2, prompt="one two three"))
    events = talk.until(Done)
    assert {e.id for e in events} == {2}
    assert any(isinstance(e, FeaturesFound) for e in events)


def test_cancel_is_answered_while_the_work_runs(talk: Talk) -> None:
    """The run would take longer than the test may; how quickly the answer comes is the benchmark's business."""
    talk.send(Run(id=2, prompt="/slow 3000 words"))
    talk.until(Tokenised)
    talk.send(Cancel(id=3, target=2))
    talk.until(Stopped, 2)
    talk.send(Run(id=4, prompt="after"))
    assert all(e.id == 4 for e in talk.until(Done))


def test_interventions_change_while_text_streams(talk: Talk) -> None:
    feature = FeatureRef("9-res-fk", 1)
    talk.send(Steer(id=2, prompt="/slow 1 word", interventions=(Intervention(feature, 1.0),), tokens=40))
    talk.until(Generated)
    talk.send(Adjust(id=3, target=2, interventions=(Intervention(feature, 5.0),)))
    change = talk.until(Adjusted, 2)[-1]
    assert isinstance(change, Adjusted)
    assert change.change.interventions == (Intervention(feature, 5.0),)
    steered = talk.until(Steered)[-1]
    assert isinstance(steered, Steered)
    assert steered.result.changes == (change.change,)


def test_a_change_that_comes_too_late_is_refused(talk: Talk) -> None:
    talk.send(Adjust(id=3, target=2, interventions=()))
    failed = talk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert "has ended" in failed.error.message


def test_a_newer_run_supersedes_an_older_one(talk: Talk) -> None:
    for number in range(2, 7):
        talk.send(Run(id=number, prompt=f"/slow {0 if number == 6 else 30} words"))
    events = talk.until(Done)
    assert [e.id for e in events if isinstance(e, Stopped)] == [2, 3, 4, 5]
    assert [e.id for e in events if isinstance(e, FeaturesFound)] == [6]


def test_a_run_does_not_stop_steering(talk: Talk) -> None:
    steer = Steer(id=2, prompt="/slow 1", interventions=(Intervention(FeatureRef("9-res-fk", 1), 1.0),), tokens=4)
    talk.send(steer)
    talk.send(Run(id=3, prompt="words"))
    events = talk.until(Done, 3)
    assert not any(isinstance(e, Stopped) for e in events)
    assert sum(isinstance(e, Generated) for e in events) == 4


def test_a_card_does_not_wait_for_a_trace(talk: Talk) -> None:
    talk.send(Trace(id=2, prompt="/slow 3000 words"))
    talk.until(Progress, 2)
    talk.send(ShowCard(id=3, feature=FeatureRef("9-res-fk", 1)))
    assert isinstance(talk.until(Done, 3)[-1], Done)
    talk.send(Cancel(id=4, target=2))
    talk.until(Stopped, 2)


def test_a_new_model_ends_what_was_asked_of_the_old_one(talk: Talk) -> None:
    talk.send(Trace(id=2, prompt="/slow 3000 words"))
    talk.until(Progress, 2)
    talk.send(Open(id=3))
    talk.until(Stopped, 2)
    talk.until(Done, 3)


def test_counting_is_answered_while_something_runs(talk: Talk) -> None:
    talk.send(Run(id=2, prompt="/slow 30"))
    talk.until(Tokenised)
    talk.send(Count(id=3, prompt="a b c"))
    event = talk.until(Counted)[-1]
    assert isinstance(event, Counted)
    assert event.tokens == 3


def test_errors_are_answers(talk: Talk) -> None:
    talk.send(Run(id=2, prompt="/fail"))
    event = talk.until(Failed)[-1]
    assert isinstance(event, Failed)
    assert (event.id, event.error.kind) == (2, "bad_request")
    assert event.error.remedy
    talk.raw(b'{"op":"dance","id":3}\n')
    event = talk.until(Failed)[-1]
    assert isinstance(event, Failed)
    assert "dance" in event.error.message
    talk.send(Run(id=4, prompt="still there"))
    talk.until(Done, 4)


def test_it_ends_when_its_input_ends(talk: Talk) -> None:
    talk.send(Run(id=2, prompt="/slow 30"))
    talk.pipes[0].close()
    assert talk.process.wait(timeout=2) == 0


def _serving(body: str) -> str:
    """A program that serves an engine whose `handle` has this body."""
    return f"""
import engine.server as server, os, sys
from engine.fake import FakeEngine
class Engine(FakeEngine):
    def handle(self, request, job):
        {body}
out = server.protect_stdout()
server.Server(Engine(), sys.stdin.buffer, out).serve()"""


def test_what_libraries_print_stays_out_of_the_protocol() -> None:
    noise = "print('hello from a library', flush=True); os.write(1, b'and from C'); super().handle(request, job)"
    with talking("-c", _serving(noise)) as talk:
        talk.send(Open(id=1))
        talk.until(Done, 1)  # every line read so far was an event
        talk.pipes[0].close()
        assert talk.process.stderr is not None
        said = talk.process.stderr.read()
    assert b"hello from a library" in said
    assert b"and from C" in said


def test_an_internal_error_is_an_answer_with_the_story() -> None:
    with talking("-c", _serving("raise ZeroDivisionError('oops')")) as talk:
        talk.send(Open(id=1))
        event = talk.until(Failed)[-1]
    assert isinstance(event, Failed)
    assert event.error.kind == "internal"
    assert "oops" in event.error.message
    assert "Traceback" in event.error.detail


def test_a_prompt_is_read_in_the_middle_of_a_trace(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    """The run starts while the trace is under way, and is done long before it."""
    with talking("-m", "engine") as talk:
        talk.send(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders)), device="cpu"))
        talk.until(Done, 1)
        talk.send(Trace(id=2, prompt="the other thing that I know of", steps=100_000))
        talk.until(TraceGrown, 2)
        talk.send(Run(id=3, prompt="in the end"))
        events = talk.until(Done, 3)
        assert any(isinstance(e, FeaturesFound) and e.id == 3 for e in events)
        assert not any(isinstance(e, Done | Stopped | Failed) and e.id == 2 for e in events)
        talk.send(Cancel(id=4, target=2))
        talk.until(Stopped, 2)
        talk.send(Run(id=5, prompt="still there"))
        talk.until(Done, 5)


def test_a_moved_control_is_answered_in_the_middle_of_a_sweep(
    llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    with talking("-m", "engine") as talk:
        talk.send(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders)), device="cpu"))
        talk.until(Done, 1)
        steer = Steer(id=0, prompt="in the", interventions=(Intervention(FeatureRef("1-res-tiny", 3), 3.0),), tokens=60)
        strengths = tuple(float(n) for n in range(400))
        talk.send(MeasureSweep(id=2, steer=steer, strengths=strengths, controls=7))
        talk.until(SweepGrown, 2)
        talk.send(msgspec.structs.replace(steer, id=3, tokens=4))
        events = talk.until(Done, 3)
        assert any(isinstance(e, Steered) and e.id == 3 for e in events)
        assert not any(isinstance(e, Done | Stopped | Failed) and e.id == 2 for e in events)
        talk.send(Cancel(id=4, target=2))
        talk.until(Stopped, 2)


def test_the_real_engine_over_pipes(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    with talking("-m", "engine") as talk:
        talk.send(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders)), device="cpu"))
        opened = next(e for e in talk.until(Done, 1) if isinstance(e, Opened))
        assert [d.source for d in opened.dictionaries] == ["1-res-tiny", "2-res-tiny"]
        talk.send(Run(id=2, prompt="of the in the"))
        result = next(e for e in talk.until(Done, 2) if isinstance(e, FeaturesFound)).result
        assert result.features
        talk.send(Steer(id=3, prompt="of", interventions=(Intervention(result.features[0].ref, 3.0),), tokens=100))
        talk.until(Generated)
        talk.send(Cancel(id=4, target=3))
        talk.until(Stopped, 3)
        talk.send(Open(id=5, model="/nowhere", dictionaries=("/nowhere",)))
        failed = talk.until(Failed)[-1]
        assert isinstance(failed, Failed)
        assert "/nowhere" in failed.error.message
