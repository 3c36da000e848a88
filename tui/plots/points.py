"""The points of a scatter: read from a table, grouped, and projected as they are seen from a side."""

from __future__ import annotations

import math
from collections import Counter

from engine.protocol import Cell, Column, Scatter, Table
from tui.plots.paint import MARKS, OTHER
from tui.plots.words import NUMBERS, cell_name, cell_words, column_of, numeric, short
from tui.text import visible

MOST = 6
"""Groups with a mark and a colour of their own."""
_ALIKE = 4.0
"""Axes of three dimensions share one unit where their ranges differ by less than this factor."""


class Points:
    """Coordinates scaled to −1…1, with the rows they come from and their groups."""

    def __init__(self, view: Scatter, table: Table) -> None:
        names = [view.x, view.y, *([view.z] if view.z else [])]
        columns = [column_of(table, name) for name in names]
        self.is_solid = view.z is not None
        self.names = names
        self.rows: list[int] = []
        """The row of each point."""
        self.values: list[tuple[float, ...]] = []
        """Coordinates as the table has them."""
        if all(columns):
            for row, cells in enumerate(zip(*(cells for _, cells in (c for c in columns if c)), strict=True)):
                values = [value for cell in cells if (value := numeric(cell)) is not None]
                if len(values) == len(names):
                    self.rows.append(row)
                    self.values.append(tuple(values))
        self.left_out = len(table.rows) - len(self.rows)
        self._columns = [column for column, _ in (c for c in columns if c)]
        self._all, self._rows = table.columns, table.rows
        self.scaled = _scaled(self.values, len(names), together=self.is_solid)
        self.group_names: dict[int, str] = {}
        """What each number of a group stands for."""
        self.groups: list[int] = [0] * len(self.rows)
        """The number of each point's group, MOST for those that share the last mark."""
        grouping = column_of(table, view.group) if view.group else None
        if grouping is not None:
            self._group(*grouping)
        self.paths = self._paths(column_of(table, view.path) if view.path else None)

    def _group(self, column: Column, cells: tuple[Cell, ...]) -> None:
        mine = [cells[row] for row in self.rows]
        if column.kind in NUMBERS and len(set(mine)) > MOST:
            self._ranges(mine)
            return
        common = [cell for cell, _ in Counter(mine).most_common(MOST)]
        order = [cell for cell in dict.fromkeys(mine) if cell in set(common)]
        numbers = {cell: n for n, cell in enumerate(order)}
        self.groups = [numbers.get(cell, MOST) for cell in mine]
        self.group_names = {n: cell_name(cell, column) for n, cell in enumerate(order)}
        others = len(set(mine)) - len(order)
        if others:
            self.group_names[MOST] = f"{others} others"

    def _ranges(self, cells: list[Cell]) -> None:
        """Many numbers, as groups of about equal size by their ranges; what has no number is a group of its own."""
        values = [numeric(cell) for cell in cells]
        known = sorted(value for value in values if value is not None)
        ends = sorted({known[min(len(known) - 1, (n + 1) * len(known) // MOST)] for n in range(MOST)}) if known else []
        self.groups = [
            MOST if value is None else next(n for n, end in enumerate(ends) if value <= end) for value in values
        ]
        starts = [*known[:1], *ends[:-1]]
        self.group_names = {n: f"{short(a)}…{short(b)}" for n, (a, b) in enumerate(zip(starts, ends, strict=True))}
        if len(known) < len(cells):
            self.group_names[MOST] = "none"

    def words_of(self, point: int) -> str:
        """The coordinates as the table says them."""
        cells = self._rows[self.rows[point]]
        places = [self._all.index(column) for column in self._columns]
        return " · ".join(
            f"{visible(column.name)} {cell_words(cells[place], column)}"
            for column, place in zip(self._columns, places, strict=True)
        )

    @property
    def reach(self) -> float:
        """The distance of the farthest point from the centre, about which solid points turn."""
        return max((math.hypot(*point) for point in self.scaled), default=1.0) or 1.0

    def mark(self, group: int) -> str:
        return OTHER if group >= MOST else MARKS[group]

    def _paths(self, column: tuple[Column, tuple[Cell, ...]] | None) -> list[tuple[int, int]]:
        """Pairs of points to be joined: those of a path that follow one another."""
        last: dict[Cell, int] = {}
        joined = []
        for point, row in enumerate(self.rows):
            if column is None or (cell := column[1][row]) is None:
                continue
            if cell in last:
                joined.append((last[cell], point))
            last[cell] = point
        return joined

    def projected(self, yaw: float, pitch: float) -> tuple[list[float], list[float], list[float]]:
        """Across, up and towards the eye, orthographic, turned by radians; flat points have no depth."""
        if not self.is_solid:
            return [p[0] for p in self.scaled], [p[1] for p in self.scaled], []
        return turned(self.scaled, yaw, pitch)


def turned(points: list[tuple[float, ...]], yaw: float, pitch: float) -> tuple[list[float], list[float], list[float]]:
    """Points in three dimensions after a turn about the upright axis and one about the level one, in radians."""
    a, b, c, d = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    across = [x * a + z * b for x, _, z in points]
    deep = [z * a - x * b for x, _, z in points]
    up = [p[1] * c - w * d for p, w in zip(points, deep, strict=True)]
    near = [p[1] * d + w * c for p, w in zip(points, deep, strict=True)]
    return across, up, near


def _scaled(values: list[tuple[float, ...]], dimensions: int, *, together: bool) -> list[tuple[float, ...]]:
    """Each dimension from −1 to 1; in one unit where they are `together` and their ranges alike."""
    if not values:
        return []
    ends = [(min(v[d] for v in values), max(v[d] for v in values)) for d in range(dimensions)]
    halves = [high / 2 - low / 2 for low, high in ends]  # halves: differences of huge numbers are not finite
    if together and min(halves) > 0 and max(halves) / min(halves) < _ALIKE:
        halves = [max(halves)] * dimensions
    columns = []
    for d, (low, high) in enumerate(ends):
        centre, half = low / 2 + high / 2, halves[d]
        columns.append([_unit(v[d], centre, half) for v in values])
    return list(zip(*columns, strict=True))


def _unit(value: float, centre: float, half: float) -> float:
    if half <= 0 or not math.isfinite(share := (value / 2 - centre / 2) / half * 2):
        return 0.0
    return max(-1.0, min(share, 1.0))
