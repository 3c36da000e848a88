"""How long a plot of 16,000 points takes to draw, beside the same points through plotext."""

from __future__ import annotations

import math

import plotext

from engine.protocol import Column, Scatter, Table
from tests.benchmarks.measuring import medians
from tui.plots.drawing import picture
from tui.plots.paint import paint

POINTS = 16_000
SIZE = (200, 50)


def main() -> None:
    rows = tuple((math.sin(n) * n, math.cos(n * 1.7) * n, math.sin(n * 0.3) * n, n % 5) for n in range(POINTS))
    names = ("x", "y", "z", "g")
    table = Table("t", "T", tuple(Column(name, "signed") for name in names), rows)
    flat = picture(Scatter(title="S", table="t", x="x", y="y", group="g"), table)
    solid = picture(Scatter(title="S", table="t", x="x", y="y", z="z"), table)
    ink = paint()

    def zoomed() -> None:
        flat.zoom(1)
        flat.zoom(-1)
        flat.draw(*SIZE, ink)

    def turned() -> None:
        solid.turn(1, 0)
        solid.draw(*SIZE, ink)

    def by_plotext() -> None:
        figure = plotext.figure
        figure.clear()
        figure.plot_size(*SIZE)
        figure.draw(figure.signal([r[0] for r in rows], [r[1] for r in rows], marker="braille").lines(False))
        figure.build().string()

    taken = medians({"two dimensions, zoomed": zoomed, "three, turned": turned, "plotext": by_plotext}, 9)
    for name, seconds in taken.items():
        print(f"{name:<24} {1e3 * seconds:7.1f} ms   {taken['plotext'] / seconds:5.1f}×")


if __name__ == "__main__":
    main()
