"""A grid of values: numbers on colours where there is room, else shades that say the same without colour."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Self

from rich.style import Style
from rich.text import Text

from engine.protocol import Cell, Column, Heat, Table
from themes.palettes import LEVELS
from tui.plots.grid import Legend, heading
from tui.plots.paint import SHADES, Paint
from tui.plots.picture import Picture
from tui.plots.words import cell_name, cell_words, column_of, numeric, short, short_signed
from tui.text import cell_len, counted, fit, visible

_PAIRS = ("░ ", "░░", "░▒", "▒▒", "▒▓", "▓▓", "▓█", "██")
"""Eight levels where a cell is two wide."""
_COLOURED = 1500
"""Cells up to which each level has its colour: of more than that the shades have to do, for the sake of slow lines."""
_BELOW = "-=≡≣"
"""Four levels under zero where a cell is one wide."""


class HeatPicture(Picture):
    """Rows and columns in the order first met; the cell under the cursor is told exactly."""

    moves = "arrows cell · pgup pgdn"
    view: Heat

    def __init__(self, view: Heat, table: Table) -> None:
        super().__init__(view, table)
        rows, columns = column_of(table, view.row), column_of(table, view.column)
        values = column_of(table, view.value)
        self.at = (0, 0)
        """Row and column under the cursor."""
        self._corner = (0, 0)
        self._rows: dict[Cell, int] = {}
        self._columns: dict[Cell, int] = {}
        self._cells: dict[tuple[int, int], int] = {}
        """The row of the table by place; of several the last."""
        self._hidden = 0
        """Rows of the table over which a later one of the same place is drawn."""
        self._frame = (0, 0, 1, 1, 1)
        """Lines above the cells, columns left of them, width of a cell, and how many are shown down and across."""
        self._value: list[float | None] = []
        if not (rows and columns and values):
            return
        self._kind = values[0]
        self._exact = values[1]
        self._value = [numeric(cell) for cell in values[1]]
        for n, (row, column) in enumerate(zip(rows[1], columns[1], strict=True)):
            y = self._rows.setdefault(_key(row), len(self._rows))
            x = self._columns.setdefault(_key(column), len(self._columns))
            self._hidden += (y, x) in self._cells
            self._cells[y, x] = n
        self._row_names, self._column_names = _names(self._rows, rows[0]), _names(self._columns, columns[0])
        drawn = [value for n in self._cells.values() if (value := self._value[n]) is not None]
        self._low, self._high = min(drawn, default=0.0), max(drawn, default=0.0)
        self._most = max(abs(self._low), abs(self._high))
        words = (self._short(value) for value in (self._low, self._high, *drawn[:2000]))
        self._number_size = max((cell_len(w) for w in words), default=1)

    @property
    def is_empty(self) -> bool:
        return not self._cells

    def _short(self, value: float) -> str:
        return short_signed(value) if self.view.diverging else short(value)

    def level(self, value: float) -> int:
        """1…8 from the lowest to the highest; diverging −8…8 around zero."""
        if self.view.diverging:
            steps = min(LEVELS, math.ceil(abs(value) / self._most * LEVELS)) if self._most > 0 else 0
            return -steps if value < 0 else steps
        span = self._high / 2 - self._low / 2  # halves: differences of huge numbers are not finite
        share = (value / 2 - self._low / 2) / span if span > 0 else 0.5
        return 1 + min(LEVELS - 1, max(0, math.floor(share * LEVELS)))

    # --- drawing ------------------------------------------------------------------------------------------------

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        hidden = f"{counted(self._hidden, 'value', 'values')} under a later one" if self._hidden else ""
        note = " · ".join(filter(None, (self.cut, hidden)))
        lines = heading(self.title, self._legend(paint), width, height, paint, note)
        names = min(max(cell_len(name) for name in self._row_names), max(width // 4, 4))
        room = max(width - names - 1, 1)
        each = room // len(self._column_names)
        numbers = each > self._number_size
        size = min(each, self._number_size + 2) if numbers else max(1, min(each, 2))
        across = min(max(room // size, 1), len(self._column_names))
        down = max(height - len(lines) - 1, 1)
        top = _scrolled(self._corner[0], self.at[0], down, len(self._row_names))
        left = _scrolled(self._corner[1], self.at[1], across, len(self._column_names))
        self._corner = (top, left)
        self._frame = (len(lines) + 1, names + 1, size, down, across)
        few = across * down <= _COLOURED
        more_right, more_below = left + across < len(self._column_names), top + down < len(self._row_names)
        lines.append(self._header(names, left, across, size, width, more_right, paint))
        for y in range(top, min(top + down, len(self._row_names))):
            name = fit(self._row_names[y], names)
            line = Text.assemble((name, paint.bold if y == self.at[0] else paint.dim), " ")
            if more_below and y == top + down - 1:
                line = Text.assemble(line[:-1], ("↓", paint.accent))
            elif top and y == top:
                line = Text.assemble(line[:-1], ("↑", paint.accent))
            for x in range(left, left + across):
                line.append_text(self._cell(y, x, size, numbers, few, paint))
            lines.append(line)
        return lines

    def _legend(self, paint: Paint) -> Legend:
        if self.view.diverging:
            most = short(self._most)
            return [("− " + _BELOW, paint.negative, f"to −{most}"), ("+ " + SHADES, paint.positive, f"to +{most}")]
        ends: Legend = [("░", paint.ink[0], short(self._low)), ("█", paint.ink[-1], short(self._high))]
        return ends if self._low < self._high else ends[:1]

    def _header(
        self, names: int, left: int, across: int, size: int, width: int, more: bool, paint: Paint
    ) -> Text:  # fmt: skip
        """Names of columns, of as many as have room; that of the cursor always."""
        room = min(across * size, width - names - 1)
        every = max(1, -(-6 // size)) if size < 6 else 1
        line = Text(" " * names + ("←" if left else " "), paint.dim)
        column = 0
        while column < across:
            step = min(every, across - column)
            cells = min(step * size, room - column * size)
            if cells <= 0:
                break
            here = column <= self.at[1] - left < column + step
            name = self._column_names[self.at[1] if here else left + column]
            line.append(fit(name, cells - 1) + " " if cells > 1 else fit(name, 1), paint.bold if here else None)
            column += step
        if more:
            line = Text.assemble(line[: max(width - 1, 0)])
            line.append("→", paint.accent)
        return line

    def _cell(self, y: int, x: int, size: int, numbers: bool, few: bool, paint: Paint) -> Text:
        row = self._cells.get((y, x))
        value = self._value[row] if row is not None else None
        here = (y, x) == self.at
        if value is None:
            return Text(fit("·" if row is None else "–", size, right=numbers), paint.here if here else paint.dim)
        level = self.level(value)
        style = paint.here if here else self._style(level, numbers, few, paint)
        if numbers:
            return Text(fit(self._short(value), size - 1, right=True) + " ", style)
        shade = _shade(level, size, self.view.diverging)
        return Text("◉" + shade[1:] if here else shade, style)

    def _style(self, level: int, numbers: bool, few: bool, paint: Paint) -> Style:
        if self.view.diverging:
            if level == 0:
                return paint.dim
            colour = paint.negative if level < 0 else paint.positive
            return colour + Style(bold=True) if few and abs(level) > LEVELS // 2 else colour
        if not few and not numbers:
            return paint.plain
        return (paint.heat if numbers else paint.ink)[level - 1]

    # --- the cursor ---------------------------------------------------------------------------------------------

    @property
    def row(self) -> int | None:
        return self._cells.get(self.at)

    @property
    def status(self) -> str:
        row = self._cells.get(self.at)
        words = "no row" if row is None else cell_words(self._exact[row], self._kind)
        value = self._value[row] if row is not None else None
        exact = f" ({value:.6g})" if value is not None and f"{value:.6g}" != words else ""
        names = f"{self._row_names[self.at[0]]} × {self._column_names[self.at[1]]}"
        return f"{visible(self.view.value)} {words}{exact}  {names}"

    def step(self, count: int) -> bool:
        """Along the rows of the grid: a page is so many of them."""
        return self.go(0, count)

    def go(self, dx: int, dy: int) -> bool:
        before = self.at
        y = max(0, min(self.at[0] + dy, len(self._row_names) - 1))
        self.at = (y, max(0, min(self.at[1] + dx, len(self._column_names) - 1)))
        return self.at != before

    def adopt(self, other: Self) -> None:
        rows, columns = list(other._rows), list(other._columns)
        y = self._rows.get(rows[other.at[0]], min(other.at[0], len(self._rows) - 1))
        x = self._columns.get(columns[other.at[1]], min(other.at[1], len(self._columns) - 1))
        self.at = (y, x)
        self._corner = (other._corner[0] + y - other.at[0], other._corner[1] + x - other.at[1])

    def click(self, x: int, y: int) -> bool:
        above, left, size, down, across = self._frame
        row, column = y - above, (x - left) // size
        if not (0 <= row < down and 0 <= column < across):
            return False
        return self.go(self._corner[1] + column - self.at[1], self._corner[0] + row - self.at[0])


def _key(cell: Cell) -> Cell:
    """A cell as a key: a number that is none is not even like itself."""
    return "NaN" if isinstance(cell, float) and math.isnan(cell) else cell


def _names(cells: Iterable[Cell], column: Column) -> list[str]:
    """Cells as words, numbers with all of their digits where different ones would read the same."""
    found = list(cells)
    words = [cell_name(cell, column) for cell in found]
    seen = Counter(words)
    return [
        f"{cell!r}" if seen[name] > 1 and isinstance(cell, float) else name
        for cell, name in zip(found, words, strict=True)
    ]


def _scrolled(first: int, cursor: int, room: int, count: int) -> int:
    """The first of `room` things shown, moved only as far as the cursor needs."""
    first = min(max(first, cursor - room + 1), cursor)
    return max(0, min(first, count - room))


def _shade(level: int, size: int, diverging: bool) -> str:
    if level == 0:
        return fit("·", size)
    four = SHADES[(abs(level) - 1) // 2]
    if size == 1:
        return _BELOW[(abs(level) - 1) // 2] if level < 0 else four
    if diverging:
        return ("−" if level < 0 else "+") + four
    return _PAIRS[level - 1]
