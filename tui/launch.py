"""Starting the inspector: settings that must be made before Textual is imported, and what terminal it needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.protocol import BadRequest, Open

_COLORS = {"truecolor": "truecolor", "256": "256", "16": "standard"}


def launch(
    opening: Open | None = None,
    *,
    session: Path | None = None,
    theme: str | None = None,
    color: str = "auto",
    mouse: bool = True,
) -> None:
    """Run the inspector with a live engine until the user leaves."""
    _prepare(color)
    from engine.client import spawn
    from sessions.store import new_session, path_of, read_session
    from tui.app import SaescopeApp
    from tui.recorder import Recorder

    opening = opening or Open(id=0)
    recorded = read_session(session) if session is not None and session.exists() else None
    base = recorded or new_session(opening)
    app = SaescopeApp(
        opening,
        spawn(),
        Recorder(session or path_of(base), base),
        session=recorded,
        theme=_theme(theme),
    )
    app.run(mouse=mouse)
    _after(app.return_code)


def launch_replay(file: Path, *, theme: str | None = None, color: str = "auto", mouse: bool = True) -> None:
    """Look at a recorded session: no engine is started and nothing is written."""
    from sessions.store import read_session

    session = read_session(file)
    _prepare(color)
    from tui.app import SaescopeApp

    app = SaescopeApp(session.opening, None, None, session=session, theme=_theme(theme))
    app.run(mouse=mouse)
    _after(app.return_code)


def _theme(name: str | None) -> str | None:
    from themes.palettes import PALETTES

    if name is not None and name not in PALETTES:
        raise BadRequest(f"There is no theme {name!r}.", f"Use {' or '.join(PALETTES)}.")
    return name


def _prepare(color: str) -> None:
    """Check the terminal and settle the number of colours."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadRequest("The inspector needs a terminal.", "For scripts: saescope features PROMPT --json.")
    if os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        raise BadRequest("TERM=dumb cannot show the inspector.", "For scripts: saescope features PROMPT --json.")
    if color == "none":
        os.environ["NO_COLOR"] = "1"
    elif color in _COLORS:
        os.environ["TEXTUAL_COLOR_SYSTEM"] = _COLORS[color]
    elif color != "auto":
        raise BadRequest(f"{color!r} is not a number of colours.", "Use auto, truecolor, 256, 16 or none.")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")


def _after(code: int | None) -> None:
    if code:
        raise SystemExit(code)
