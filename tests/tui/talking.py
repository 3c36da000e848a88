"""Talking to an engine without a screen: a client, everything it delivered, and programs that are no engine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from engine.client import Connect, EngineClient, EngineLost, Link, ProcessLink
from engine.protocol import AnyEvent, Done, Event, Hello, Open

E_ = TypeVar("E_", bound="Event | EngineLost")


class Talk:
    """A client and everything it has delivered."""

    def __init__(self, connect: Connect) -> None:
        self.client = EngineClient(self._connected, self._deliver)
        self.events: list[AnyEvent | EngineLost] = []
        self.links: list[Link] = []
        self._connect = connect
        self._more = asyncio.Event()

    async def _connected(self) -> Link:
        self.links.append(await self._connect())
        return self.links[-1]

    def _deliver(self, event: AnyEvent | EngineLost) -> None:
        self.events.append(event)
        self._more.set()

    def of(self, kind: type[E_], request: int | None = None) -> list[E_]:
        """What was delivered of a kind, in order."""
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if request is None or getattr(event, "id", None) == request]

    async def until(self, kind: type[E_], request: int | None = None, seconds: float = 20) -> E_:
        """Wait for an event of a kind, and return the latest."""
        async with asyncio.timeout(seconds):
            while not (found := self.of(kind, request)):
                self._more.clear()
                await self._more.wait()
        return found[-1]

    async def open(self) -> int:
        """Open the fake model; returns the engine's process id."""
        await self.client.start()
        request = self.client.next_id()
        self.client.send(Open(id=request))
        await self.until(Done, request)
        return self.of(Hello)[-1].pid


@asynccontextmanager
async def talking(connect: Connect) -> AsyncIterator[Talk]:
    talk = Talk(connect)
    try:
        yield talk
    finally:
        talk.client.cut()
        for link in talk.links:
            link.cut()
            await link.ended()
        await asyncio.sleep(0.01)  # the event loop learns of it too, before it is closed


def saying(code: str, limit: int = 1 << 16) -> Connect:
    """A line to a small Python program that is no engine."""

    async def connect() -> Link:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", code, stdin=pipe, stdout=pipe, limit=limit
        )
        return ProcessLink(process)

    return connect


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(10):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.01)
