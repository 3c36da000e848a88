"""Named sets of features that a study found: their list, and their Neuronpedia quicklists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from engine.protocol import FeatureRef, FeatureSet
from tui.panes.card import Part
from tui.screens.marked import MarkedPage
from tui.state import State
from tui.text import counted, fit, signed, visible
from tui.widgets.bar import shortened
from tui.widgets.line_list import PageList
from tui.widgets.lines import Build
from tui.widgets.table_view import TableView


class SetList(PageList):
    """The features of a set, strongest first: mark, feature, the number by which it came there, label."""

    header_lines = 1

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.chosen = FeatureSet("", ())
        self.marked: frozenset[FeatureRef] = frozenset()
        self.labels: Mapping[str, str] = {}

    def show(self, chosen: FeatureSet, state: State) -> None:
        """Show a set; the cursor stays where it is the same one."""
        if chosen.name != self.chosen.name:
            self.scroll_home(animate=False)
            self.cursor = 0
        self.chosen, self.marked, self.labels = chosen, frozenset(state.marks), state.labels
        self.empty = " This set is empty."
        self.rows_changed()

    @property
    def row_count(self) -> int:
        return len(self.chosen.members)

    @property
    def features(self) -> tuple[FeatureRef, ...]:
        return tuple(member.feature for member in self.chosen.members)

    @property
    def pages(self) -> dict[str, str]:
        """Source → Neuronpedia id, as the study knew them."""
        return {m.feature.source: m.neuronpedia for m in self.chosen.members if m.neuronpedia}

    @property
    def current(self) -> FeatureRef | None:
        """The feature under the cursor."""
        members = self.chosen.members
        return members[self.cursor].feature if self.cursor < len(members) else None

    def draw_header(self, width: int) -> list[Segment]:
        return [Segment(shortened(f"  {visible(self.chosen.rule)}", width))]

    def draw_row(self, row: int, width: int) -> list[Segment]:
        member = self.chosen.members[row]
        size = min(max(len(str(m.feature)) for m in self.chosen.members), max(width // 2, 12))
        effect = "" if member.effect is None else signed(member.effect)
        said = shortened(visible(self.labels.get(str(member.feature), "")), max(width - size - 15, 0))
        return [
            Segment("▌" if self.is_marked(row) else " ", self.style_of("accent")),
            Segment("● " if member.feature in self.marked else "  ", self.style_of("accent")),
            Segment(fit(str(member.feature), size)),
            Segment(f"{effect:>9}  ", Style(bold=True)),
            Segment(said, self.style_of("dim")),
        ]


class MarkedTable(TableView):
    """A table whose lines show which features are marked."""

    marked: frozenset[FeatureRef] = frozenset()

    def draw_row(self, row: int, width: int) -> list[Segment]:
        first, *others = super().draw_row(row, width)
        if self.feature_at(row) in self.marked:
            first = Segment(f"{first.text[:1]}●", self.style_of("accent"))
        return [first, *others]


class QuicklistPage(MarkedPage):
    """The features of a set and the addresses that hold them."""

    def __init__(
        self, state: State, title: str, features: Sequence[FeatureRef], urls: Sequence[str], notes: Sequence[str]
    ) -> None:
        super().__init__(msgspec.structs.replace(state, marks=tuple(features)), urls, notes)
        self._title = f"{visible(title)}{' and its Neuronpedia quicklist' if urls else ''}"

    def lines(self, part: Part) -> Build:
        build = super().lines(part)
        count = Text(counted(len(self._marks), "feature", "features"), Style(bold=True))
        return lambda width: [count, *build(width)[1:]]
