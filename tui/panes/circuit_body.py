"""The lines of the circuit pane with their keys: tree, grid or a few words, all under one focus."""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import BindingType
from textual.geometry import Region
from textual.message import Message

from tui.actions import bindings
from tui.circuit_state import Path, TreeRow, row_at
from tui.panes import circuit_grid, circuit_tree
from tui.panes.circuit_grid import Grid
from tui.state import State
from tui.widgets.line_list import LineList
from tui.widgets.lines import render_text, same_text

Wanted = Literal[
    "enter", "sideways", "aim", "method", "verify", "verify_whole", "pin", "rename", "group", "grid", "faithfulness",
    "nodes", "edges", "circuit",
]  # fmt: skip


class CircuitAsked(Message):
    """The user pressed one of the pane's keys; `step` is ±1 where it has a direction."""

    def __init__(self, what: Wanted, step: int = 0) -> None:
        super().__init__()
        self.what = what
        self.step = step


class CircuitBody(LineList):
    """Shows one of three things, and keeps the cursor where the state has it."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("circuit")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"list--positive", "list--negative", "list--good", "list--warning"}

    def __init__(self) -> None:
        super().__init__(id="circuit-body")
        self.mode: Literal["text", "tree", "grid"] = "text"
        self.rows: tuple[TreeRow, ...] = ()
        self._texts: list[Text] = []
        self._state: State | None = None
        self._grid: Grid | None = None

    # --- what is shown ------------------------------------------------------------------------------------------

    def show_text(self, lines: list[Text]) -> None:
        """A few words."""
        same = self.mode == "text" and len(lines) == len(self._texts)
        if same and all(same_text(a, b) for a, b in zip(lines, self._texts, strict=True)):
            return
        self.mode, self._texts = "text", lines
        self.show_cursor(None)
        self.rows_changed()

    def show_tree(self, state: State) -> None:
        """The tree; only lines that look different are sent."""
        before, was = (self.rows, self._state) if self.mode == "tree" else ((), None)
        rows = state.tree
        self.mode, self.rows, self._state = "tree", rows, state
        place = row_at(rows, state.circuit.cursor)
        if was is None or len(before) != len(rows) or was.stale_circuit != state.stale_circuit:
            self.set_reactive(LineList.cursor, place)
            self._cursor_hidden = False
            self.rows_changed()
            self.reveal()
            return
        self.rows_changed(self._changed(was, before))
        self.show_cursor(place)

    def _changed(self, was: State, before: tuple[TreeRow, ...]) -> set[int]:
        """The rows that no longer say what they said."""
        state = self._state
        assert state is not None
        if (was.traced, was.marks, was.hints) == (state.traced, state.marks, state.hints) and before is self.rows:
            return set()
        width, style = self.room, self.style_of
        return {
            n
            for n, (a, b) in enumerate(zip(before, self.rows, strict=True))
            if circuit_tree.draw(was, a, width, style) != circuit_tree.draw(state, b, width, style)
        }

    def show_grid(self, state: State) -> None:
        """The grid. The token cursor is a column through every line; a step sideways redraws two columns."""
        was = self._state if self.mode == "grid" else None
        grid = circuit_grid.grid_of(state)
        assert grid is not None
        same = was is not None and grid is self._grid and was.stale_circuit == state.stale_circuit
        self.mode, self._state, self._grid = "grid", state, grid
        place = max(0, min(state.circuit.site, len(grid.sources) - 1))
        if was is None or not same:
            self.set_reactive(LineList.cursor, place)
            self._cursor_hidden = False
            self.rows_changed()
            self.reveal()
            return
        if was.column != state.column:
            self._redraw_columns(was.column, state.column, grid)
        self.show_cursor(place)

    def _redraw_columns(self, old: int, new: int, grid: Grid) -> None:
        before, after = (circuit_grid.Window(grid, column, self.room) for column in (old, new))
        lines = min(self.size.height, self.header_lines + self.row_count - self.scroll_offset.y)
        if before.first != after.first:
            self.refresh(Region(0, 0, self.size.width, lines))
        else:
            places = (after.place(old), after.place(new))
            self.refresh(*(Region(x, 0, width, lines) for x, width in places))

    @property
    def row_count(self) -> int:
        if self.mode == "grid":
            return len(self._grid.sources) if self._grid else 0
        return len(self._texts) if self.mode == "text" else len(self.rows)

    @property
    def path(self) -> Path:
        """The row under the cursor."""
        return self.rows[self.cursor].path if self.mode == "tree" and self.cursor < len(self.rows) else ()

    def is_marked(self, row: int) -> bool:
        return self.mode != "text" and super().is_marked(row)

    def draw_header(self, width: int) -> list[Segment]:
        if self.mode == "grid" and self._grid and self._state:
            return circuit_grid.header(self._state, self._grid, width, self.style_of)
        return [Segment(circuit_tree.header(width) if self.mode == "tree" else "", self.style_of("header"))]

    def draw_row(self, row: int, width: int) -> list[Segment]:
        if self.mode == "text":
            return render_text(self._texts[row], Style())
        assert self._state is not None
        if self.mode == "grid":
            assert self._grid is not None
            segments = circuit_grid.draw(self._state, self._grid, row, width, self.style_of)
        else:
            segments = circuit_tree.draw(self._state, self.rows[row], width, self.style_of)
            segments.insert(0, Segment("▌" if self.is_marked(row) else " ", self.style_of("accent")))
        if self._state.stale_circuit:
            segments = [Segment(s.text, self.style_of("dim")) for s in segments]
        return segments

    # --- the user -----------------------------------------------------------------------------------------------

    def action_enter(self) -> None:
        self.post_message(CircuitAsked("enter"))

    def action_sideways(self, step: int) -> None:
        self.post_message(CircuitAsked("sideways", step))

    def action_aim(self) -> None:
        self.post_message(CircuitAsked("aim"))

    def action_method(self) -> None:
        self.post_message(CircuitAsked("method"))

    def action_verify(self) -> None:
        self.post_message(CircuitAsked("verify"))

    def action_verify_whole(self) -> None:
        self.post_message(CircuitAsked("verify_whole"))

    def action_pin(self) -> None:
        self.post_message(CircuitAsked("pin"))

    def action_rename(self) -> None:
        self.post_message(CircuitAsked("rename"))

    def action_group(self) -> None:
        self.post_message(CircuitAsked("group"))

    def action_positions(self) -> None:
        self.post_message(CircuitAsked("grid"))

    def action_faithfulness(self) -> None:
        self.post_message(CircuitAsked("faithfulness"))

    def action_nodes(self, step: int) -> None:
        self.post_message(CircuitAsked("nodes", step))

    def action_edges(self, step: int) -> None:
        self.post_message(CircuitAsked("edges", step))

    def action_circuit(self, step: int) -> None:
        self.post_message(CircuitAsked("circuit", step))
