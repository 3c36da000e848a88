"""Palettes as Textual themes; the ramps and other colours reach the style sheets as variables."""

from __future__ import annotations

from textual.theme import Theme

from themes.palettes import DEFAULT, PALETTES, Palette


def variables(palette: Palette) -> dict[str, str]:
    """The names under which style sheets know a palette's colours."""
    named = {
        "dim": palette.dim,
        "rule": palette.border,
        "cursor": palette.cursor,
        "link": palette.link,
        "negative": palette.negative,
        "positive": palette.positive,
        "border": palette.accent,
        "border-blurred": palette.border,
        "block-cursor-background": palette.cursor,
        "block-cursor-foreground": palette.text,
        "footer-background": palette.panel,
        "input-selection-background": palette.cursor,
        "scrollbar": palette.border,
        "scrollbar-background": palette.background,
        "scrollbar-hover": palette.dim,
        "scrollbar-active": palette.accent,
        "scrollbar-corner-color": palette.background,
        "scrollbar-background-hover": palette.background,
        "scrollbar-background-active": palette.background,
    }
    for number, (background, text) in enumerate(palette.heat, 1):
        named[f"heat-{number}"] = background
        named[f"heat-{number}-text"] = text
    return named


def theme(palette: Palette) -> Theme:
    """A Textual theme of a palette."""
    return Theme(
        name=palette.name,
        primary=palette.accent,
        secondary=palette.link,
        accent=palette.accent,
        foreground=palette.text,
        background=palette.background,
        surface=palette.surface,
        panel=palette.panel,
        success=palette.good,
        warning=palette.warning,
        error=palette.error,
        dark=palette.dark,
        variables=variables(palette),
    )


THEMES = {name: theme(palette) for name, palette in PALETTES.items()}
FALLBACK_VARIABLES = variables(PALETTES[DEFAULT])
