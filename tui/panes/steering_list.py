"""The list of interventions with the keys and the mouse of the steering pane."""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.message import Message

from tui.actions import bindings
from tui.panes import steering_row
from tui.state import State
from tui.widgets.line_list import LineList
from tui.widgets.slider import share_at

Wanted = Literal[
    "feature", "coarse", "fine", "mark", "number", "toggle", "delete", "kind", "next_positions", "positions", "error",
    "seed", "generate", "live", "token", "colour", "settings", "control", "sweep", "impact", "ablations", "save",
    "presets",
]  # fmt: skip


class SteeringAsked(Message):
    """The user pressed one of the pane's keys; `step` is ±1 where it has a direction."""

    def __init__(self, what: Wanted, step: int = 0) -> None:
        super().__init__()
        self.what = what
        self.step = step


class InterventionList(LineList):
    """A line per intervention. What the mouse drags is sent as it moves; who listens lets the newest win."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("steering")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"list--positive", "list--negative"}
    header_lines = 0
    empty = " no feature: select one and press s, or type one with a"

    class Slid(Message):
        """A slider was dragged to a share in [−1, 1]."""

        def __init__(self, row: int, share: float) -> None:
            super().__init__()
            self.row = row
            self.share = share

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, InterventionList.Slid) and message.row == self.row

    class Boxed(Message):
        """A row's box was clicked."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    class Paged(Message):
        """The user scrolls the text."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self) -> None:
        super().__init__(id="steering-list")
        self._state: State | None = None
        self._drawn: list[list[Segment]] = []
        self._dragged: int | None = None
        self._columns = steering_row.Columns(0, 0, 0, 0, 0, 0)

    # --- what is shown ------------------------------------------------------------------------------------------

    def show(self, state: State) -> None:
        """The rows of a state; only lines that look different are sent."""
        before = self._drawn
        self._state = state
        self._draw_all()
        if len(before) != len(self._drawn) or not self._drawn:
            self.set_reactive(LineList.cursor, state.steering.cursor)
            self.rows_changed()
            self.reveal()
            return
        self.rows_changed({n for n, (a, b) in enumerate(zip(before, self._drawn, strict=True)) if a != b})
        self.show_cursor(state.steering.cursor)

    def _draw_all(self) -> None:
        state, width = self._state, self.scrollable_content_region.width
        if state is None or not width:
            self._drawn = []
            return
        self._columns = steering_row.columns(state, width)
        self._drawn = [
            steering_row.draw(state, row, self._columns, width, self.style_of, marked=False)
            for row in state.steering.rows
        ]

    def on_resize(self, _: events.Resize) -> None:
        self.reveal()

    def fit(self, width: int) -> None:
        self._draw_all()
        self.set_height(self.row_count)

    @property
    def row_count(self) -> int:
        return len(self._state.steering.rows) if self._state is not None else 0

    def draw_row(self, row: int, width: int) -> list[Segment]:
        if row >= len(self._drawn):
            return []
        first = Segment("▌" if self.is_marked(row) else " ", self.style_of("accent"))
        return [first, *self._drawn[row][1:]]

    # --- the mouse ----------------------------------------------------------------------------------------------

    def on_mouse_down(self, event: events.MouseDown) -> None:
        row = event.y + self.scroll_offset.y
        start = self._columns.slider_at
        if event.button == 1 and row < self.row_count and start <= event.x < start + self._columns.slider:
            self._dragged = row
            self.capture_mouse()
            self._drag(event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragged is not None:
            self._drag(event.x)

    def on_mouse_up(self, _: events.MouseUp) -> None:
        if self._dragged is not None:
            self._dragged = None
            self.release_mouse()

    def _drag(self, x: int) -> None:
        assert self._dragged is not None
        share = share_at(x - self._columns.slider_at, self._columns.slider)
        self.post_message(self.Slid(self._dragged, share))

    def on_click(self, event: events.Click) -> None:
        """The list itself puts its cursor on the row."""
        row = event.y + self.scroll_offset.y
        if row < self.row_count and steering_row.BOX <= event.x < steering_row.BOX + 3:
            self.post_message(self.Boxed(row))

    # --- the keys -----------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        self.move(step)

    def action_page(self, step: int) -> None:
        self.post_message(self.Paged(step))

    def action_ask(self, what: Wanted, step: int = 0) -> None:
        self.post_message(SteeringAsked(what, step))
