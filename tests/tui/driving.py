"""Driving the app in tests: a fake engine in a process of its own, and waiting for states instead of for time."""

from __future__ import annotations

import asyncio
import tempfile
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

_STEPS = 10
"""From the driver to the widget with the focus, from there up to the screen, and once more for what that says."""

Condition = Callable[[State], object]


class Driver:
    """An app under test."""

    def __init__(self, app: SaescopeApp, pilot: Pilot[None], gate: Path | None = None) -> None:
        self.app = app
        self.pilot = pilot
        self.gate = gate

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

    async def settle(self) -> None:
        """Wait until what was pressed has been done, through all widgets it bubbles to, and the screen shows it.

        A pilot's own pause ends when the process uses no time, which on a busy machine says nothing. A text that
        streams keeps the queues full: hence no more rounds than a message has steps.
        """
        quiet = rounds = 0
        while quiet < 2 and (rounds := rounds + 1) < _STEPS:
            await self.pilot._wait_for_screen()
            pumps = (self.app, *self.app.screen.walk_children(with_self=True))
            quiet = 0 if any(pump.message_queue_size for pump in pumps) else quiet + 1
            while self.app._held and self.app._moving and self.app.is_running:  # keys that wait for the focus to move
                await asyncio.sleep(0.01)
                quiet = 0
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    @property
    def waiting(self) -> str:
        """A text that makes the fake's study wait after its first result, until `open_now`."""
        return f"/wait {self.gate}"

    def open_now(self) -> None:
        """Let an engine that was held finish opening, or a study that waits go on."""
        assert self.gate is not None
        self.gate.touch()

    async def type(self, text: str) -> None:
        """Put text into the prompt field as a paste would."""
        self.app.screen.query_one("#prompt-area").insert(text)  # type: ignore[attr-defined]
        await self.settle()

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
    session: Session | None = None,
    path: Path | None = None,
    held: bool = False,
) -> AsyncIterator[Driver]:
    """A running app with the fake engine, which is open, or is held until `open_now`."""
    base = session or new_session(Open(id=0))
    gate = Path(tempfile.mkdtemp()) / "open"
    app = SaescopeApp(
        Open(id=0),
        spawn("engine.fake", [str(gate)] if held else []),
        Recorder(path or path_of(base), base),
        session=session,
    )
    async with app.run_test(size=size, notifications=True) as pilot:
        driver = Driver(app, pilot, gate)
        if not held:
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
