"""The engine as a process: requests as JSON lines on standard input, events as JSON lines on standard output.

One thread reads, the main thread works, a third one looks things up meanwhile. The reader answers `cancel` and
`count` at once, whatever else runs, and a newer request of a kind supersedes an older one. A prompt or a moved control
does not wait for a trace or a sweep: it is answered in between. Whatever libraries print goes to standard error, which
is a log file. The process ends when its input ends.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections import deque
from typing import BinaryIO, Protocol

from engine.errors import Cancelled, SaescopeError
from engine.job import Job
from engine.protocol import (
    Adjust,
    AnyRequest,
    Cancel,
    Count,
    Counted,
    EngineFault,
    Event,
    Failed,
    Hello,
    ListHints,
    MeasureControl,
    MeasureFaithfulness,
    MeasureStudy,
    MeasureSweep,
    Open,
    Prepare,
    RankAblations,
    Request,
    Row,
    Run,
    SearchLabels,
    SetLabel,
    ShowCard,
    Steer,
    Stopped,
    Trace,
    TryText,
    request_from_line,
    to_line,
)
from engine.quiet import quiet_libraries

_ABOUT_CIRCUITS = Trace | MeasureFaithfulness
_LONG = _ABOUT_CIRCUITS | MeasureControl | MeasureSweep | RankAblations | MeasureStudy
_LOOKED_UP = Row | ShowCard | ListHints | SearchLabels | SetLabel
_SHORT = Run | _LOOKED_UP | Prepare | Steer | TryText


class Answers(Protocol):
    """What the server needs of an engine; `engine.core.Engine` and `engine.fake.FakeEngine` have it."""

    def handle(self, request: AnyRequest, job: Job) -> None: ...

    def count(self, prompt: str, chat: bool) -> Counted | None: ...


class _Lane:
    """Requests that wait for one thread, and the one it works on."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[AnyRequest, Job]] = deque()
        self.working: list[tuple[AnyRequest, Job]] = []
        """The one at work; two while a short one is answered in the middle of a long one."""

    def has(self, *kinds: type[Request]) -> bool:
        return any(isinstance(request, kinds) for request, _ in self.all())

    def take(self, matches: _Matches) -> list[Job]:
        """Matching jobs: waiting ones are taken out, the one at work only named."""
        found = [job for request, job in self.all() if matches(request)]
        self.waiting = deque(pair for pair in self.waiting if not matches(pair[0]))
        return found

    def all(self) -> list[tuple[AnyRequest, Job]]:
        return [*self.waiting, *self.working]


class Server:
    """Serves one engine over a pair of binary streams.

    The main thread works on what runs the model. What only looks something up (a card, a hint, a row of activations
    already read) has a thread of its own, so that it need not wait for a trace; it never runs the model, on whose
    modules the other thread may have hooks.
    """

    def __init__(self, engine: Answers, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._main, self._quick = _Lane(), _Lane()

    def serve(self) -> None:
        """Work until the input ends."""
        self._say(Hello(pid=os.getpid()))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._work_on, args=(self._quick,), name="quick", daemon=True).start()
        self._work_on(self._main)

    def _work_on(self, lane: _Lane) -> None:
        while True:
            with self._changed:
                while not lane.waiting:
                    self._changed.wait()
                first = lane.waiting.popleft()
            self._work_through(lane, first)

    def _work_through(self, lane: _Lane, pair: tuple[AnyRequest, Job]) -> None:
        with self._changed:
            lane.working.append(pair)
        self._work(*pair)
        with self._changed:
            lane.working.pop()

    def _meanwhile(self) -> None:
        """In the middle of long work: answer the short requests that wait."""
        while True:
            with self._changed:
                pair = next((p for p in self._main.waiting if isinstance(p[0], _SHORT)), None)
                if pair is None:
                    return
                self._main.waiting.remove(pair)
            self._work_through(self._main, pair)

    # --- the reading thread -------------------------------------------------------------------------------------

    def _read(self) -> None:
        for line in self._incoming:
            try:
                self._receive(request_from_line(line))
            except SaescopeError as error:
                self._say(Failed(error=_fault(error)))
        os._exit(0)  # the other side is gone; nobody will read what still runs

    def _receive(self, request: AnyRequest) -> None:
        match request:
            case Cancel():
                self._stop(lambda waiting: waiting.id == request.target)
            case Count():
                self._count(request)
            case Adjust():
                self._adjust(request)
            case _:
                kind = type(request)
                if not isinstance(request, SetLabel):  # a label of one feature does not replace that of another
                    self._stop(lambda waiting: type(waiting) is kind)
                if isinstance(request, Open | Run):  # rows of the prompt before mean nothing any more
                    self._stop(lambda waiting: isinstance(waiting, Row))
                if isinstance(request, Open):  # nor does a circuit of what was open
                    self._stop(lambda waiting: isinstance(waiting, _ABOUT_CIRCUITS))
                with self._changed:
                    meanwhile = self._meanwhile if isinstance(request, _LONG) else None
                    self._lane(request).waiting.append((request, Job(request.id, self._say, meanwhile)))
                    self._changed.notify_all()

    def _lane(self, request: AnyRequest) -> _Lane:
        """What looks something up goes its own way, unless what it looks up is being read only now."""
        ready = not self._main.has(Open, Run)
        return self._quick if ready and isinstance(request, _LOOKED_UP) else self._main

    def _stop(self, matches: _Matches) -> None:
        """Cancel matching requests and say so now; the worker falls silent about them at once."""
        with self._changed:
            stopped = [job for lane in (self._main, self._quick) for job in lane.take(matches)]
        for job in stopped:
            if job.cancel():
                self._say(Stopped(id=job.id))

    def _adjust(self, request: Adjust) -> None:
        with self._changed:
            job = next((job for waiting, job in self._main.all() if waiting.id == request.target), None)
        if job is None:
            self._say(Failed(id=request.id, error=EngineFault("bad_request", "What is to be changed has ended.")))
        else:
            job.adjust(request.interventions)

    def _count(self, request: Count) -> None:
        try:
            counted = self._engine.count(request.prompt, request.chat)
        except SaescopeError as error:
            self._say(Failed(id=request.id, error=_fault(error)))
            return
        if counted is not None:
            self._say(Counted(id=request.id, tokens=counted.tokens, limit=counted.limit))

    # --- the working thread -------------------------------------------------------------------------------------

    def _work(self, request: AnyRequest, job: Job) -> None:
        try:
            self._engine.handle(request, job)
        except Cancelled:
            return
        except SaescopeError as error:
            self._fail(request, job, _fault(error))
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(
                request,
                job,
                EngineFault(
                    "internal",
                    f"The engine failed: {text}",
                    "The log has more: `saescope locate`.",
                    traceback.format_exc(),
                ),
            )

    def _fail(self, request: Request, job: Job, fault: EngineFault) -> None:
        if not job.is_cancelled:
            self._say(Failed(id=request.id, error=fault))

    def _say(self, event: Event) -> None:
        line = to_line(event)
        with self._write_lock:
            try:
                self._outgoing.write(line)
                self._outgoing.flush()
            except (BrokenPipeError, ValueError):
                os._exit(0)


class _Matches(Protocol):
    def __call__(self, request: AnyRequest, /) -> bool: ...


def _fault(error: SaescopeError) -> EngineFault:
    return EngineFault(error.kind, error.message, error.remedy, error.detail)


def protect_stdout() -> BinaryIO:
    """The real standard output, for the protocol alone; what anyone prints from now on goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(private, "wb")


def main() -> None:
    """`python -m engine`: serve the real engine on the standard streams."""
    quiet_libraries()
    faulthandler.enable()
    outgoing = protect_stdout()
    from engine.lazy import LazyEngine

    Server(LazyEngine(), sys.stdin.buffer, outgoing).serve()
