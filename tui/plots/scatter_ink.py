"""How points become glyphs: marks where they are few, braille dots where many, shades where very many share a cell.

Counting is done by `Counter` over whole numbers, in C: ten thousands of points are redrawn while a key is held.
"""

from __future__ import annotations

from collections import Counter

from rich.style import Style

from tui.plots.grid import DOTS, Grid, Legend
from tui.plots.paint import MARKS, Paint
from tui.plots.points import MOST, Points
from tui.plots.strokes import stroke

_SPARSE = 12
"""Cells for each point from which on points are drawn as marks."""
_SHADES = ((150, "█"), (40, "▓"), (12, "▒"))
"""From how many points a cell is shaded."""
_FEW = 500
"""Up to so many points nothing is shaded: the status line counts those of a cell."""
_CROWD = 5
"""From how many points the mark of a group is bold."""
_BRIGHT = 800
"""Cells up to which crowds are bold: every change of brightness is sent."""
_DOTS_OF_PATHS = 60_000
Section = tuple[float, float, float, float]


def legend_of(points: Points, paint: Paint) -> Legend:
    """The groups, or what the glyphs of dense places mean."""
    if points.group_names:
        return [
            (points.mark(n), paint.dim if n >= MOST else paint.of_series(n), name)
            for n, name in points.group_names.items()
        ]
    if len(points.rows) > _FEW:
        return [(glyph, paint.accent, f"{count}+") for count, glyph in reversed(_SHADES)]
    return []


class Ink:
    """One drawing of points on a grid."""

    def __init__(
        self,
        points: Points,
        seen: tuple[list[float], list[float], list[float]],
        directions: list[tuple[float, float]],
        section: Section,
        grid: Grid,
    ) -> None:
        self._points, self._grid, self._directions = points, grid, directions
        self._us, self._vs, near = seen
        left, right, bottom, top = section
        self._origin = (left, bottom)
        self._across, self._up = grid.width * 2 / (right - left), grid.height * 4 / (top - bottom)
        self._dots_wide, self._dots_high = grid.width * 2, grid.height * 4
        self._layers = self._layered(near)
        wide, high = self._dots_wide, self._dots_high
        a, b, p, q = left, bottom, self._across, self._up
        dots = [(int((u - a) * p), int((v - b) * q)) if u >= a and v >= b else (-1, -1)
                for u, v in zip(self._us, self._vs, strict=True)]  # fmt: skip
        self._dot = [x + wide * y if 0 <= x < wide and 0 <= y < high else -1 for x, y in dots]
        """The dot of each point, from the lower left; -1 outside."""
        self._cell_of = [(d % wide >> 1) + grid.width * (d // wide >> 2) if d >= 0 else -1 for d in self._dot]
        self._counts = Counter(self._cell_of)
        self._counts.pop(-1, None)

    def count_at(self, place: tuple[int, int]) -> int:
        """How many points lie in a cell, its row counted from the top."""
        return self._counts.get(place[0] + self._grid.width * (self._grid.height - 1 - place[1]), 0)

    def _layered(self, near: list[float]) -> list[int]:
        """Far, middle and near thirds of the depth as 0, 1, 2; flat points are all in the middle."""
        if not near:
            return []
        low, high = min(near), max(near)
        third = (high - low) / 3
        return [min(int((depth - low) / third), 2) if third > 0 else 1 for depth in near]

    def draw(self, paint: Paint) -> None:
        self._draw_axes(paint)
        self._draw_paths(paint)
        if self._points.group_names:
            self._draw_groups(paint)
        elif sum(self._counts.values()) * _SPARSE <= self._grid.width * self._grid.height:
            self._draw_marks(paint)
        else:
            self._draw_dots(paint)

    def _depths(self) -> dict[int, int]:
        """The nearest layer in each cell."""
        if not self._layers:
            return {}
        depths: dict[int, int] = {}
        for layer in (0, 1, 2):
            depths.update(
                dict.fromkeys((c for c, at in zip(self._cell_of, self._layers, strict=True) if at == layer), layer)
            )
        return depths

    def _put(self, cell: int, glyph: str, style: Style) -> None:
        y, x = divmod(cell, self._grid.width)
        self._grid.put(x, self._grid.height - 1 - y, glyph, style)

    def _draw_groups(self, paint: Paint) -> None:
        """The mark of the commonest group in each cell; of solid points that of the nearest layer's brightness."""
        cells = self._cell_of
        pairs = Counter([c * 8 + g for c, g in zip(cells, self._points.groups, strict=True) if c >= 0])
        most: dict[int, tuple[int, int]] = {}
        for pair, count in pairs.items():
            cell, group = pair >> 3, pair & 7
            if cell not in most or (count, -group) > (most[cell][0], -most[cell][1]):
                most[cell] = (count, group)
        depths = self._depths()
        few = len(most) <= _BRIGHT
        styles = [
            [paint.dim if g >= MOST else paint.of_series(g) + how for how in _BRIGHTNESS] for g in range(MOST + 2)
        ]
        for cell, (_, group) in most.items():
            crowd = 2 if few and self._counts[cell] >= _CROWD else 1
            self._put(cell, self._points.mark(group), styles[group][depths.get(cell, crowd)])

    def _draw_marks(self, paint: Paint) -> None:
        """A point alone is small, several in a cell are a large one; of solid points the near ones are large."""
        depths = self._depths()
        styles = [paint.dim, paint.accent, paint.accent + Style(bold=True)]
        for cell, count in self._counts.items():
            if depths:
                layer = depths[cell]
                self._put(cell, "·•●"[layer], styles[layer])
            else:
                self._put(cell, MARKS[0] if count > 1 else "•", styles[2 if count >= _CROWD else 1])

    def _draw_dots(self, paint: Paint) -> None:
        depths = self._depths()
        styles = [paint.accent + how for how in (_BRIGHTNESS[0], _BRIGHTNESS[1], _BRIGHTNESS[1])]
        wide, columns, rows = self._dots_wide, self._grid.width, self._grid.height
        for dot in set(self._dot):
            if dot >= 0:
                y, x = divmod(dot, wide)
                cell = (x >> 1) + columns * (y >> 2)
                bit = DOTS[3 - (y & 3)][x & 1]
                self._grid.add_dots(x >> 1, rows - 1 - (y >> 2), bit, styles[depths.get(cell, 1)])
        for cell, count in self._counts.items():
            if count >= _SHADES[-1][0] and len(self._us) > _FEW:
                glyph = next(glyph for least, glyph in _SHADES if count >= least)
                self._put(cell, glyph, styles[depths.get(cell, 1)])

    def _draw_axes(self, paint: Paint) -> None:
        """Where the three directions point, from the middle of solid points, so that a turn can be followed."""
        middle = self._dots_of(0.0, 0.0)
        for letter, (u, v) in zip("xyz", self._directions, strict=False):
            end = self._dots_of(u, v)
            self._draw_line(middle, end, paint)
            x, y = int(end[0]) >> 1, int(end[1]) >> 2
            self._grid.put(x, self._grid.height - 1 - y, letter, paint.bold)

    def _dots_of(self, u: float, v: float) -> tuple[float, float]:
        return (u - self._origin[0]) * self._across, (v - self._origin[1]) * self._up

    def _draw_paths(self, paint: Paint) -> None:
        """Lines in dots, as long as their dots are not more than can be drawn at once."""
        budget = _DOTS_OF_PATHS
        for a, b in self._points.paths:
            if budget < 0:
                return
            start, end = self._dots_of(self._us[a], self._vs[a]), self._dots_of(self._us[b], self._vs[b])
            budget -= self._draw_line(start, end, paint)

    def _draw_line(self, start: tuple[float, float], end: tuple[float, float], paint: Paint) -> int:
        """A line in dots, as far as it is inside; how many dots that took."""
        dots = stroke(start, end, self._dots_wide, self._dots_high)
        for x, y in dots:
            self._grid.add_dots(x >> 1, self._grid.height - 1 - (y >> 2), DOTS[3 - (y & 3)][x & 1], paint.dim)
        return len(dots)


_BRIGHTNESS = (Style(dim=True), Style(), Style(bold=True))
