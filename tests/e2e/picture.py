"""The picture of the README: the real screen over the default set. `python -m tests.e2e.picture [FILE]`."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.client import spawn
from engine.protocol import Open
from sessions.store import new_session
from tests.conftest import ROOT
from tui import reducer
from tui.app import SaescopeApp
from tui.recorder import Recorder
from tui.state import State

PROMPT = "The lighthouse keeper wrote every evening what the sea had brought: planks, a shoe, a letter in a bottle."
SIZE = (150, 42)


async def draw() -> str:
    """Run a prompt and export what the screen then shows."""
    session = new_session(Open(id=0))
    app = SaescopeApp(Open(id=0), spawn(), Recorder(Path(tempfile.mkdtemp()) / "session.json", session))
    async with app.run_test(size=SIZE) as pilot:

        async def until(condition: Callable[[State], object]) -> None:
            while not condition(app.state):
                await pilot.pause(0.05)
            await pilot.pause(0.3)

        await until(lambda s: s.engine.phase == "ready")
        app.screen.query_one("#prompt-area").insert(PROMPT)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(lambda s: s.card and s.hints and s.values and not s.tasks)
        app.change(_select_at_keeper)
        await until(lambda s: s.card and s.values and not s.tasks)
        return app.export_screenshot(title="saescope")


def _select_at_keeper(state: State) -> State:
    """A feature of a noun: those that fire most are often of articles and commas."""
    assert state.result is not None
    texts = [token.text for token in state.result.tokens]
    return reducer.select_feature(state, next(row.ref for row in state.rows if texts[row.position] == " keeper"))


def main() -> None:
    os.environ["SAESCOPE_STATE"] = tempfile.mkdtemp()
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "data" / "screen.svg"
    target.write_text(asyncio.run(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
