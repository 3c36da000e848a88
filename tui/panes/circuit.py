"""The circuit behind a prediction: a tree from the metric upstream, or the same nodes on a grid of tokens and sites."""

from __future__ import annotations

from typing import Literal

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Input

from engine.protocol import NodeRef
from tui import circuit_aim
from tui.circuit_reducer import aim_of, at_cursor
from tui.circuit_state import name_key
from tui.panes import circuit_grid, circuit_tree
from tui.panes.circuit_body import CircuitBody
from tui.panes.circuit_words import figures, first_steps, heading, settings
from tui.panes.pane import Pane
from tui.state import State
from tui.text import visible, visible_token
from tui.widgets.bar import Bar

_ROOMY = 70
"""Cells from which the title has room for figures beside the metric."""
Field = Literal["aim", "rename", "group"]


class CircuitPane(Pane):
    """Pane 5."""

    GROUP = "circuit"
    NUMBER = 5
    NAME = "Circuit"

    class Typed(Message):
        """The user entered what to explain, a name or a group."""

        def __init__(self, field: Field, text: str, ref: NodeRef | None) -> None:
            super().__init__()
            self.field = field
            self.text = text
            self.ref = ref

    def compose(self) -> ComposeResult:
        self.settings = Bar(id="circuit-settings")
        self.body = CircuitBody()
        self.field = Input(id="circuit-field", compact=True)
        self.field.cursor_blink = False
        self.field.display = False
        self.first, self.second = Bar(id="circuit-first"), Bar(id="circuit-second")
        self._field: Field = "aim"
        self._named: NodeRef | None = None
        self._last: State | None = None
        yield self.title_bar
        yield self.settings
        yield self.field
        yield self.body
        yield self.first
        yield self.second

    @property
    def home(self) -> CircuitBody:
        return self.body

    # --- showing ------------------------------------------------------------------------------------------------

    def show(self, state: State, old: State | None) -> None:
        if old is not None and _slice(state) == _slice(old):
            return
        roomy = self.size.width >= _ROOMY
        self.title_bar.show_info(heading(state), figures(state) if roomy else "")
        self.settings.show(*settings(state, self.settings.style_of))
        record = state.traced
        if record is None or not record.circuit.nodes:
            self.body.show_text(first_steps(state, self.body.style_of, self.body.size.width))
        elif state.circuit.grid:
            self.body.show_grid(state)
        else:
            self.body.show_tree(state)
        self._last = state
        if not self.field.display:
            self._show_details(state)

    def _show_details(self, state: State) -> None:
        dim = self.first.style_of("dim")
        notice = state.notice if state.notice and state.notice.where == "circuit" else None
        if notice is not None:
            style = self.first.style_of("error" if notice.level == "error" else "warning")
            self.first.show(Text(f" {visible(notice.text)}", style))
            self.second.show(Text(f" {visible(notice.remedy)}"))
            return
        row = at_cursor(state)
        if row is None:
            lines = ("", "")
        else:
            lines = circuit_grid.details(state) if state.circuit.grid else circuit_tree.details(state, row)
        self.first.show(Text(lines[0]))
        self.second.show(Text(lines[1], dim))

    # --- the field ----------------------------------------------------------------------------------------------

    def open_field(self, field: Field, state: State, ref: NodeRef | None) -> None:
        """Ask for one line: what to explain, or a name for a node."""
        self._field, self._named = field, ref
        record = state.traced
        if field == "aim":
            self.field.placeholder, self.field.value = circuit_aim.PLACEHOLDER, aim_of(state)
        elif ref is not None and record is not None:
            what = "your name for" if field == "rename" else "the group of"
            known = record.names.get(name_key(ref), "") if field == "rename" else record.groups.get(str(ref), "")
            name = circuit_tree.node_name(record, ref, 40)
            self.field.placeholder, self.field.value = f"{what} {name}; empty takes it away", known
        self.field.display = True
        self.field.focus()
        self._say_reading(self.field.value)

    def close_field(self) -> None:
        """Leave the field; what stands in it is forgotten."""
        self.body.focus()
        self.field.display = False
        if self._last is not None:
            self._show_details(self._last)

    @on(Input.Changed, "#circuit-field")
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.field.display:
            self._say_reading(event.value)

    def _say_reading(self, text: str) -> None:
        """How what is being typed will be understood."""
        if self._field != "aim":
            return
        prompt = self._last.result.prompt if self._last and self._last.result else ""
        aim = circuit_aim.parse_aim(text)
        self.first.show(Text(f" {circuit_aim.reading(aim)}"))
        doubt = circuit_aim.doubt(aim, prompt)
        after = prompt.rstrip().rpartition(" ")[2]
        hint = f" {doubt}" if doubt else f" it comes after “{visible_token(after)}”; Enter traces, Escape leaves"
        self.second.show(Text(hint, self.second.style_of("warning" if doubt else "dim")))

    @on(Input.Submitted, "#circuit-field")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.close_field()
        self.post_message(self.Typed(self._field, event.value, self._named))


def _slice(state: State) -> tuple[object, ...]:
    """What of the state this pane shows, by identity where comparing would read all of it."""
    return (
        id(state.traced), state.circuit, id(state.marks), id(state.hints), state.notice, state.tasks, id(state.result),
        state.column, state.engine.phase, state.stale_circuit, len(state.circuits),
    )  # fmt: skip
