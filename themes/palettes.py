"""Palettes as data: colours that survive the 256 of a plain SSH session, and ramps that survive without colour.

Every colour is one of xterm's 6×6×6 cube or grey ramp, so nothing shifts or collapses where there is no truecolor.
Heat ramps have eight steps of steadily rising (on dark) or falling (on light) luminance, so that greyscale and
colour-blind eyes read the same order. A test checks both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVELS = 8
"""Steps of a heat ramp above zero; zero is drawn without colour."""

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Palette:
    """One palette: the surfaces, the texts, the accents and the ramps."""

    name: str
    dark: bool
    background: str
    surface: str
    panel: str
    text: str
    dim: str
    border: str
    accent: str
    """What is focused or selected."""
    cursor: str
    """Background of a selected line."""
    link: str
    good: str
    warning: str
    error: str
    heat: tuple[tuple[str, str], ...]
    """(background, text) from weak to strong."""
    negative: str
    positive: str
    """The ends of the diverging ramp: turned down, turned up."""
    series: tuple[str, ...]
    """Colours that tell series and groups apart, different among the sixteen of a plain terminal too."""


DARK = Palette(
    name="saescope-dark",
    dark=True,
    background="#121212",
    surface="#121212",
    panel="#262626",
    text="#d0d0d0",
    dim="#8a8a8a",
    border="#4e4e4e",
    accent="#ffaf5f",
    cursor="#303030",
    link="#87afd7",
    good="#87af5f",
    warning="#d7af5f",
    error="#ff5f5f",
    heat=(
        ("#5f005f", "#ffffff"),
        ("#5f00af", "#ffffff"),
        ("#005faf", "#ffffff"),
        ("#008787", "#000000"),
        ("#00af87", "#000000"),
        ("#5fd75f", "#000000"),
        ("#d7d700", "#000000"),
        ("#ffff87", "#000000"),
    ),
    negative="#5fafff",
    positive="#ffaf5f",
    series=("#ffaf5f", "#5f87ff", "#5fd75f", "#d75fd7", "#5fffff", "#ff5f5f"),
)

LIGHT = Palette(
    name="saescope-light",
    dark=False,
    background="#ffffff",
    surface="#ffffff",
    panel="#e4e4e4",
    text="#262626",
    dim="#767676",
    border="#b2b2b2",
    accent="#af5f00",
    cursor="#e4e4e4",
    link="#005faf",
    good="#5f8700",
    warning="#875f00",
    error="#af0000",
    heat=(
        ("#ffffaf", "#000000"),
        ("#d7ff87", "#000000"),
        ("#afd75f", "#000000"),
        ("#5faf87", "#000000"),
        ("#008787", "#000000"),
        ("#005faf", "#ffffff"),
        ("#5f00af", "#ffffff"),
        ("#5f005f", "#ffffff"),
    ),
    negative="#005faf",
    positive="#af5f00",
    series=("#af5f00", "#005fd7", "#008700", "#af00af", "#008787", "#d70000"),
)

PALETTES = {palette.name: palette for palette in (DARK, LIGHT)}
DEFAULT = DARK.name


def level(share: float) -> int:
    """A share of the strongest, in [0, 1], as a step 0…8; what fires at all is at least step 1."""
    return min(LEVELS, math.ceil(share * LEVELS)) if share > 0 else 0
