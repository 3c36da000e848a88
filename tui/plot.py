"""Plots as text, by plotext, imported when the first one is drawn: it costs half as much as the first frame."""

from __future__ import annotations

import functools
import math

from tui.text import number


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
    drawn = plotext.uncolorize(figure.build().string())
    return tuple(line.rstrip() for line in drawn.splitlines())
