"""Lying bars, one group of lines for each row, each number before its bar.

Drawn by hand: rows scroll, a cursor stands on one of them, and bars end at an eighth of a cell, which plotext's do not.
"""

from __future__ import annotations

from typing import Self

from rich.text import Text

from engine.protocol import Bars, Column, Table
from tui.plots.grid import heading
from tui.plots.paint import Paint, fill
from tui.plots.picture import Picture
from tui.plots.scale import axis_over
from tui.plots.words import cell_words, column_of, numeric, short_signed
from tui.text import cell_len, counted, fit, visible

_EIGHTHS = " ▏▎▍▌▋▊▉"


class BarsPicture(Picture):
    """Rows from the top; what has no room below is counted and scrolls in."""

    moves = "↑↓ row · pgup pgdn"
    view: Bars

    def __init__(self, view: Bars, table: Table) -> None:
        super().__init__(view, table)
        self.cursor = 0
        self._top = self._above = 0
        found = [column_of(table, name) for name in view.values]
        self._columns: list[Column] = [column for column, _ in (c for c in found if c)]
        self._values = [[numeric(cell) for cell in cells] for _, cells in (c for c in found if c)]
        drawn = [value for values in self._values for value in values if value is not None]
        self._axis = axis_over(drawn, zero=True)
        self._negative = any(value < 0 for value in drawn)
        self._names = [self.name_of(row) for row in range(len(table.rows))]
        self._numbers = [
            [self._words(n, row) for n in range(len(self._columns))] for row in range(len(table.rows))
        ]  # fmt: skip

    def _words(self, n: int, row: int) -> str:
        value, column = self._values[n][row], self._columns[n]
        if value is not None and self._negative and column.kind == "number":
            return short_signed(value)
        place = self.table.columns.index(column)
        return cell_words(self.table.rows[row][place], column)

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        many = len(self._columns) > 1
        legend = [(fill(n), paint.of_series(n), visible(c.name)) for n, c in enumerate(self._columns)] if many else []
        lines = heading(self.title, legend, width, height, paint, self.cut)
        self._above = len(lines)
        room = height - len(lines)
        rows, each = len(self._names), len(self._columns)
        shown = max(1, room // each)
        if rows > shown:
            shown = max(1, (room - 1) // each)
        self._top = max(min(self._top, self.cursor, rows - shown), self.cursor - shown + 1, 0)
        last = min(self._top + shown, rows)
        names = min(max(cell_len(name) for name in self._names[self._top : last]), max(width // 3, 6))
        numbers = max(cell_len(words) for words in (w for row in self._numbers[self._top : last] for w in row))
        numbers = min(numbers, max(width - names - 4, 1))
        for row in range(self._top, last):
            lines += self._group(row, names, numbers, width, paint)
        if rows > shown:
            above = f"{self._top:,} above · " if self._top else ""
            lines.append(Text(f" {above}… {counted(rows - last, 'more row', 'more rows')}", paint.dim))
        return lines

    def _group(self, row: int, names: int, numbers: int, width: int, paint: Paint) -> list[Text]:
        here = row == self.cursor
        lines = []
        for n, words in enumerate(self._numbers[row]):
            line = Text.assemble(("▌" if here else " ", paint.accent))
            name = fit(self._names[row], names) if n == 0 else " " * names
            line.append(f"{name} ", paint.bold if here else paint.plain)
            words = words if cell_len(words) <= numbers else "…"  # half a number would be another number
            line.append(f"{fit(words, numbers, right=True)} ", paint.dim)
            line.append_text(self._bar(n, self._values[n][row], width - names - numbers - 3, paint))
            lines.append(line)
        return lines

    def _bar(self, n: int, value: float | None, room: int, paint: Paint) -> Text:
        """Drawn in eighths from zero to the right; to the left, where no such glyphs are, in whole cells."""
        zero = self._axis.place(0.0) or 0.0
        place = self._axis.place(value) if value is not None else None
        left = round(zero * (room - 1)) if self._negative else 0
        rule = "│" if self._negative else ""
        right = room - left - len(rule)
        if room < 2:
            return Text()
        bar = Text(" " * left)
        style = paint.of_series(n)
        if place is not None and place < zero:
            size = min(max(1, round((zero - place) / zero * left)), left)
            bar = Text.assemble(" " * (left - size), (fill(n) * size, style))
        bar.append(rule, paint.dim)
        if place is not None and place > zero:
            length = (place - zero) / (1 - zero) * right
            bar.append(_eighths(length) if n == 0 else fill(n) * max(1, round(length)), style)
        return bar

    @property
    def row(self) -> int | None:
        return self.cursor if self._names else None

    @property
    def status(self) -> str:
        values = " · ".join(
            f"{visible(column.name)} {words}"
            for column, words in zip(self._columns, self._numbers[self.cursor], strict=True)
        )
        return f"{self._names[self.cursor]}  {values}  ({self.cursor + 1:,}/{len(self._names):,})"

    def step(self, count: int) -> bool:
        before = self.cursor
        self.cursor = max(0, min(self.cursor + count, len(self._names) - 1))
        return self.cursor != before

    def go(self, dx: int, dy: int) -> bool:
        return self.step(dy)

    def click(self, x: int, y: int) -> bool:
        row = self._top + (y - self._above) // len(self._columns)
        return y >= self._above and self.step(min(row, len(self._names) - 1) - self.cursor)

    def adopt(self, other: Self) -> None:
        self.cursor = self.row_before(other) or 0
        self._top = other._top + self.cursor - other.cursor  # the bar stays on its line


def _eighths(size: float) -> str:
    whole, part = divmod(max(1, round(size * 8)), 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")
