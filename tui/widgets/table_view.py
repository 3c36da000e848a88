"""A study's table: columns sized to what they hold, sorted by any of them, drawn row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType

from engine.protocol import Cell, Column, FeatureRef, Table
from tui.plots.rows import same_row
from tui.plots.words import NUMBERS, cell_words, feature_in, feature_place
from tui.text import cell_len, fit, visible
from tui.widgets.line_list import LineList


class TableView(LineList):
    """Rows of a table under a header; `Moved` and `Chosen` carry the line, `table_row` says which row that is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "page down", show=False),
        Binding("home,g", "end(False)", "first", show=False),
        Binding("end,G", "end(True)", "last", show=False),
        Binding("left,h", "sideways(-1)", "columns left", show=False),
        Binding("right,l", "sideways(1)", "columns right", show=False),
        Binding("greater_than_sign", "sort(1)", "sort by the next column", show=False),
        Binding("less_than_sign", "sort(-1)", "sort by the column before", show=False),
        Binding("r", "reverse", "reverse the order", show=False),
        Binding("enter", "choose", "take", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._table: Table | None = None
        self._order: Sequence[int] = ()
        self._sorted: int | None = None
        """The column by which rows are sorted; None for the order of the table."""
        self._falling = True
        self._first = 0
        """The first column shown after the one that names a row."""
        self._widths: list[int] = []
        self._feature: int | None = None

    # --- what is shown ------------------------------------------------------------------------------------------

    def show(self, table: Table) -> None:
        """Show a table; where it is the same one, grown, the order stays and the cursor stays on what it was on."""
        before = self._table
        row = self.table_row(self.cursor) if before and before.rows else 0
        self._table = table
        self._feature = feature_place(table)
        self._widths = _widths(table)
        same = before is not None and (before.name, before.columns) == (table.name, table.columns)
        if before is not None and same:
            row = self._found(before, row)
        else:
            self._sorted, self._falling, self._first, row = None, True, 0, 0
        self._sort()
        self.empty = "The table has no rows."
        self.rows_changed()
        self.show_cursor(self._line_of(row) if table.rows else 0)

    def _found(self, before: Table, row: int) -> int:
        """A row of the table as it was, in the table as it is; its number where it is gone."""
        assert self._table is not None
        name = None if self._feature is None else self._table.columns[self._feature].name
        found = same_row(before, row, self._table, name)
        return max(min(row, len(self._table.rows) - 1), 0) if found is None else found

    def _line_of(self, row: int) -> int:
        return self._order.index(row) if row < len(self._order) else 0

    def _sort(self) -> None:
        rows = self._table.rows if self._table else ()
        n = self._sorted
        if n is None:
            self._order = range(len(rows))
            return
        known = [row for row in range(len(rows)) if _is_known(rows[row][n])]
        unknown = [row for row in range(len(rows)) if not _is_known(rows[row][n])]
        known.sort(key=lambda row: _rank(rows[row][n]), reverse=self._falling)
        self._order = known + unknown  # what has no value comes last either way

    def _columns(self, width: int) -> list[int]:
        """The columns with room: the first, then from where one scrolled to as many as fit."""
        if not self._widths:
            return []
        shown, used = [0], 2 + self._size_of(0, width)
        for n in range(1 + self._first, len(self._widths)):
            used += 2 + self._size_of(n, width)
            if used > width and len(shown) > 1:
                break
            if used > width and used - self._size_of(n, width) + self._needed(n) > width:
                break
            shown.append(n)
        return shown

    def _needed(self, n: int) -> int:
        """What a column needs at least: numbers all of it, words a part."""
        return self._widths[n] if self._is_number(n) else min(self._widths[n], _LEAST)

    def _size_of(self, n: int, width: int) -> int:
        """Words give way: to a third of the width, to a half where the table has few columns."""
        if self._is_number(n):
            return self._widths[n]
        most = max(width // (2 if len(self._widths) < 3 else 3), _LEAST)
        return min(self._widths[n], most)

    def _is_number(self, n: int) -> bool:
        return self._table is not None and self._table.columns[n].kind in NUMBERS

    def _laid(self, width: int) -> tuple[list[tuple[int, int]], bool]:
        """Columns with their widths, and whether there are more to the right. Room left over goes to words."""
        columns = self._columns(width)
        room = width - 2
        laid = []
        for n in columns:
            size = max(min(self._size_of(n, width), room), 0)
            laid.append((n, size))
            room -= size + 2
        for place, (n, size) in enumerate(laid):
            more = min(max(room, 0), self._widths[n] - size)
            if more > 0:
                laid[place] = (n, size + more)
                room -= more
        return laid, bool(columns) and columns[-1] < len(self._widths) - 1

    # --- drawing ------------------------------------------------------------------------------------------------

    @property
    def row_count(self) -> int:
        return len(self._order)

    def draw_header(self, width: int) -> list[Segment]:
        if self._table is None:
            return []
        laid, more = self._laid(width)
        parts = ["← " if self._first else "  "]
        for n, size in laid:
            name = visible(self._table.columns[n].name)
            if n == self._sorted:
                name = f"{self._arrow}{name}"
            parts.append(fit(name, size, right=self._is_number(n)) + "  ")
        return [Segment(_ended(fit("".join(parts), width), width, more))]

    def draw_row(self, row: int, width: int) -> list[Segment]:
        if self._table is None:
            return []
        cells = self._table.rows[self._order[row]]
        segments = [Segment("▌ " if self.is_marked(row) else "  ", self.style_of("accent"))]
        laid, _ = self._laid(width)
        for place, (n, size) in enumerate(laid):
            column = self._table.columns[n]
            number = column.kind in NUMBERS
            words = cell_words(cells[n], column)
            if number and cell_len(words) > size:
                words = "…"  # half a number would be another number
            style = self._style_of_cell(cells[n], column)
            end = "" if place == len(laid) - 1 else "  "
            segments.append(Segment(fit(words, size, right=number) + end, style))
        return segments

    def _style_of_cell(self, cell: Cell, column: Column) -> Style | None:
        if cell is None:
            return self.style_of("dim")
        return self.style_of("accent") if column.kind == "feature" else None

    # --- what is under the cursor -------------------------------------------------------------------------------

    def table_row(self, row: int) -> int:
        """The row of the table that a line shows: sorting changes the lines only."""
        return self._order[row]

    def feature_at(self, row: int) -> FeatureRef | None:
        """The feature of a line; None where there is none."""
        if self._table is None or self._feature is None or not 0 <= row < len(self._order):
            return None
        return feature_in(self._table.rows[self._order[row]][self._feature])

    @property
    def current(self) -> FeatureRef | None:
        """The feature under the cursor."""
        return self.feature_at(self.cursor)

    @property
    def detail(self) -> str:
        """The whole row under the cursor, nothing cut: `column value` and so on, for a line or a page."""
        if self._table is None or not self._order:
            return ""
        cells = self._table.rows[self._order[self.cursor]]
        pairs = zip(self._table.columns, cells, strict=True)
        return " · ".join(f"{visible(column.name)} {cell_words(cell, column)}" for column, cell in pairs)

    @property
    def place(self) -> str:
        """Which line of how many, and of how many there would be: `3/120 of 16,000`."""
        if self._table is None or not self._order:
            return ""
        total = self._table.total
        more = f" of {total:,}" if total is not None and total > len(self._order) else ""
        return f"{self.cursor + 1:,}/{len(self._order):,}{more}"

    @property
    def help_of_sorted(self) -> str:
        """What the column is by which rows are sorted: `▼name: …`; "" in the order of the table, or without a help."""
        if self._table is None or self._sorted is None:
            return ""
        column = self._table.columns[self._sorted]
        return f"{self._arrow}{visible(column.name)}: {visible(column.help)}" if column.help else ""

    @property
    def _arrow(self) -> str:
        return "▼" if self._falling else "▲"

    @property
    def hints(self) -> str:
        """Its keys, for a page's footer."""
        return "↑↓ row · ←→ columns · < > sort by · r reverse"

    # --- the user -----------------------------------------------------------------------------------------------

    def sort(self, step: int) -> None:
        """Sort by the next column, or the one before; past the ends is the order of the table."""
        if self._table is None or not self._table.columns:
            return
        places: list[int | None] = [None, *range(len(self._table.columns))]
        self.sort_by(places[(places.index(self._sorted) + step) % len(places)])

    def sort_by(self, column: int | None, falling: bool | None = None) -> None:
        """Sort by a column: numbers from the largest, words from A, unless said otherwise; None as in the table."""
        row = self.table_row(self.cursor) if self._order else 0
        self._sorted = column
        self._falling = falling if falling is not None else column is not None and self._is_number(column)
        self._sort()
        self._reveal_column(column)
        self.rows_changed()
        self.show_cursor(self._line_of(row))

    def _reveal_column(self, column: int | None) -> None:
        if column is None or column == 0:
            return
        self._first = min(self._first, column - 1)
        while self._first < column - 1 and column not in self._columns(self.room):
            self._first += 1

    def reverse(self) -> None:
        """The other way round; the order of the table has no other."""
        if self._sorted is not None:
            self.sort_by(self._sorted, not self._falling)

    def sideways(self, step: int) -> None:
        """Scroll by columns; the first stays, since it names the row."""
        first = max(0, min(self._first + step, len(self._widths) - 2))
        if step > 0 and not self._laid(self.room)[1]:
            return
        if first != self._first:
            self._first = first
            self.refresh()

    def action_sort(self, step: int) -> None:
        self.sort(step)

    def action_reverse(self) -> None:
        self.reverse()

    def action_sideways(self, step: int) -> None:
        self.sideways(step)


def _ended(words: str, width: int, more: bool) -> str:
    return fit(words.rstrip(), width - 2) + " →" if more and width > 2 else words


def _widths(table: Table) -> list[int]:
    """What each column needs: all of its numbers and names, of words those of the first rows."""
    widths = []
    for n, column in enumerate(table.columns):
        rows = table.rows[:_LOOKED_AT] if column.kind in {"text", "token"} else table.rows
        longest = max((cell_len(cell_words(row[n], column)) for row in rows), default=1)
        widths.append(max(longest, min(cell_len(visible(column.name)) + 1, _LONGEST_NAME)))
    return widths


def _is_known(cell: Cell) -> bool:
    return cell is not None and not (isinstance(cell, float) and math.isnan(cell))


def _rank(cell: Cell) -> tuple[int, str, float]:
    """Numbers among themselves, words among themselves, features of one source by their index."""
    if isinstance(cell, str):
        feature = feature_in(cell)
        return (1, feature.source, feature.index) if feature else (1, cell.casefold(), 0)
    return (0, "", cell or 0)


_LEAST = 6
"""Cells of words that are worth showing."""
_LONGEST_NAME = 16
"""Of a column, as far as it makes the column wider than its cells are."""
_LOOKED_AT = 2000
"""Rows that decide how wide words are: measuring ten thousands takes longer than drawing them."""
