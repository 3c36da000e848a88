"""Colours must survive 256 colours and carry their order in luminance alone."""

from __future__ import annotations

import itertools

import pytest

from themes.palettes import LEVELS, PALETTES, Palette, level

CUBE = [0, 95, 135, 175, 215, 255]
XTERM = {tuple(c) for c in itertools.product(CUBE, repeat=3)} | {(8 + 10 * n,) * 3 for n in range(24)}


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in _rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_every_colour_is_one_of_256(palette: Palette) -> None:
    colours = [v for v in vars(palette).values() if isinstance(v, str) and v.startswith("#")]
    colours += [c for step in palette.heat for c in step]
    assert [c for c in colours if _rgb(c) not in XTERM and c not in ("#000000", "#ffffff")] == []


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_heat_is_ordered_by_luminance_and_legible(palette: Palette) -> None:
    assert len(palette.heat) == LEVELS
    steps = [_luminance(background) for background, _ in palette.heat]
    assert steps == sorted(steps, reverse=not palette.dark)
    assert all(_contrast(background, text) >= 4.5 for background, text in palette.heat)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_texts_are_legible(palette: Palette) -> None:
    for colour in (palette.text, palette.link, palette.accent, palette.error, palette.negative, palette.positive):
        assert _contrast(colour, palette.background) >= 4.5
    assert _contrast(palette.dim, palette.background) >= 4.5


@pytest.mark.parametrize(
    ("share", "step"), [(-1.0, 0), (0.0, 0), (0.001, 1), (0.125, 1), (0.13, 2), (1.0, 8), (3.0, 8)]
)
def test_what_fires_at_all_has_a_colour(share: float, step: int) -> None:
    assert level(share) == step
