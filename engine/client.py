"""The screen's end of the line: send requests, receive events, notice when the engine is gone.

Written around a reader and a writer. A process is one way to get such a pair; a socket would be another.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from engine import paths
from engine.protocol import AnyEvent, Request, event_from_line, to_line

_LONGEST_LINE = 1 << 28
_LOG_LIMIT = 5 << 20


@dataclass(frozen=True)
class EngineLost:
    """The engine is gone: it died, or the line to it broke."""

    reason: str


class Link(Protocol):
    """A line to an engine."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self) -> str:
        """Wait for the other side to be gone, and say how it went."""
        ...

    def cut(self) -> None:
        """End it now; nothing on the other side is worth waiting for."""
        ...


Connect = Callable[[], Awaitable[Link]]
Deliver = Callable[[AnyEvent | EngineLost], None]


class EngineClient:
    """One engine at a time. Events go to `deliver` in the order they come; ids are never used twice."""

    def __init__(self, connect: Connect, deliver: Deliver) -> None:
        self._connect = connect
        self._deliver = deliver
        self._ids = itertools.count(1)
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    def next_id(self) -> int:
        return next(self._ids)

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    async def start(self) -> None:
        """Connect; events flow from then on. Raises OSError where no engine can be had."""
        self._link = await self._connect()
        self._task = asyncio.create_task(self._receive(self._link))

    def send(self, request: Request) -> bool:
        """Send a request; False where there is no engine to send it to."""
        if self._link is None or self._link.writer.is_closing():
            return False
        self._link.writer.write(to_line(request))
        return True

    def cut(self) -> None:
        """Leave the engine at once; nothing more is delivered."""
        if self._task is not None:
            self._task.cancel()
        if self._link is not None:
            self._link.cut()
        self._link = self._task = None

    async def _receive(self, link: Link) -> None:
        try:
            while (line := await link.reader.readline()).endswith(b"\n"):  # the dying leave half a line
                self._deliver(event_from_line(line))
            reason = await link.ended()
        except msgspec.DecodeError as error:
            link.cut()
            reason = f"it speaks another protocol ({error})"
        except (OSError, ValueError) as error:
            link.cut()
            reason = str(error)
        if self._link is link:
            self._link = None
        self._deliver(EngineLost(reason))


class ProcessLink:
    """An engine as a child process on pipes; its standard error goes to the log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self.process = process
        self.reader = process.stdout
        self.writer = process.stdin

    async def ended(self) -> str:
        code = await self.process.wait()
        if code >= 0:
            return f"exit code {code}"
        return {-9: "killed (signal 9; out of memory?)", -11: "segmentation fault"}.get(code, f"signal {-code}")

    def cut(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


def spawn(module: str = "engine", arguments: Sequence[str] = ()) -> Connect:
    """A way to connect that starts `python -m module` as a child in a session of its own.

    The child imports our packages from where we did (`-P` keeps a folder that happens to be called `engine` in
    the working directory out of it).
    """

    home = str(Path(__file__).resolve().parent.parent)

    async def connect() -> Link:
        inherited = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{inherited}" if inherited else home}
        with _log().open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=_LONGEST_LINE,
                env=environment,
            )
        return ProcessLink(process)

    return connect


def _log() -> Path:
    """The log file; a large old one is set aside."""
    log = paths.log_file()
    paths.private_directory(log.parent)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".old.log"))
    return log
