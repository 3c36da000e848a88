"""Points in two or three dimensions: zoomed, moved, turned, and walked through with a cursor.

Drawn by hand: what plotext draws cannot be asked which point lies in a cell, and counts nothing where many do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from rich.text import Text

from engine.protocol import Scatter, Table
from tui.plots.grid import Grid, framed, heading, margin_of
from tui.plots.paint import Paint
from tui.plots.picture import Picture
from tui.plots.points import Points, turned
from tui.plots.scale import Axis, axis_between
from tui.plots.scatter_ink import Ink, legend_of
from tui.text import counted

_CLOSER = 1.35
_NEAREST, _FARTHEST = 60, -4
_TURN = math.pi / 24
_ROOM = 1.04
"""Half the section over the farthest point."""


@dataclass(frozen=True)
class Camera:
    """Which part is seen, and from where."""

    x: float = 0.0
    y: float = 0.0
    steps: int = 0
    """Of zoom."""
    yaw: float = 0.0
    pitch: float = 0.0

    @property
    def size(self) -> float:
        """Of the section, as a share of the whole."""
        return float(_CLOSER**-self.steps)


_FRONT = Camera()
_ASLANT = Camera(yaw=math.pi / 6, pitch=math.pi / 9)


class ScatterPicture(Picture):
    """Points by their marks, dots where they are many, numbers of what is under the cursor."""

    view: Scatter

    def __init__(self, view: Scatter, table: Table) -> None:
        super().__init__(view, table)
        self.points = Points(view, table)
        solid = " · < > , . turn" if self.points.is_solid else ""
        self.moves = f"arrows nearest · n p next · + - zoom · ⇧arrows pan{solid} · 0 all"
        self._reach = self.points.reach
        self.cursor = 0
        self._start = _ASLANT if self.points.is_solid else _FRONT
        self.camera = self._start
        self._seen_from: tuple[float, float] | None = None
        self._us: list[float] = []
        self._vs: list[float] = []
        self._near: list[float] = []
        self._aspect = (1.0, 1.0)
        self._cells = (80, 24)
        self._frame = (0, 0, 80, 24)
        """Lines above the points, cells left of them, and their size."""
        self._ink: tuple[object, Grid, Ink] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.points.rows

    # --- what is seen -------------------------------------------------------------------------------------------

    def _project(self) -> None:
        side = (self.camera.yaw, self.camera.pitch)
        if side != self._seen_from:
            self._seen_from = side
            self._us, self._vs, self._near = self.points.projected(*side)

    def _directions(self) -> list[tuple[float, float]]:
        """Where the ends of the three axes are seen."""
        if not self.points.is_solid:
            return []
        across, up, _ = turned([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], self.camera.yaw, self.camera.pitch)
        return list(zip(across, up, strict=True))

    def _section(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in projected units."""
        size = self.camera.size * _ROOM
        half_u, half_v = (a * size for a in self._aspect)
        return self.camera.x - half_u, self.camera.x + half_u, self.camera.y - half_v, self.camera.y + half_v

    def _axes(self) -> tuple[Axis, Axis]:
        """The section in the units of the table; turned points have none, so theirs are left bare."""
        left, right, bottom, top = self._section()
        if self.points.is_solid:
            return _Bare(left, right), _Bare(bottom, top)
        ends = [(min(v[d] for v in self.points.values), max(v[d] for v in self.points.values)) for d in (0, 1)]
        axes = []
        for (low, high), a, b in zip(ends, (left, bottom), (right, top), strict=True):
            half = high / 2 - low / 2
            centre = low / 2 + high / 2
            half = half if half > 0 else max(abs(centre) / 2, 0.5)
            axes.append(axis_between(centre + a * half, centre + b * half))
        return axes[0], axes[1]

    def body(self, width: int, height: int, paint: Paint) -> list[Text]:
        self._project()
        legend = legend_of(self.points, paint)
        lines = heading(self.title, legend, width, height, paint, self._note())
        rows = max(height - len(lines) - 2, 1)
        x, y = self._axes()
        margin = 1 if self.points.is_solid else margin_of(y, rows, width)
        columns = max(width - margin, 1)
        self._fit(columns, rows)
        x, y = self._axes()
        body = self._drawn(columns, rows, paint)
        place = self._cell(self.cursor)
        caret = None
        if place is not None:
            caret = place[0] / max(columns - 1, 1)
            body[place[1]] = _over(body[place[1]], place[0], "◉", paint)
        self._frame = (len(lines), margin, columns, rows)
        framing = framed(body, x, y, margin, width, paint, caret)
        return [*lines, *framing]

    def _fit(self, columns: int, rows: int) -> None:
        """Solid things keep their shape: a cell is twice as high as it is wide."""
        self._cells = (columns, rows)
        self._aspect = (1.0, 1.0)
        if self.points.is_solid:
            reach, wide = self._reach, columns / (2 * rows)
            self._aspect = (reach * max(wide, 1.0), reach * max(1 / wide, 1.0))

    def _drawn(self, columns: int, rows: int, paint: Paint) -> list[Text]:
        """The picture without the cursor, which changes more often."""
        key = (self.camera, columns, rows, id(paint))
        if self._ink is None or self._ink[0] != key:
            grid = Grid(columns, rows)
            seen = (self._us, self._vs, self._near)
            ink = Ink(self.points, seen, self._directions(), self._section(), grid)
            ink.draw(paint)
            self._ink = (key, grid, ink)
        return self._ink[1].lines()

    def _note(self) -> str:
        words = [counted(len(self.points.rows), "point", "points")]
        total = self.table.total
        if total is not None and total > len(self.table.rows):
            words.append(f"of {total:,}")
        if self.points.left_out:
            words.append(f"{self.points.left_out:,} without a place")
        if self.camera.steps:
            words.append(f"×{1 / self.camera.size:.3g}")
        return " · ".join(words)

    def _cell(self, point: int) -> tuple[int, int] | None:
        """The cell of a point; None outside the section."""
        left, right, bottom, top = self._section()
        x = (self._us[point] - left) / (right - left)
        y = (self._vs[point] - bottom) / (top - bottom)
        if not (0 <= x < 1 and 0 <= y < 1):
            return None
        columns, rows = self._cells
        return int(x * columns), rows - 1 - int(y * rows)

    # --- the cursor ---------------------------------------------------------------------------------------------

    @property
    def row(self) -> int | None:
        return self.points.rows[self.cursor]

    @property
    def status(self) -> str:
        row = self.points.rows[self.cursor]
        where = self.points.words_of(self.cursor)
        group = ""
        if self.points.group_names:
            number = self.points.groups[self.cursor]
            group = f"  {self.points.mark(number)} {self.points.group_names[number]}"
        place = self._cell(self.cursor) if self._us else None
        here = self._ink[2].count_at(place) - 1 if self._ink and place else 0
        others = f"  +{here:,} here" if here > 0 else ""
        return f"{self.name_of(row)}  {where}{group}{others}"

    def step(self, count: int) -> bool:
        return self._put(max(0, min(self.cursor + count, len(self.points.rows) - 1)))

    def go(self, dx: int, dy: int) -> bool:
        """To the nearest point in a direction: what lies aside counts as three times as far."""
        self._project()
        left, right, bottom, top = self._section()
        across, up = 2 * self._cells[0] / (right - left), 4 * self._cells[1] / (top - bottom)
        u, v = self._us[self.cursor], self._vs[self.cursor]
        least = 2.0 if dx else 4.0  # dots of a cell: points in the same one are told apart by zooming
        best, found = math.inf, self.cursor
        for point, (a, b) in enumerate(zip(self._us, self._vs, strict=True)):
            along = (a - u) * across * dx - (b - v) * up * dy
            if along >= least:
                aside = (b - v) * up if dx else (a - u) * across
                cost = along + 3 * abs(aside)
                if cost < best:
                    best, found = cost, point
        return self._put(found)

    def _put(self, point: int) -> bool:
        moved = point != self.cursor
        self.cursor = point
        self._project()
        if self._cell(point) is None:
            self.camera = replace(self.camera, x=self._us[point], y=self._vs[point])
        return moved

    # --- the section --------------------------------------------------------------------------------------------

    def zoom(self, step: int) -> bool:
        """About the cursor, which stays where it is on the screen; about the centre where it is outside."""
        steps = max(_FARTHEST, min(self.camera.steps + step, _NEAREST))
        self._project()
        u, v = self.camera.x, self.camera.y
        if self._cell(self.cursor) is not None:
            u, v = self._us[self.cursor], self._vs[self.cursor]
        ratio = _CLOSER ** (self.camera.steps - steps)
        x, y = u - (u - self.camera.x) * ratio, v - (v - self.camera.y) * ratio
        return self._see(replace(self.camera, steps=steps, x=x, y=y))

    def pan(self, dx: int, dy: int) -> bool:
        left, right, bottom, top = self._section()
        x = max(-2.0, min(self.camera.x + dx * (right - left) / 8, 2.0))
        y = max(-2.0, min(self.camera.y - dy * (top - bottom) / 8, 2.0))
        return self._see(replace(self.camera, x=x, y=y))

    def turn(self, dx: int, dy: int) -> bool:
        """By a twelfth of a right angle; up and down only as far as the poles."""
        if not self.points.is_solid:
            return False
        pitch = max(-math.pi / 2, min(self.camera.pitch + dy * _TURN, math.pi / 2))
        return self._see(replace(self.camera, yaw=(self.camera.yaw + dx * _TURN) % math.tau, pitch=pitch))

    def reset(self) -> bool:
        return self._see(self._start)

    def _see(self, camera: Camera) -> bool:
        moved = camera != self.camera
        self.camera = camera
        return moved

    def adopt(self, other: Self) -> None:
        """The same point; a section in which it was seen is moved so that it is seen in it still."""
        row = self.row_before(other)
        places = {row: point for point, row in enumerate(self.points.rows)}
        self.cursor = places.get(row or 0, min(other.cursor, len(self.points.rows) - 1))
        self.camera, self._aspect, self._cells = other.camera, other._aspect, other._cells
        other._project()
        if other._cell(other.cursor) is not None:
            self._put(self.cursor)

    def click(self, x: int, y: int) -> bool:
        above, left, columns, rows = self._frame
        x, y = x - left, y - above
        seen = [(place, n) for n in range(len(self.points.rows)) if (place := self._cell(n))] if self._us else []
        if not (0 <= x < columns and 0 <= y < rows and seen):
            return False
        return self._put(min((((a - x) ** 2 + 4 * (b - y) ** 2), n) for (a, b), n in seen)[1])

    def wheel(self, step: int) -> bool:
        return self.zoom(-step)


class _Bare(Axis):
    """Turned coordinates have no numbers."""

    def ticks(self, most: int) -> list[tuple[float, str]]:
        return []


def _over(line: Text, x: int, glyph: str, paint: Paint) -> Text:
    return Text.assemble(line[:x], (glyph, paint.here), line[x + 1 :])
