"""The engine as a process: requests as JSON lines on standard input, events as JSON lines on standard output.

One thread reads, the main thread works. The reader answers `cancel` and `count` at once, whatever else runs, and
a newer request of a kind supersedes an older one. Whatever libraries print goes to standard error, which is a log
file. The process ends when its input ends.
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
    AnyRequest,
    Cancel,
    Count,
    Counted,
    EngineFault,
    Event,
    Failed,
    Hello,
    Request,
    Stopped,
    request_from_line,
    to_line,
)
from engine.quiet import quiet_libraries


class Answers(Protocol):
    """What the server needs of an engine; `engine.core.Engine` and `engine.fake.FakeEngine` have it."""

    def handle(self, request: AnyRequest, job: Job) -> None: ...

    def count(self, prompt: str, chat: bool) -> Counted | None: ...


class Server:
    """Serves one engine over a pair of binary streams."""

    def __init__(self, engine: Answers, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[AnyRequest, Job]] = deque()
        self._working: tuple[AnyRequest, Job] | None = None

    def serve(self) -> None:
        """Work until the input ends."""
        self._say(Hello(pid=os.getpid()))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                self._working = self._waiting.popleft()
            request, job = self._working
            self._work(request, job)
            with self._changed:
                self._working = None

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
            case _:
                kind = type(request)
                self._stop(lambda waiting: type(waiting) is kind)
                with self._changed:
                    self._waiting.append((request, Job(request.id, self._say)))
                    self._changed.notify()

    def _stop(self, matches: _Matches) -> None:
        """Cancel matching requests and say so now; the worker falls silent about them at once."""
        with self._changed:
            stopped = [pair for pair in self._waiting if matches(pair[0])]
            self._waiting = deque(pair for pair in self._waiting if not matches(pair[0]))
            if self._working is not None and matches(self._working[0]):
                stopped.append(self._working)
        for request, job in stopped:
            if job.cancel():
                self._say(Stopped(id=request.id))

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
