"""Bars and histograms as pictures: lying bars row under row, and counts stacked over their bins."""

from __future__ import annotations

from engine.study_results import Bars, Histogram, Table
from sessions.circuit_layout import columns_of
from sessions.study_picture_cells import Cells, NothingToDraw, cells_of, needed
from sessions.study_picture_frame import (
    CHARACTER,
    GREY,
    MOST_SERIES,
    RIGHT,
    Drawn,
    Frame,
    Key,
    across,
    counted,
    fill,
    fit,
    framed,
    text,
    titled,
)
from sessions.study_picture_scale import Kind, number, raw, scale_over

_MOST_BARS = 300
_BAR = 13
"""The height of a bar with its room, in pixels."""
_MOST_TITLED = 1000
_HEIGHT = 340


def draw_bars(view: Bars, table: Table) -> Drawn:
    """One bar for each row and value, its name and its number on the left.

    Raises:
        NothingToDraw: there is no number.
    """
    series = needed(table, *view.values)[:MOST_SERIES]
    rows = min(len(table.rows), max(_MOST_BARS // len(series), 20))
    values = [value for cells in series for value in cells.numbers[:rows] if value is not None]
    if not values:
        raise NothingToDraw("no row has a number")
    label = cells_of(table, view.label)
    names = [fit(label.words(row) if label else f"row {row + 1:,}", 34) for row in range(rows)]
    numbers = [[cells.value(row) for cells in series] for row in range(rows)]
    first = 20 + max(map(columns_of, names)) * CHARACTER
    left = first + max(columns_of(words) for row in numbers for words in row) * CHARACTER + 22
    each = len(series) * _BAR + 6
    frame = Frame(left, 4, RIGHT, 4 + rows * each)
    x = scale_over(values, zero=True, room=0.03).between(frame.left, frame.right)
    name = series[0].name if len(series) == 1 else ""
    parts = across(x, frame, name)
    zero = x.at(0.0)
    for row in range(rows):
        y = frame.top + row * each + 3
        middle = y + len(series) * _BAR / 2 + 4
        parts.append(text(first, middle, names[row], 'class="label" text-anchor="end"'))
        for n, cells in enumerate(series):
            top = y + n * _BAR
            parts.append(text(left - 8, top + 10, numbers[row][n], f'text-anchor="end" fill="{GREY}" font-size="10"'))
            if (value := cells.numbers[row]) is not None:
                a, b = sorted((zero, x.at(value)))
                bar = f'<rect class="bar" x="{a:.2f}" y="{top + 1:.2f}" width="{b - a:.2f}" height="{_BAR - 2}" '
                words = f"{names[row]} · {cells.name} {value:.6g}"
                parts.append(titled(f'{bar}fill="{fill(n)}" stroke="#555555" stroke-width="0.5"/>', words))
    parts.append(
        f'<line class="zero" x1="{zero:.2f}" y1="{frame.top}" x2="{zero:.2f}" y2="{frame.bottom}" stroke="#222222"/>'
    )
    notes = [f"{rows:,} of {max(table.total or 0, len(table.rows)):,} rows"] if _more(table, rows) else []
    if len(view.values) > MOST_SERIES:
        notes.append(f"{len(view.values) - MOST_SERIES:,} more columns")
    keys = [Key("fill", n, cells.name) for n, cells in enumerate(series)] if len(series) > 1 else []
    return Drawn(parts, frame.bottom + 44, keys, notes)


def _more(table: Table, rows: int) -> bool:
    return rows < max(table.total or 0, len(table.rows))


def draw_histogram(view: Histogram, table: Table) -> Drawn:
    """Counts over bins at their places, stacked in their order; on a logarithmic scale the whole bar is, not its parts.

    Raises:
        NothingToDraw: no bin has both its ends.
    """
    low, high = (needed(table, name)[0] for name in (view.low, view.high))
    series = needed(table, *view.counts)[:MOST_SERIES]
    bins = [
        (min(a, b), max(a, b), row)
        for row, (a, b) in enumerate(zip(low.numbers, high.numbers, strict=True))
        if a is not None and b is not None
    ]
    if not bins:
        raise NothingToDraw("no bin has numbers for both its ends")
    tops = {row: _stack(series, row) for _, _, row in bins}
    kind: Kind = "counts" if view.log else "linear"
    ends = [end for a, b, _ in bins for end in (a, b)]
    whole = scale_over((top[-1] for top in tops.values()), kind, zero=True, room=0.04)
    names = (low.name if low.name == high.name else f"{low.name} … {high.name}", _counts_name(view, series))
    parts, frame, x, y = framed(scale_over(ends), whole, names, _HEIGHT)
    spare = len(bins) * len(series) > _MOST_TITLED
    for n, cells in enumerate(series):
        outlines = []
        for a, b, row in bins:
            below = tops[row][n - 1] if n else 0.0
            if (count := tops[row][n] - below) <= 0:
                continue
            # The bar of a bin is as high as all its counts say; its parts divide it as they share the total.
            total, whole_height = tops[row][-1], y.at(0.0) - y.at(tops[row][-1])
            left, top, width = x.at(a), y.at(0.0) - whole_height * tops[row][n] / total, max(x.at(b) - x.at(a), 0.6)
            tall = whole_height * count / total
            if spare:
                outlines.append(f"M{left:.1f} {top:.1f}h{width:.1f}v{tall:.1f}h-{width:.1f}z")
                continue
            box = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{tall:.2f}"'
            words = f"{number(a)} … {number(b)} · {cells.name} {count:,.6g}"
            parts.append(
                titled(f'<rect class="bin" {box} fill="{fill(n)}" stroke="#444444" stroke-width="0.5"/>', words)
            )
        if outlines:
            parts.append(f'<path d="{"".join(outlines)}" fill="{fill(n)}"/>')
    parts.append(
        f'<line x1="{frame.left}" y1="{frame.bottom}" x2="{frame.right}" y2="{frame.bottom}" stroke="#222222"/>'
    )
    notes = ["counts on a logarithmic scale"] if view.log else []
    if view.log and len(series) > 1:
        notes = ["heights on a logarithmic scale, parts by their share"]
    if left_out := len(table.rows) - len(bins):
        notes.append(f"{counted(left_out, 'bin', 'bins')} without ends")
    keys = [Key("fill", n, cells.name) for n, cells in enumerate(series)] if len(series) > 1 else []
    return Drawn(parts, frame.bottom + 44, keys, notes)


def _stack(series: list[Cells], row: int) -> list[float]:
    """The counts of a bin, each on top of those before it."""
    tops, total = [], 0.0
    for cells in series:
        total += min(max(cells.numbers[row] or 0.0, 0.0), 1e300)
        tops.append(raw(total, "linear") or 0.0)
    return tops


def _counts_name(view: Histogram, series: list[Cells]) -> str:
    return series[0].name if len(series) == 1 else "counts"
