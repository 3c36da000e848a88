"""Lines through points, one for each series; marks tell the series apart."""

from __future__ import annotations

from typing import NamedTuple, Self

from rich.text import Text

from engine.protocol import Cell, Column, Curve, Table
from tui.plots.grid import DOTS, Grid, framed, heading, margin_of
from tui.plots.paint import Paint, mark
from tui.plots.picture import Picture
from tui.plots.rows import same_row
from tui.plots.scale import Axis, axis_over
from tui.plots.strokes import line_through, thinned
from tui.plots.words import cell_name, cell_words, column_of, numeric
from tui.text import counted, visible

_MOST = 24
"""Series drawn: more can be told apart by nobody."""
Seen = tuple[Axis, Axis, int, int]
"""What lines depend on: the section and the size of the grid."""


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
        self._lines: dict[int, tuple[Seen, dict[tuple[int, int], int]]] = {}
        """The dots of a series by cell, as drawn last: the cursor moves more often than the section."""
        self._frame = (0, 0, 1, 1)
        """Lines above the grid, cells left of it, and its size."""

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
        self._frame = (len(lines), margin, grid.width, grid.height)
        here = self._at[0]
        for n in sorted(range(len(drawn)), key=lambda n: n == here):  # the one under the cursor over the others
            self._draw_series(grid, n, paint)
        point = self.series[here][1][self._at[1]]
        place = self._place(point)
        if _inside(place):
            grid.put(*_cell(place, grid), "◉", paint.here)
        return lines + framed(grid.lines(), self._x, self._y, margin, width, paint, place[0])

    def _note(self) -> str:
        words = [self.cut] if self.cut else []
        words += [name for name, log in (("log x", self.view.log_x), ("log y", self.view.log_y)) if log]
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
        for (x, y), bits in self._line(n, grid).items():
            grid.add_dots(x, y, bits, style)
        points = self.series[n][1]
        every = max(1, -(-len(points) * 3 // max(grid.width, 1)))
        for point in points[-n % every :: every]:
            if _inside(place := self._place(point)):
                grid.put(*_cell(place, grid), mark(n), style)

    def _line(self, n: int, grid: Grid) -> dict[tuple[int, int], int]:
        """The line of a series, through no more of its points than the width can show: braille bits by cell."""
        seen = (self._x, self._y, grid.width, grid.height)
        drawn, cells = self._lines.get(n, (None, {}))
        if drawn != seen:
            cells = {}
            high = grid.height * 4
            dots = (_dot(self._place(point), grid) for point in self.series[n][1])
            for x, y in line_through(thinned(dots, grid.width * 2), grid.width * 2, high):
                cell, bit = (x >> 1, grid.height - 1 - (y >> 2)), DOTS[3 - (y & 3)][x & 1]
                cells[cell] = cells.get(cell, 0) | bit
            self._lines[n] = (seen, cells)
        return cells

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
        self._at = self._same_point(other)
        if (other._x, other._y) != other._whole:
            self._x, self._y = other._x, other._y

    def _same_point(self, other: Self) -> tuple[int, int]:
        """The point of the same feature in the same series; where none is named, the one at the same x."""
        name, before = other.series[other._at[0]]
        names = [words for words, _ in self.series]
        series = names.index(name) if name in names else min(other._at[0], len(names) - 1)
        points, old = self.series[series][1], before[other._at[1]]
        if self._feature is not None:
            feature = self.table.columns[self._feature].name
            row = same_row(other.table, old.row, self.table, feature)
            for k, point in enumerate(points):
                if point.row == row:
                    return series, k
        turn = sum(point.x == old.x for point in before[: other._at[1]])
        nearest = min(abs(point.x - old.x) for point in points)
        alike = [k for k, point in enumerate(points) if abs(point.x - old.x) == nearest]
        return series, alike[min(turn, len(alike) - 1)]

    def click(self, x: int, y: int) -> bool:
        above, left, width, height = self._frame
        grid = Grid(width, height)
        seen = [
            (_apart(_cell(place, grid), (x - left, y - above)), n, k)
            for n, (_, points) in enumerate(self.series[:_MOST])
            for k, point in enumerate(points)
            if _inside(place := self._place(point))
        ]
        if not (above <= y < above + height and x >= left and seen):
            return False
        return self._put(*min(seen)[1:])

    def wheel(self, step: int) -> bool:
        return self.zoom(-step)


def _inside(place: tuple[float, float]) -> bool:
    return 0 <= place[0] <= 1 and 0 <= place[1] <= 1


def _beyond(place: float) -> float:
    """How far a section has to move for a place to be in it."""
    return place - 0.5 if not 0 <= place <= 1 else 0.0


def _dot(place: tuple[float, float], grid: Grid) -> tuple[float, float]:
    """A place in dots from the lower left, in the middle of its cell's; far outside brought near enough for floats."""
    x, y = (max(-1e6, min(share, 1e6)) for share in place)
    return 2 * x * (grid.width - 1) + 1, 4 * y * (grid.height - 1) + 2


def _cell(place: tuple[float, float], grid: Grid) -> tuple[int, int]:
    return round(place[0] * (grid.width - 1)), grid.height - 1 - round(place[1] * (grid.height - 1))


def _apart(a: tuple[int, int], b: tuple[int, int]) -> int:
    """The squared distance of two cells: a cell is twice as high as it is wide."""
    return (a[0] - b[0]) ** 2 + 4 * (a[1] - b[1]) ** 2
