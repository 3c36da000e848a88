"""The glyphs and colours of plots: what colour tells, a glyph tells too."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from rich.style import Style

from themes.palettes import DARK, Palette

MARKS = "●▲■◆×+○△□◇✚∗"
"""Points of series and groups, in the order of the colours."""
FILLS = "█▓▒░▚═"
"""Bars of series."""
SHADES = "░▒▓█"
"""From weak to strong."""
OTHER = "·"
"""Points of the groups that have no mark of their own."""


_FAINTEST = 2


@dataclass(frozen=True)
class Paint:
    """A palette's colours as styles."""

    plain: Style
    bold: Style
    dim: Style
    accent: Style
    here: Style
    """The very thing under the cursor."""
    positive: Style
    negative: Style
    series: tuple[Style, ...]
    heat: tuple[Style, ...]
    """Text on the colour of its level, 1…8."""
    ink: tuple[Style, ...]
    """The colours of the levels as ink: the faintest are no colours for glyphs, which tell those levels apart."""

    def of_series(self, n: int) -> Style:
        return self.series[n % len(self.series)]


@functools.lru_cache(maxsize=8)
def paint(palette: Palette = DARK) -> Paint:
    """The styles of a palette."""
    return Paint(
        plain=Style(),
        bold=Style(bold=True),
        dim=Style(color=palette.dim),
        accent=Style(color=palette.accent),
        here=Style(color=palette.background, bgcolor=palette.accent, bold=True),
        positive=Style(color=palette.positive),
        negative=Style(color=palette.negative),
        series=tuple(Style(color=colour) for colour in palette.series),
        heat=tuple(Style(color=text, bgcolor=background) for background, text in palette.heat),
        ink=tuple(Style(color=palette.heat[max(n, _FAINTEST)][0]) for n in range(len(palette.heat))),
    )


def mark(n: int) -> str:
    """The mark of the n-th series or group."""
    return MARKS[n % len(MARKS)]


def fill(n: int) -> str:
    """The glyph of the n-th series of bars."""
    return FILLS[n % len(FILLS)]
