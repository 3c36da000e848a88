"""Lines through points, one for each series; plotext draws the lines, marks tell the series apart."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Self

from rich.text import Text

from engine.protocol import Cell, Column, Curve, Table
from tui.plots.grid import Grid, framed, heading, margin_of
from tui.plots.paint import Paint, mark
from tui.plots.picture import Picture
from tui.plots.scale import Axis, axis_over
from tui.plots.words import cell_name, cell_words, column_of, numeric
from tui.text import counted, visible

_BRAILLE = 0x2800
_MOST = 24
"""Series drawn: more can be told apart by nobody."""
Places = tuple[tuple[float, float], ...]


class Point(NamedTuple):
    """A point of a series, and the row of the table it comes from."""

    x: float
    y: float
    row: int
    words: str
    """The value as the table says it."""


class CurvePicture(Picture):
    """Series over a common axis; the cursor goes along one and changes to another."""

    moves = "←→ point · ↑↓ series · + - zoom · ⇧arrows pan · 0 all"
    view: Curve

    def __init__(self, view: Curve, table: Table) -> None:
        super().__init__(view, table)
        self.series: list[tuple[str, list[Point]]] = []
        self._left_out = 0
        self._read()
        points = [point for _, series in self.series for point in series]
        self._whole = (axis_over([p.x for p in points], log=view.log_x), self._rising([p.y for p in points]))
        self._x, self._y = self._whole
        self._at = (0, 0)
        """Series and point under the cursor."""

    def _rising(self, ys: list[float]) -> Axis:
        """The vertical axis: from zero where the values are not far from it."""
        axis = axis_over(ys, log=self.view.log_y)
        near = not self.view.log_y and bool(ys) and 0 <= min(ys) < max(ys) / 2
        return axis_over(ys, zero=True) if near else axis

    def _read(self) -> None:
        x = column_of(self.table, self.view.x)
        groups = column_of(self.table, self.view.series) if self.view.series else None
        found: dict[tuple[str, Cell], list[Point]] = {}
        for name in self.view.y:
            if x is None or (y := column_of(self.table, name)) is None:
                continue
            for row, (a, b) in enumerate(zip(map(numeric, x[1]), map(numeric, y[1]), strict=True)):
                if a is None or b is None or (self.view.log_x and a <= 0) or (self.view.log_y and b <= 0):
                    self._left_out += 1
                    continue
                found.setdefault((name, groups[1][row] if groups else None), []).append(
                    Point(a, b, row, cell_words(y[1][row], y[0]))
                )
        for (name, cell), points in found.items():
            words = self._series_name(name, groups[0] if groups else None, cell)
            self.series.append((words, sorted(points, key=lambda p: p.x)))

    def _series_name(self, name: str, column: Column | None, cell: Cell) -> str:
        if column is None:
            return visible(name)
        group = cell_name(cell, column)
        return f"{visible(name)} {group}" if len(self.view.y) > 1 else group

    @property
    def is_empty(self) -> bool:
        return not self.series

    # --- drawing ------------------------------------------------------------------------------------------------

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        drawn = self.series[:_MOST]
        legend = [(mark(n), paint.of_series(n), name) for n, (name, _) in enumerate(drawn)]
        lines = heading(self.title, legend if len(legend) > 1 else [], width, height, paint, self._note())
        rows = max(height - len(lines) - 2, 1)
        margin = margin_of(self._y, rows, width)
        grid = Grid(width - margin, rows)
        here = self._at[0]
        for n in sorted(range(len(drawn)), key=lambda n: n == here):  # the one under the cursor over the others
            self._draw_series(grid, n, paint)
        point = self.series[here][1][self._at[1]]
        place = self._place(point)
        if _inside(place):
            grid.put(*_cell(place, grid), "◉", paint.here)
        return lines + framed(grid.lines(), self._x, self._y, margin, width, paint, place[0])

    def _note(self) -> str:
        words = [name for name, log in (("log x", self.view.log_x), ("log y", self.view.log_y)) if log]
        if self._left_out:
            words.append(f"{counted(self._left_out, 'point', 'points')} without a place")
        if len(self.series) > _MOST:
            words.append(f"{len(self.series) - _MOST} more series")
        return " · ".join(words)

    def _place(self, point: Point) -> tuple[float, float]:
        x, y = self._x.place(point.x), self._y.place(point.y)
        return (x if x is not None else -1.0, y if y is not None else -1.0)

    def _draw_series(self, grid: Grid, n: int, paint: Paint) -> None:
        style = paint.of_series(n)
        places = tuple(_tame(self._place(point)) for point in self.series[n][1])
        for y, line in enumerate(_line(places, grid.width, grid.height)):
            for x, glyph in enumerate(line):
                if glyph != " ":
                    grid.add_dots(x, y, ord(glyph) - _BRAILLE, style)
        every = max(1, -(-len(places) * 3 // max(grid.width, 1)))
        for k, place in enumerate(places):
            if (k + n) % every == 0 and _inside(place):
                grid.put(*_cell(place, grid), mark(n), style)

    # --- the cursor ---------------------------------------------------------------------------------------------

    @property
    def _point(self) -> Point:
        return self.series[self._at[0]][1][self._at[1]]

    @property
    def row(self) -> int | None:
        return self._point.row

    @property
    def status(self) -> str:
        name, points = self.series[self._at[0]]
        found = column_of(self.table, self.view.x)
        x = cell_words(found[1][self._point.row], found[0]) if found else ""
        where = f"{visible(self.view.x)} {x}  {self._point.words}"
        return f"{mark(self._at[0])} {name}  {where}  (point {self._at[1] + 1:,}/{len(points):,})"

    def step(self, count: int) -> bool:
        series, point = self._at
        point = max(0, min(point + count, len(self.series[series][1]) - 1))
        return self._put(series, point)

    def go(self, dx: int, dy: int) -> bool:
        if dy == 0:
            return self.step(dx)
        series = max(0, min(self._at[0] + dy, len(self.series) - 1))
        x = self._point.x
        points = self.series[series][1]
        return self._put(series, min(range(len(points)), key=lambda k: abs(points[k].x - x)))

    def _put(self, series: int, point: int) -> bool:
        moved = (series, point) != self._at
        self._at = (series, point)
        x, y = self._place(self._point)
        self._x = self._x.moved(_beyond(x))
        self._y = self._y.moved(_beyond(y))
        return moved

    # --- the section --------------------------------------------------------------------------------------------

    def zoom(self, step: int) -> bool:
        x, y = self._place(self._point)
        if not _inside((x, y)):
            x = y = 0.5
        before = (self._x, self._y)
        self._x, self._y = self._x.zoomed(1.5**step, x), self._y.zoomed(1.5**step, y)
        return (self._x, self._y) != before

    def pan(self, dx: int, dy: int) -> bool:
        self._x, self._y = self._x.moved(dx / 8), self._y.moved(-dy / 8)
        return True

    def reset(self) -> bool:
        moved = (self._x, self._y) != self._whole
        self._x, self._y = self._whole
        return moved

    def adopt(self, other: Self) -> None:
        series = min(other._at[0], len(self.series) - 1)
        self._at = (series, min(other._at[1], len(self.series[series][1]) - 1))
        if (other._x, other._y) != other._whole:
            self._x, self._y = other._x, other._y


def _inside(place: tuple[float, float]) -> bool:
    return 0 <= place[0] <= 1 and 0 <= place[1] <= 1


def _beyond(place: float) -> float:
    """How far a section has to move for a place to be in it."""
    return place - 0.5 if not 0 <= place <= 1 else 0.0


def _tame(place: tuple[float, float]) -> tuple[float, float]:
    """Places far outside, brought near enough for lines to be drawn."""
    return (max(-1e6, min(place[0], 1e6)), max(-1e6, min(place[1], 1e6)))


def _cell(place: tuple[float, float], grid: Grid) -> tuple[int, int]:
    return round(place[0] * (grid.width - 1)), grid.height - 1 - round(place[1] * (grid.height - 1))


@functools.lru_cache(maxsize=64)
def _line(places: Places, width: int, height: int) -> tuple[str, ...]:
    """The line through places of the unit square in braille, by plotext: `height` rows of `width` cells.

    plotext keeps one figure for the process, so it is built at once.
    """
    import plotext

    if len(places) < 2 or not all(math.isfinite(number) for place in places for number in place):
        return ()
    xs, ys = zip(*places, strict=True)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.canvas("default")
    figure.axes(False)
    figure.draw(figure.signal(list(xs), list(ys), marker="braille").lines(True))
    for side in ("x", "y"):
        figure.ruler(side).ticks([], [])
        figure.ruler(side).lim(0, 1)
    drawn = plotext.uncolorize(figure.build().string()).splitlines()[:height]
    return tuple("".join(c if _BRAILLE < ord(c) < _BRAILLE + 256 else " " for c in line[:width]) for line in drawn)
