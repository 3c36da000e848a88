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
from tui.text import cell_len, counted, fit, signed, visible
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
        self._longest = 0

    def show(self, chosen: FeatureSet, state: State) -> None:
        """Show a set; where it is the same one, grown, the cursor stays on its feature, wherever that is now."""
        current, row = self.current, self.cursor
        if chosen.name != self.chosen.name:
            self.scroll_home(animate=False)
            current, row = None, 0
        self.chosen, self.marked, self.labels = chosen, frozenset(state.marks), state.labels
        self.empty = " This set is empty."
        self._longest = max((cell_len(visible(str(feature))) for feature in self.features), default=0)
        self.rows_changed()
        self.show_cursor(self.features.index(current) if current in self.features else row)

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
        return self.feature_at(self.cursor)

    def feature_at(self, row: int) -> FeatureRef | None:
        """The feature of a line; None where there is none."""
        members = self.chosen.members
        return members[row].feature if row < len(members) else None

    def draw_header(self, width: int) -> list[Segment]:
        return [Segment(shortened(f"  {visible(self.chosen.rule)}", width))]

    def draw_row(self, row: int, width: int) -> list[Segment]:
        member = self.chosen.members[row]
        size = min(self._longest, max(width // 2, 12))
        effect = "" if member.effect is None else signed(member.effect)
        said = shortened(visible(self.labels.get(str(member.feature), "")), max(width - size - 15, 0))
        return [
            Segment("▌" if self.is_marked(row) else " ", self.style_of("accent")),
            Segment("● " if member.feature in self.marked else "  ", self.style_of("accent")),
            Segment(fit(visible(str(member.feature)), size)),
            Segment(f"{effect:>9}  ", Style(bold=True)),
            Segment(said, self.style_of("dim")),
        ]


class MarkedTable(TableView):
    """A table whose lines show which features are marked."""

    marked: frozenset[FeatureRef] = frozenset()

    @property
    def about(self) -> str:
        """Which line of how many, whether there would be more, and what the column is that rows are sorted by."""
        table, lines = self._table, self.row_count
        if table is None or not lines:
            return ""
        place = f"row {self.place}"
        if table.total is not None and table.total > lines:
            place += f": only {lines:,} of {table.total:,} rows are here"
        if self._sorted is None:
            return f"{place} · < > sort by a column and say what it is"
        name = visible(table.columns[self._sorted].name)
        return f"{place} · sorted by {self.help_of_sorted or name}"

    def sort_by(self, column: int | None, falling: bool | None = None) -> None:
        """As any table, and the page hears of it."""
        super().sort_by(column, falling)
        self.post_message(self.Moved(self, self.cursor))

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
