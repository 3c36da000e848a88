"""Curves and scatters as pictures: lines with marks, and points with the marks of their groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.study_results import Cell, Curve, Scatter, Table
from sessions.circuit_layout import columns_of
from sessions.study_picture_cells import NUMBERS, Cells, NothingToDraw, cells_of, needed, numeric
from sessions.study_picture_frame import (
    CHARACTER,
    MOST_SERIES,
    OTHER,
    Drawn,
    Frame,
    Key,
    colour,
    counted,
    dashes,
    fit,
    framed,
    mark,
    text,
    titled,
)
from sessions.study_picture_scale import Kind, number, raw, scale_over

_HEIGHT = 400
_MOST_TITLED = 2000
_MOST_NAMED = 300
"""Points up to which names are written beside those that have room for them."""
_MOST_POINTS = 30_000
_GROUPS = 12
"""Groups with a mark and a colour of their own, in this combination."""
_RANGES = 6
_FEW = 60
"""Points of a group that would be lost among more of the others: they have an outline."""


class Point(NamedTuple):
    """A place in the picture, and the row it is about."""

    x: float
    y: float
    row: int


# --- curves -------------------------------------------------------------------------------------------------------


def draw_curve(view: Curve, table: Table) -> Drawn:
    """A line for each series, through its points from left to right.

    Raises:
        NothingToDraw: no row has a place.
    """
    kinds: tuple[Kind, Kind] = ("log" if view.log_x else "linear", "log" if view.log_y else "linear")
    horizontal, groups = needed(table, view.x)[0], cells_of(table, view.series) if view.series else None
    columns, left_out = needed(table, *view.y), 0
    series: dict[tuple[int, Cell], list[Point]] = {}
    for n, cells in enumerate(columns):
        for row, (a, b) in enumerate(zip(horizontal.numbers, cells.numbers, strict=True)):
            if a is None or b is None or raw(a, kinds[0]) is None or raw(b, kinds[1]) is None:
                left_out += 1
                continue
            series.setdefault((n, groups.all[row] if groups else None), []).append(Point(a, b, row))
    if not series:
        raise NothingToDraw("no row has a place on both axes")
    xs, ys = ([point[d] for points in series.values() for point in points] for d in (0, 1))
    near = not view.log_y and 0 <= min(ys) < max(ys) / 2
    scales = scale_over(xs, kinds[0], room=0.02), scale_over(ys, kinds[1], zero=near, room=0.05)
    names = (horizontal.name, columns[0].name if len(columns) == 1 else "")
    parts, frame, x, y = framed(*scales, names, _HEIGHT)
    keys = []
    for n, ((column, _), points) in enumerate(list(series.items())[:MOST_SERIES]):
        name = columns[column].name if groups is None else groups.words(points[0].row)
        name = f"{columns[column].name} {name}" if groups is not None and len(columns) > 1 else name
        keys.append(Key("line", n, name))
        placed = [(Point(x.at(p.x), y.at(p.y), p.row), p) for p in sorted(points, key=lambda p: p.x)]
        parts += _series(n, name, placed)
    notes = [f"{axis} on a logarithmic scale" for axis, log in (("x", view.log_x), ("y", view.log_y)) if log]
    if left_out:
        notes.append(f"{counted(left_out, 'point', 'points')} without a place")
    if len(series) > MOST_SERIES:
        notes.append(f"{len(series) - MOST_SERIES:,} more series")
    return Drawn(parts, frame.bottom + 44, keys if len(keys) > 1 else [], notes)


def _series(n: int, name: str, placed: Sequence[tuple[Point, Point]]) -> Iterator[str]:
    line = "L".join(f"{p.x:.1f} {p.y:.1f}" for p in _thinned([place for place, _ in placed]))
    yield f'<path class="line" d="M{line}" fill="none" stroke="{colour(n)}" stroke-width="1.8"{dashes(n)}/>'
    every = max(1, len(placed) // 40)
    for k, (place, point) in enumerate(placed):
        if k % every == 0 or k == len(placed) - 1:
            words = f"{name} · {number(point.x)} · {point.y:.6g}"
            outline = f'<path class="point" d="M{place.x:.2f} {place.y:.2f}{mark(n)}" fill="{colour(n)}"/>'
            yield titled(outline, words)


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    """Of the points over one pixel, the first, the lowest, the highest and the last: the line looks the same."""
    start = 0
    for end in range(1, len(points) + 1):
        if end < len(points) and int(points[end].x) == int(points[start].x):
            continue
        group = range(start, end)
        low, high = min(group, key=lambda k: points[k].y), max(group, key=lambda k: points[k].y)
        yield from (points[k] for k in sorted({start, low, high, end - 1}))
        start = end


# --- scatters -----------------------------------------------------------------------------------------------------


def draw_scatter(view: Scatter, table: Table) -> Drawn:
    """A point for each row; of three dimensions the first two.

    Raises:
        NothingToDraw: no row has a place.
    """
    horizontal, vertical = needed(table, view.x)[0], needed(table, view.y)[0]
    values = [
        Point(a, b, row)
        for row, (a, b) in enumerate(zip(horizontal.numbers, vertical.numbers, strict=True))
        if a is not None and b is not None
    ]
    if not values:
        raise NothingToDraw("no row has a place on both axes")
    across, up = (scale_over([point[d] for point in values], room=0.04) for d in (0, 1))
    parts, frame, x, y = framed(across, up, (horizontal.name, vertical.name), _HEIGHT + 60)
    points = [Point(x.at(p.x), y.at(p.y), p.row) for p in values]
    label = cells_of(table, view.label) if view.label else None
    grouping = cells_of(table, view.group) if view.group else None
    groups, keys = _groups(grouping, points) if grouping is not None else ([0] * len(points), [])
    parts += _joined(cells_of(table, view.path) if view.path else None, points)
    every = max(1, -(-len(points) // _MOST_POINTS))
    for n, _ in Counter(groups).most_common():  # rare ones over the others
        members = [k for k in range(0, len(points), every) if groups[k] == n]
        few = len(members) <= _FEW < len(points)
        shade = 'fill-opacity="1" stroke="#000000"' if few else f'fill-opacity="{0.75 if len(points) <= 500 else 0.5}"'
        style = f'class="points" fill="{colour(n)}" {shade}'
        if len(points) > _MOST_TITLED:  # one outline for all, and one mark where several lie within half a pixel
            halves = dict.fromkeys((round(points[k].x * 2) / 2, round(points[k].y * 2) / 2) for k in members)
            outline = "".join(f"M{x:g} {y:g}{mark(n)}" for x, y in halves)
            parts += [f'<path {style} d="{outline}"/>'] if members else []
            continue
        places = [f"M{points[k].x:.2f} {points[k].y:.2f}{mark(n)}" for k in members]
        for k, place in zip(members, places, strict=True):
            name = f"{label.words(values[k].row)} · " if label is not None else ""
            parts.append(titled(f'<path {style} d="{place}"/>', f"{name}{values[k].x:.6g} · {values[k].y:.6g}"))
    if label is not None and len(points) <= _MOST_NAMED:
        parts += _named(label, points, frame)
    return Drawn(parts, frame.bottom + 44, keys, _scatter_notes(view, table, len(points), every))


def _scatter_notes(view: Scatter, table: Table, points: int, every: int) -> list[str]:
    notes = [f"the third dimension, {view.z}, is left out"] if view.z is not None else []
    total = max(table.total or 0, len(table.rows))
    words = counted(points, "point", "points")
    notes.append(words if total == len(table.rows) else f"{words} of {total:,}")
    if left_out := len(table.rows) - points:
        notes.append(f"{left_out:,} without a place")
    if every > 1:
        notes.append(f"one in {every} drawn")
    return notes


def _groups(cells: Cells, points: Sequence[Point]) -> tuple[list[int], list[Key]]:
    """The group of each point, −1 for the rest, and their keys: the commonest values, or ranges of many numbers."""
    mine = [cells.all[point.row] for point in points]
    common = [cell for cell, _ in Counter(mine).most_common(_GROUPS)]
    order = [cell for cell in dict.fromkeys(mine) if cell in common]
    others = len(set(mine)) - len(order)
    if others and cells.column.kind in NUMBERS:
        return _ranges(mine)
    numbers = {cell: n for n, cell in enumerate(order)}
    first = {cell: point.row for cell, point in zip(reversed(mine), reversed(points), strict=True)}
    keys = [Key("mark", n, cells.words(first[cell])) for cell, n in numbers.items()]
    keys += [Key("mark", -1, f"{others:,} others")] if others else []
    return [numbers.get(cell, -1) for cell in mine], keys


def _ranges(cells: Sequence[Cell]) -> tuple[list[int], list[Key]]:
    """Groups of about equal size, by size."""
    values = [numeric(cell) for cell in cells]
    known = sorted(value for value in values if value is not None)
    if not known:
        return [-1] * len(cells), [Key("mark", -1, "no number")]
    ends = sorted({known[min(len(known) - 1, (n + 1) * len(known) // _RANGES)] for n in range(_RANGES)})
    groups = [-1 if v is None else next(n for n, end in enumerate(ends) if v <= end) for v in values]
    starts = [known[0], *ends[:-1]]
    keys = [Key("mark", n, f"{number(a)} … {number(b)}") for n, (a, b) in enumerate(zip(starts, ends, strict=True))]
    return groups, [*keys, *([Key("mark", -1, "no number")] if None in values else [])]


def _joined(cells: Cells | None, points: Sequence[Point]) -> Iterator[str]:
    """A line through the points of each path, in the order of rows."""
    paths: dict[Cell, list[Point]] = {}
    for point in points if cells is not None else ():
        if cells is not None and (cell := cells.all[point.row]) is not None:
            paths.setdefault(cell, []).append(point)
    for members in paths.values():
        if len(members) > 1:
            line = "L".join(f"{p.x:.1f} {p.y:.1f}" for p in members)
            yield f'<path class="walk" d="M{line}" fill="none" stroke="{OTHER}" stroke-opacity="0.7"/>'


def _named(label: Cells, points: Sequence[Point], frame: Frame) -> Iterator[str]:
    """Names beside points, of those whose names cover no other name and no edge."""
    taken: list[tuple[float, float, float]] = []
    for point in points:
        words = fit(label.words(point.row), 24)
        left, right = point.x + 6, point.x + 8 + columns_of(words) * CHARACTER * 9 / 11
        if right > frame.right:
            left, right = point.x - (right - point.x), point.x - 6
        if left < frame.left or any(left < b and a < right and abs(point.y - y) < 11 for a, b, y in taken):
            continue
        taken.append((left, right, point.y))
        yield text(left, point.y + 3, words, 'class="label" font-size="9" fill="#333333"')
