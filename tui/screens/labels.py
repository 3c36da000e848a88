"""Labels of the open dictionaries: found by their words as one types, or because they are like another feature's.

The field keeps the focus: letters go into it, arrows move the cursor of the list, Enter takes what is under that. So
keys that arrive in one piece all do what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer
from textual.widgets import Input

from engine.protocol import FeatureRef, LabelHit, LabelSearch
from tui.screens.following import Following
from tui.screens.listening import ListeningPage
from tui.state import State
from tui.text import counted, fit, number, visible
from tui.widgets.bar import Bar
from tui.widgets.field import Field
from tui.widgets.line_list import LineList

_PAUSE = 0.15
"""Seconds without a key after which what was typed is looked for."""
Seek = Callable[[str, FeatureRef | None], None]


class Step(NamedTuple):
    """What was looked for before, and where the cursor was."""

    query: str
    like: FeatureRef | None
    row: int


class LabelList(LineList, can_focus=False):
    """What was found: feature, how near, label, whose. A click moves the cursor, another one there takes the row."""

    header_lines = 0

    def __init__(self) -> None:
        super().__init__(id="label-list")
        self.hits: tuple[LabelHit, ...] = ()
        self.scored = False
        """Show how near: it means something for labels like another."""

    @property
    def row_count(self) -> int:
        return len(self.hits)

    def draw_row(self, row: int, width: int) -> list[Segment]:
        hit = self.hits[row]
        dim = self.style_of("dim")
        size = min(max(len(str(h.feature)) for h in self.hits), max(width // 3, 12))
        whose = visible(hit.label.by)
        tail = f"  {fit(whose, min(len(whose), 24))}" if width >= 70 and whose else ""
        score = f"{number(hit.score):>5} " if self.scored else ""
        room = max(width - 2 - size - 2 - len(score) - len(tail), 0)
        return [
            Segment("▌ " if self.is_marked(row) else "  ", self.style_of("accent")),
            Segment(fit(str(hit.feature), size) + "  ", self.style_of("accent")),
            Segment(score, dim),
            Segment(fit(visible(hit.label.text), room)),
            Segment(tail, dim),
        ]

    def on_click(self, event: events.Click) -> None:
        """Textual calls this before the list's own, which moves the cursor."""
        if self.cursor == event.y + self.scroll_offset.y:
            self.choose()


class LabelsPage(ListeningPage[FeatureRef | None], Following):
    """Dismissed with the feature that was taken, or with None."""

    DEFAULT_CSS = """
    LabelsPage { background: $background; }
    LabelsPage #page-title { background: $panel; }
    LabelsPage Field { height: 1; border: none; background: $panel; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", id="labels.up"),
        Binding("down", "move(1)", "down", id="labels.down"),
        Binding("pageup", "page(-1)", "page up", id="labels.page_up"),
        Binding("pagedown", "page(1)", "page down", id="labels.page_down"),
        Binding("tab,ctrl+l", "like", "labels like it", id="labels.like"),
        Binding("escape", "leave", "back, close", id="labels.close"),
    ]

    def __init__(self, seek: Seek, like: FeatureRef | None = None) -> None:
        super().__init__()
        self._seek = seek
        self._query, self._like = "", like
        self._steps: list[Step] = []
        """What Escape goes back to, the last first."""
        self._pausing: Timer | None = None
        """Runs while what was typed last is not asked for yet."""
        self._waits = self._takes = False
        """An answer is awaited; its first row is to be taken."""
        self._row = 0
        """Where the cursor goes when the answer comes."""

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.field = Field(id="label-field")
        self.list = LabelList()
        yield self.heading
        yield self.field
        yield self.list

    def on_mount(self) -> None:
        self.field.display = True
        self.field.focus()
        self.list.empty = " Type some words."
        self._title("Labels")
        self._ask(self._query, self._like)

    def _title(self, text: str) -> None:
        escape = "back" if self._steps else "closes"
        keys = Text(f"↑↓ · enter takes · tab like it · esc {escape} ", self.heading.style_of("dim"))
        self.heading.show(Text(f" {text}", Style(bold=True)), keys)

    # --- asking and showing -------------------------------------------------------------------------------------

    def _ask(self, query: str, like: FeatureRef | None = None, row: int = 0) -> None:
        self._still()
        self._query, self._like, self._row = query, like, row
        self._waits, self._takes = True, False
        self.field.placeholder = "words of a label"
        self._seek(query, like)

    def _still(self) -> None:
        """What was typed waits no longer."""
        if self._pausing is not None:
            self._pausing.stop()
            self._pausing = None

    def follow(self, state: State, old: State) -> None:
        """The state changed: show what was found, or why nothing can be."""
        if not self._waits:
            return
        if state.found is not None and state.found is not old.found:
            self._waits = False
            self._found(state.found)
        elif state.notice is not None and state.notice is not old.notice and state.notice.level == "error":
            self._waits = self._takes = False
            self._nothing(f"{state.notice.text} {state.notice.remedy}")
            self._title(f"Labels like {self._like}" if self._like else "Labels")

    def _found(self, found: LabelSearch) -> None:
        self.list.hits, self.list.scored = found.hits, found.like is not None
        self.list.scroll_home(animate=False)
        self.list.cursor = self._row
        self.list.empty = f" {self._why_nothing(found)}"
        self.list.rows_changed()
        self.list.reveal()
        if found.like is not None:
            self._title(f"Labels like {found.like}")
            if found.query:
                self.field.placeholder = f"like “{visible(found.query)}”; typing looks for words"
        elif found.query:
            more = f" of {found.total}" if found.total > len(found.hits) else ""
            self._title(f"Labels · {len(found.hits)}{more}")
        else:
            self._title(f"Labels · {counted(sum(found.labelled.values()), 'label', 'labels')}")
        if self._takes:
            self._takes = False
            self.list.choose()

    def _nothing(self, why: str) -> None:
        self.list.hits = ()
        self.list.empty = f" {why}"
        self.list.rows_changed()

    def _why_nothing(self, found: LabelSearch) -> str:
        if not sum(found.labelled.values()):
            return "No feature of these dictionaries has a label here. N gives one; `saescope get labels` fetches them."
        if found.like is not None:
            return f"{found.like} has no label with an embedding: only Neuronpedia's exports bring them."
        return f"No label has {visible(found.query)}." if found.query else "Type some words."

    # --- keys ---------------------------------------------------------------------------------------------------

    @on(Input.Changed, "#label-field")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value == self._query and self._like is None:
            return  # put there by us
        self._still()
        self._takes = False
        self._steps.clear()
        self._query, self._like = event.value, None
        self._pausing = self.set_timer(_PAUSE, lambda: self._ask(event.value))

    @on(Input.Submitted, "#label-field")
    def _entered(self, event: Input.Submitted) -> None:
        """Take the row under the cursor; where the rows are still those of other words, the first that comes."""
        event.stop()
        if self._pausing is not None:
            self._ask(self._query)
        if self._waits:
            self._takes = True
        else:
            self.list.choose()

    def action_move(self, step: int) -> None:
        self.list.move(step)

    def action_page(self, step: int) -> None:
        self.list.page(step)

    def action_like(self) -> None:
        """Look for labels like the one under the cursor."""
        if self._pausing is None and not self._waits and self.list.cursor < len(self.list.hits):
            hit = self.list.hits[self.list.cursor]
            self._steps.append(Step(self._query, self._like, self.list.cursor))
            self._put("")
            self._ask("", hit.feature)

    def action_leave(self) -> None:
        """Back to what was looked for before; there is none at first, and the page closes."""
        if not self._steps:
            self.dismiss(None)
            return
        step = self._steps.pop()
        self._put(step.query)
        self._ask(*step)

    def _put(self, text: str) -> None:
        """Into the field, without looking for it."""
        with self.field.prevent(Input.Changed):
            self.field.value = text
            self.field.cursor_position = len(text)

    def on_line_list_chosen(self, message: LineList.Chosen) -> None:
        if message.row < len(self.list.hits):
            self.dismiss(self.list.hits[message.row].feature)
