"""The session log: what happened, a line each, the newest last."""

from __future__ import annotations

import msgspec

from sessions.model import LogLine
from tui.state import State

_LINES = 500


def logged(state: State, at: str, text: str) -> State:
    """The state with one more line in its session log; `at` is when it happened."""
    return msgspec.structs.replace(state, log=(*state.log, LogLine(at, text))[-_LINES:])
