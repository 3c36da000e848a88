"""Plots as text, by plotext, imported when the first one is drawn: it costs half as much as the first frame."""

from __future__ import annotations

import functools
import math

from tui.text import number, signed

Points = tuple[tuple[float, float], ...]


@functools.lru_cache(maxsize=64)
def histogram(counts: tuple[int, ...], top: float, width: int, height: int) -> tuple[str, ...]:
    """Counts in equal bins from 0 to `top` as bars over a logarithmic scale, `height` lines of `width` cells.

    plotext keeps one figure for the process, so it is built at once and its colours are left to the caller.
    """
    import plotext

    step = top / len(counts)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.canvas("default")
    figure.axes(False)
    centres = [(n + 0.5) * step for n in range(len(counts))]
    figure.draw(figure.bar(centres, [math.log10(1 + c) for c in counts], width=1))
    ticks = [10**power for power in range(len(str(max(counts, default=1))))]
    figure.ruler("x").lim(0, top)
    figure.ruler("x").ticks([0, top / 2, top], ["0", number(top / 2), number(top)])
    figure.ruler("y").ticks([math.log10(1 + t) for t in ticks], [f"{t:,}" for t in ticks])
    return _built()


@functools.lru_cache(maxsize=64)
def bars(labels: tuple[str, ...], values: tuple[float, ...], width: int) -> tuple[str, ...]:
    """One lying bar a line from 0 to the largest value, each label with its number before it."""
    import plotext

    shown = [f"{label} {number(value)} " for label, value in zip(labels, values, strict=True)]
    top = max((value for value in values if _drawable(value)), default=0.0)
    top = top if top > _TINY else 1.0
    places = list(range(1, len(shown) + 1))
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, len(shown) + 1)
    figure.canvas("default")
    figure.axes(False)
    lengths = [min(max(value, 0.0), top) if _drawable(value) else 0.0 for value in values]
    figure.draw(figure.bar(places, lengths, orientation="horizontal", width=0.1))
    figure.ruler("x").lim(0, top)
    figure.ruler("x").ticks([0, top], ["0", number(top)])
    figure.ruler("y").lim(min(1, len(shown) / 2), max(len(shown), 1.5))  # one line each
    figure.ruler("y").direction(-1)
    figure.ruler("y").ticks(places, shown)
    return _built()


@functools.lru_cache(maxsize=64)
def curve(points: Points, others: Points, width: int, height: int, log: bool = False) -> tuple[str, ...]:
    """Points by rising x as ● joined by a line, and `others` as ·; `log` draws y on a logarithmic scale.

    What is too large to draw, or on a logarithmic scale not positive, is left out; () where no point is left.
    """
    import plotext

    points, others = _scaled(points, log), _scaled(others, log)
    if not points:
        return ()
    xs, ys = zip(*points, *others, strict=True)
    left, right = min(xs), max(xs)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.canvas("default")
    figure.axes(False)
    for series, marker in ((points, "braille"), (others, "·"), (points, "●")):
        signal = figure.signal([x for x, _ in series], [y for _, y in series], marker=marker)
        figure.draw(signal.lines(marker == "braille"))
    x_ticks = [left, right] if right - left > _TINY else [left]
    if left < 0 < right and 0.15 < -left / (right - left) < 0.85:
        x_ticks.append(0.0)
    figure.ruler("x").ticks(x_ticks, [signed(x) for x in x_ticks])
    room = 0.0 if len(x_ticks) > 1 else max(abs(left), 1.0)
    figure.ruler("x").lim(left - room, right + room)
    y_ticks, labels = _powers(min(ys), max(ys), height) if log else _halves(min(ys), max(ys))
    figure.ruler("y").lim(y_ticks[0], max(y_ticks[-1], *ys))
    figure.ruler("y").ticks(y_ticks, labels)
    return _built()


def _scaled(points: Points, log: bool) -> Points:
    drawn = (p for p in points if all(map(_drawable, p)) and (p[1] > _TINY or not log))
    return tuple((x, math.log10(y) if log else y) for x, y in drawn)


def _powers(low: float, high: float, height: int) -> tuple[list[float], list[str]]:
    """Ticks at powers of ten around exponents, as many as have room."""
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    ticks = list(range(first, last + 1, max(1, -(-(last - first) // (height // 2)))))
    return [float(power) for power in ticks], [number(10.0**power) for power in ticks]


def _halves(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks at zero or below, in the middle, and at the largest value."""
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high - low > _TINY else low + 1.0
    ticks = [low, (low + high) / 2, high]
    return ticks, [number(tick) for tick in ticks]


_TINY, _HUGE = 1e-12, 1e12


def _drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < _HUGE


def _built() -> tuple[str, ...]:
    """The figure as lines without colours."""
    import plotext

    drawn = plotext.uncolorize(plotext.figure.build().string())
    return tuple(line.rstrip() for line in drawn.splitlines())
