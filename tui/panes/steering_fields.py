"""What can be typed in the steering pane, and what stands in the field then."""

from __future__ import annotations

from typing import Literal

from tui.panes import steering_settings
from tui.state import State

Field = Literal["feature", "number", "positions", "settings", "preset"]

_PLACEHOLDERS: dict[Field, str] = {
    "feature": "SOURCE:INDEX, e.g. 13-res-sc:3467; several with spaces between",
    "number": "strength, e.g. 60 or -2.5x (times its maximum)",
    "positions": "all, prompt, generated, 7, 2:9 (to before 9) or 2:",
    "preset": "a name for the interventions that are on",
}


def placeholder(field: Field, state: State) -> str:
    """What stands in an empty field: what can be typed, of settings what they are."""
    row = state.steering.row
    if field == "settings":
        return steering_settings.shown_settings(state.steering.sampling, row.intervention.patch if row else None)
    return _PLACEHOLDERS[field]


def present(field: Field, state: State) -> str:
    """What a field shows when it opens: the present value where one would change it, nothing for a new one."""
    row = state.steering.row
    return str(row.intervention.positions) if field == "positions" and row is not None else ""
