"""Counts in bins, stacked where there are several, on a linear or logarithmic scale.

Drawn by hand: bins may differ in width, parts of a stack meet inside it, and a cursor stands under a bin; plotext's
rectangles draw both of their edges, so that a count of zero has a height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from rich.text import Text

from engine.protocol import Column, Histogram, Table
from tui.plots.grid import Grid, framed, heading, margin_of
from tui.plots.paint import Paint, fill
from tui.plots.picture import Picture
from tui.plots.scale import Axis, axis_over
from tui.plots.words import cell_words, column_of, numeric, short
from tui.text import visible

_RISING = " ▁▂▃▄▅▆▇"
_SMALLER = 1e6
"""Counts are divided by this before they are summed: the sum of huge ones would not be finite."""


class HistogramPicture(Picture):
    """Bins side by side at their places on the axis."""

    moves = "←→ bin"
    view: Histogram

    def __init__(self, view: Histogram, table: Table) -> None:
        super().__init__(view, table)
        self.cursor = 0
        low, high = column_of(table, view.low), column_of(table, view.high)
        found = [column_of(table, name) for name in view.counts]
        self._columns_of = [column for column, _ in (c for c in found if c)]
        self._names = [visible(column.name) for column in self._columns_of]
        counts = [[max(numeric(cell) or 0.0, 0.0) for cell in cells] for _, cells in (c for c in found if c)]
        self._bins: list[tuple[float, float, list[float], int]] = []
        for row in range(len(table.rows)):
            a = numeric(low[1][row]) if low else None
            b = numeric(high[1][row]) if high else None
            if a is not None and b is not None:
                self._bins.append((min(a, b), max(a, b), [column[row] for column in counts], row))
        self._bins.sort(key=lambda b: b[:2])
        self._x = axis_over([edge for a, b, _, _ in self._bins for edge in (a, b)])
        self._frame = (0, 0, 1, 1)
        """Lines above the bins, cells left of them, and their size."""
        self._y = Axis(0.0, max((self._high(sum(b[2])) for b in self._bins), default=1.0) or 1.0)

    @property
    def is_empty(self) -> bool:
        return not self._bins

    def _high(self, count: float) -> float:
        """A count in the units of the vertical axis: the logarithm is that of 1 + count, so that 0 has a place."""
        count = min(count, 1e300)
        return math.log10(1 + count) if self.view.log else count

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        many = len(self._names) > 1
        legend = [(fill(n), paint.of_series(n), name) for n, name in enumerate(self._names)] if many else []
        scale = ("log counts, split by share" if many else "log counts") if self.view.log else ""
        lines = heading(self.title, legend, width, height, paint, " · ".join(filter(None, (self.cut, scale))))
        rows = max(height - len(lines) - 2, 1)
        y = _LogCounts(self._y.low, self._y.high) if self.view.log else self._y
        margin = margin_of(y, rows, width)
        grid = Grid(width - margin, rows)
        self._frame = (len(lines), margin, grid.width, grid.height)
        for x, n in enumerate(self._columns(grid.width)):
            if n is not None:
                self._draw_column(grid, x, n, paint)
        a, b, _, _ = self._bins[self.cursor]
        centre = self._x.place(a / 2 + b / 2)
        return lines + framed(grid.lines(), self._x, y, margin, width, paint, centre)

    def _columns(self, width: int) -> list[int | None]:
        """Which bin each column shows: the fullest of those that share it."""
        shown: list[int | None] = [None] * width
        for n, (a, b, counts, _) in enumerate(self._bins):
            first = math.floor((self._x.place(a) or 0.0) * width + 1e-9)
            last = math.ceil((self._x.place(b) or 0.0) * width - 1e-9)
            first = min(first, width - 1)
            for x in range(first, min(max(last, first + 1), width)):
                other = shown[x]
                if other is None or sum(self._bins[other][2]) < sum(counts):
                    shown[x] = n
        return shown

    def _draw_column(self, grid: Grid, x: int, n: int, paint: Paint) -> None:
        """As high as the sum of its counts, on either scale, and split by their shares of that sum.

        A bar of one count has at least an eighth of a cell. Of several each has a whole cell at least: the lowest bars
        of a logarithmic scale are drawn higher for that, on a linear scale a bar with too few cells shows its largest.
        """
        counts = self._bins[n][2]
        height = self._high(sum(counts)) / self._y.high * grid.height
        parts = [part for part, count in enumerate(counts) if count > 0]
        if len(parts) == 1:
            self._draw_one(grid, x, height, parts[0], paint)
            return
        least = len(parts) if self.view.log else 1
        room = min(max(round(height), least), grid.height) if parts else 0
        y = grid.height
        for part, size in enumerate(split(counts, room)):
            for _ in range(size):
                y -= 1
                grid.put(x, y, fill(part), paint.of_series(part))

    def _draw_one(self, grid: Grid, x: int, height: float, part: int, paint: Paint) -> None:
        for y in range(grid.height):
            share = min(height - y, 1.0)
            if share <= 0:
                return
            glyph = fill(part) if share > 0.94 else _top(part, share, y == 0)
            grid.put(x, grid.height - 1 - y, glyph, paint.of_series(part))

    @property
    def row(self) -> int | None:
        return self._bins[self.cursor][3] if self._bins else None

    @property
    def status(self) -> str:
        a, b, counts, _ = self._bins[self.cursor]
        pairs = zip(self._columns_of, counts, strict=True)
        words = " · ".join(f"{visible(c.name)} {_count_words(count, c)}" for c, count in pairs)
        return f"{short(a)} … {short(b)}  {words}  (bin {self.cursor + 1:,}/{len(self._bins):,})"

    def step(self, count: int) -> bool:
        before = self.cursor
        self.cursor = max(0, min(self.cursor + count, len(self._bins) - 1))
        return self.cursor != before

    def go(self, dx: int, dy: int) -> bool:
        return self.step(dx)

    def adopt(self, other: Self) -> None:
        """The same bin, or the one that holds the middle of what it was, or the nearest to it."""
        a, b, _, _ = other._bins[other.cursor]
        middle = a / 2 + b / 2

        def farness(n: int) -> tuple[bool, float]:
            low, high, _, _ = self._bins[n]
            return (low, high) != (a, b), max(low - middle, middle - high, 0.0)

        self.cursor = min(range(len(self._bins)), key=farness)

    def click(self, x: int, y: int) -> bool:
        above, left, width, height = self._frame
        if not (above <= y < above + height + 2 and 0 <= x - left < width):
            return False
        shown = self._columns(width)
        places = [k for k, n in enumerate(shown) if n is not None]
        n = shown[min(places, key=lambda k: abs(k - (x - left)))] if places else None
        return n is not None and self.step(n - self.cursor)


def split(counts: Sequence[float], room: int) -> list[int]:
    """Whole cells for counts by their shares; none is left without one that has a count, as far as there is room."""
    total = sum(count / _SMALLER for count in counts)
    shares = [count / _SMALLER / total * room if total > 0 else 0.0 for count in counts]
    order = sorted((n for n, count in enumerate(counts) if count > 0), key=lambda n: -counts[n])
    sizes = [0] * len(counts)
    for n in order[:room]:
        sizes[n] = 1
    for _ in range(room - sum(sizes) if order else 0):
        sizes[max(order, key=lambda n: shares[n] - sizes[n])] += 1
    return sizes


def _count_words(count: float, column: Column) -> str:
    return cell_words(int(count) if count.is_integer() else count, column)


def _top(part: int, share: float, lowest: bool) -> str:
    """The uppermost cell of a bar: by eighths for the first series; of shaded ones whole, or nothing above others."""
    if part == 0:
        return _RISING[max(1, min(round(share * 8), 7))]
    return fill(part) if share >= 0.5 or lowest else " "


class _LogCounts(Axis):
    """The logarithms of 1 + count, with ticks at counts."""

    def ticks(self, most: int) -> list[tuple[float, str]]:
        counts = [0.0, *(10.0**power for power in range(math.floor(self.high) + 1))]
        counts = counts[:: max(1, -(-len(counts) // max(most, 1)))]
        places = [(math.log10(1 + count) / self.high, short(count)) for count in counts]
        return [(place, words) for place, words in places if place <= 1]
