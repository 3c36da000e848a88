"""Labels of the open dictionaries: found by their words as one types, or because they are like another feature's."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input

from engine.protocol import FeatureRef, LabelHit, LabelSearch
from tui.state import State
from tui.text import counted, fit, number, visible
from tui.widgets.bar import Bar
from tui.widgets.field import Field
from tui.widgets.line_list import LineList, PageList

_PAUSE = 0.15
"""Seconds without a key after which what was typed is looked for."""
Seek = Callable[[str, FeatureRef | None], None]


class LabelList(PageList):
    """What was found: feature, how near, label, whose."""

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


class LabelsPage(ModalScreen[FeatureRef | None]):
    """Dismissed with the feature that was taken, or with None."""

    DEFAULT_CSS = """
    LabelsPage { background: $background; }
    LabelsPage #page-title { background: $panel; }
    LabelsPage Field { height: 1; border: none; background: $panel; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close", id="labels.close"),
        Binding("down", "list", "to the list", id="labels.list"),
        Binding("l,right", "like", "like this one", id="labels.like"),
        Binding("slash", "field", "other words", id="labels.field"),
    ]

    def __init__(self, seek: Seek, like: FeatureRef | None = None) -> None:
        super().__init__()
        self._seek, self._like = seek, like
        self._pausing: Timer | None = None
        self._shown: LabelSearch | None = None
        self._asked = False

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.field = Field(id="label-field", placeholder="words of a label, e.g. capital cit")
        self.list = LabelList()
        yield self.heading
        yield self.field
        yield self.list

    def on_mount(self) -> None:
        self.field.display = True
        self.list.empty = " Type some words."
        self._title("Labels")
        if self._like is None:
            self.field.focus()
            self._ask("")
        else:
            self.list.focus()
            self._ask("", self._like)

    def _title(self, text: str) -> None:
        hint = Text("enter take · l like this one · / words · esc close ", self.heading.style_of("dim"))
        self.heading.show(Text(f" {text}", Style(bold=True)), hint)

    # --- asking and showing -------------------------------------------------------------------------------------

    def _ask(self, query: str, like: FeatureRef | None = None) -> None:
        self._asked = True
        self._seek(query, like)

    def follow(self, state: State, old: State) -> None:
        """The state changed: show what was found."""
        if not self._asked or state.found is None or state.found is old.found:
            return
        found = self._shown = state.found
        self.list.hits, self.list.scored = found.hits, found.like is not None
        self.list.cursor = 0
        self.list.empty = f" {self._why_nothing(found)}"
        self.list.rows_changed()
        known = counted(sum(found.labelled.values()), "label", "labels")
        if found.like is not None:
            self._title(f"Labels like {found.like} · {visible(found.query)}")
        elif found.query:
            more = f" of {found.total}" if found.total > len(found.hits) else ""
            self._title(f"Labels · {len(found.hits)}{more}")
        else:
            self._title(f"Labels · {known}")

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
        if self._pausing is not None:
            self._pausing.stop()
        text = event.value
        self._pausing = self.set_timer(_PAUSE, lambda: self._ask(text))

    @on(Input.Submitted, "#label-field")
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.list.focus()

    def action_list(self) -> None:
        self.list.focus()

    def action_field(self) -> None:
        self.field.focus()

    def action_like(self) -> None:
        if self.list.cursor < len(self.list.hits):
            self._ask("", self.list.hits[self.list.cursor].feature)

    def on_line_list_chosen(self, message: LineList.Chosen) -> None:
        if message.row < len(self.list.hits):
            self.dismiss(self.list.hits[message.row].feature)

    def action_leave(self) -> None:
        self.dismiss(None)
