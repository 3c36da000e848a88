"""Steering: a line per intervention, and plain beside steered text as both stream."""

from __future__ import annotations

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Input

from tui.panes.pane import Pane
from tui.panes.steering_fields import Field, placeholder, present
from tui.panes.steering_list import InterventionList
from tui.panes.steering_text import SteeringText
from tui.panes.steering_words import details, first_steps, note, settings
from tui.state import State
from tui.text import visible
from tui.widgets.bar import Bar
from tui.widgets.field import Field as TextField

_LEAST_TEXT = 9
"""Lines that the texts and what stands around them keep, however many interventions there are."""


class SteeringPane(Pane):
    """Pane 6."""

    GROUP = "steering"
    NUMBER = 6
    NAME = "Steering"

    class Typed(Message):
        """The user entered a strength, positions, settings or a name."""

        def __init__(self, field: Field, text: str) -> None:
            super().__init__()
            self.field = field
            self.text = text

    def compose(self) -> ComposeResult:
        self.list = InterventionList()
        self.field = TextField(id="steering-field")
        self.settings = Bar(id="steering-settings")
        self.text = SteeringText()
        self.note, self.first, self.second = (Bar(id=f"steering-{n}") for n in ("note", "first", "second"))
        self._field: Field = "number"
        self._lines = 1
        self._last: State | None = None
        yield self.title_bar
        yield self.list
        yield self.field
        yield self.settings
        yield self.text
        yield self.note
        yield self.first
        yield self.second

    @property
    def home(self) -> InterventionList:
        return self.list

    # --- showing ------------------------------------------------------------------------------------------------

    def show(self, state: State, old: State | None) -> None:
        if old is not None and _slice(state) == _slice(old):
            return
        self._last = state
        steering, width = state.steering, self.size.width
        self._fit(len(steering.rows))
        off = len(steering.rows) - len(steering.acting)
        self.title_bar.show_info(f"{off} of {len(steering.rows)} off" if off else "")
        self.list.show(state)
        self.settings.show(*settings(state, width, self.settings.style_of))
        texts = steering.texts
        if texts is not None and (texts.plain or texts.steered):
            moved = old is not None and old.steering.token != steering.token
            self.text.show_texts(state, texts, moved=moved)
        else:
            words = first_steps(state, self.text.part)
            self.text.show_words(lambda width: [words])
        self._show_details(state)

    def on_resize(self) -> None:
        """While it was hidden the pane had no size to fit its lines to."""
        if self._last is not None:
            self.show(self._last, None)

    def _fit(self, rows: int) -> None:
        """As many lines as there are interventions, as far as the texts keep theirs."""
        lines = max(1, min(rows, max(self.size.height - _LEAST_TEXT, 2)))
        if lines != self._lines:
            self._lines = lines
            self.list.styles.height = lines

    def _show_details(self, state: State) -> None:
        notice = state.notice if state.notice and state.notice.where == "steering" else None
        width = self.size.width
        self.note.show(note(state, width, self.note.style_of))
        if notice is not None:
            style = self.first.style_of("error" if notice.level == "error" else "warning")
            self.first.show(Text(f" {visible(notice.text)}", style))
            self.second.show(Text(f" {visible(notice.remedy)}"))
        else:
            first, second = details(state, width, self.first.style_of)
            self.first.show(first)
            self.second.show(second)

    @on(InterventionList.Paged)
    def _paged(self, event: InterventionList.Paged) -> None:
        event.stop()
        self.text.page(event.step)

    # --- the field ----------------------------------------------------------------------------------------------

    def open_field(self, field: Field, state: State) -> None:
        """Ask for one line."""
        self._field = field
        self.field.placeholder, self.field.value = placeholder(field, state), present(field, state)
        self.field.display = True
        self.field.focus()

    def close_field(self) -> None:
        """Leave the field; what stands in it is forgotten."""
        self.list.focus()
        self.field.display = False

    @on(Input.Submitted, "#steering-field")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Typed(self._field, event.value))


def _slice(state: State) -> tuple[object, ...]:
    """What of the state this pane shows, by identity where comparing would read all of it."""
    scales = tuple(state.scale_of(row.intervention.feature) for row in state.steering.rows)
    return (
        id(state.steering), state.notice, state.tasks, id(state.result), scales, id(state.hints), state.stale_texts,
        state.engine.phase,
    )  # fmt: skip
