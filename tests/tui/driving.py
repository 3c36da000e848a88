"""Driving the app in tests: a fake engine in a process of its own, and waiting for states instead of for time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from engine.client import spawn
from engine.protocol import Open
from sessions.model import Session
from sessions.store import new_session, path_of
from tui.app import SaescopeApp
from tui.recorder import Recorder
from tui.state import State

SIZES = [(80, 24), (120, 40), (200, 50)]
PROMPT = "The Eiffel Tower is in the city of"

Condition = Callable[[State], object]


class Driver:
    """An app under test."""

    def __init__(self, app: SaescopeApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def state(self) -> State:
        return self.app.state

    async def until(self, condition: Condition, seconds: float = 20) -> State:
        """Wait until the state fulfils a condition and the screen shows it."""
        async with asyncio.timeout(seconds):
            while not condition(self.app.state):
                await self.pilot.pause(0.02)
        await self.pilot.pause()
        return self.app.state

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Put text into the prompt field as a paste would."""
        self.app.screen.query_one("#prompt-area").insert(text)  # type: ignore[attr-defined]
        await self.pilot.pause()

    async def run(self, prompt: str = PROMPT) -> State:
        """Type a prompt, run it, and wait for everything the screen then asks for."""
        runs = len(self.state.runs)
        await self.press("escape", "1", "ctrl+g")
        await self.type(prompt)
        await self.press("enter")
        return await self.until(lambda s: len(s.runs) > runs and not s.tasks and s.card and s.result and s.hints)

    def lines(self) -> list[str]:
        """What the screen shows, as text."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.lines())


@asynccontextmanager
async def driving(
    size: tuple[int, int] = (120, 40),
    *,
    load_seconds: float = 0.0,
    session: Session | None = None,
    path: Path | None = None,
    ready: bool = True,
) -> AsyncIterator[Driver]:
    """A running app with the fake engine."""
    base = session or new_session(Open(id=0))
    app = SaescopeApp(
        Open(id=0),
        spawn("engine.fake", [str(load_seconds)]),
        Recorder(path or path_of(base), base),
        session=session,
    )
    async with app.run_test(size=size, notifications=True) as pilot:
        driver = Driver(app, pilot)
        if ready:
            await driver.until(lambda s: s.engine.phase == "ready")
        try:
            yield driver
        finally:
            if app._client is not None:
                app._client.cut()
            await pilot.pause()


@asynccontextmanager
async def replaying(session: Session, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Driver]:
    """The app looking at a recorded session."""
    app = SaescopeApp(session.opening, None, None, session=session)
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.pause()
        yield Driver(app, pilot)
