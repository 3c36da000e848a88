"""Straight lines in braille dots, clipped to what is seen.

Drawn by hand: plotext goes through every dot of a line, also of those far outside the section, in time and in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

Dot = tuple[float, float]


def stroke(start: Dot, end: Dot, wide: int, high: int) -> list[tuple[int, int]]:
    """The dots between two places, as far as they are inside; places are in dots, both ends are part of the line."""
    ends = _within(*start, *end, wide, high)
    if ends is None:
        return []
    x0, y0, x1, y1 = ends
    steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
    return [(int(x0 + (x1 - x0) * k / steps), int(y0 + (y1 - y0) * k / steps)) for k in range(steps + 1)]


def thinned(places: Iterable[Dot], wide: int) -> list[Dot]:
    """The places that a line needs to look the same, its `x` rising: of a column of dots the ends and the extremes.

    What is left and right of the columns counts as one column each.
    """
    kept: list[Dot] = []
    for _, column in itertools.groupby(places, key=lambda place: max(-1, min(math.floor(place[0]), wide))):
        mine = list(column)
        if len(mine) > 4:
            ys = [y for _, y in mine]
            kept += [mine[k] for k in sorted({0, ys.index(min(ys)), ys.index(max(ys)), len(mine) - 1})]
        else:
            kept += mine
    return kept


def line_through(places: Sequence[Dot], wide: int, high: int) -> set[tuple[int, int]]:
    """The dots of a line through places in this order; none for a single one."""
    return {dot for a, b in itertools.pairwise(places) for dot in stroke(a, b, wide, high)}


def _within(
    x0: float, y0: float, x1: float, y1: float, wide: int, high: int
) -> tuple[float, float, float, float] | None:
    """The part of a line inside the grid, by Liang and Barsky; None where there is none."""
    dx, dy, first, last = x1 - x0, y1 - y0, 0.0, 1.0
    for step, room in ((-dx, x0), (dx, wide - 1 - x0), (-dy, y0), (dy, high - 1 - y0)):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            first = max(first, room / step)
        else:
            last = min(last, room / step)
    if first > last:
        return None
    return x0 + first * dx, y0 + first * dy, x0 + last * dx, y0 + last * dy
