"""Turning values and tokens into what a terminal shows."""

from __future__ import annotations

from rich.cells import cell_len, chop_cells, set_cell_size

from engine.text import visible, visible_in_place, visible_token

__all__ = [
    "cell_len",
    "fit",
    "number",
    "signed",
    "token_glyphs",
    "visible",
    "visible_in_place",
    "visible_token",
    "wrapped",
]


def number(value: float) -> str:
    """Three significant digits, no exponent where one can do without: 31.4, .31, 4,870, −2.5."""
    return f"−{_size(-value)}" if value < 0 else _size(value)


def _size(value: float) -> str:
    size = abs(float(f"{value:.3g}"))  # as it will be read: 9.999 is 10.0
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if size >= 0.001 or size == 0:
        return f"{value:.3f}".replace("0.", ".", 1) if size else "0"
    return f"{value:.0e}"


def signed(value: float) -> str:
    """As `number`, always with its sign; zero has none."""
    return f"+{number(value)}" if value > 0 else number(value)


def percent(share: float) -> str:
    """A share as a percentage: 31.4 %, 3.14 %, .314 %."""
    return f"{number(100 * share)} %"


def counted(count: int, one: str, many: str) -> str:
    """`1 dictionary`, `6 dictionaries`."""
    return f"{count} {one if count == 1 else many}"


def fit(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` cells: shortened with …, or padded."""
    if width <= 0:
        return ""
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - size) + text if right else text + " " * (width - size)


def token_glyphs(text: str) -> str:
    """A token inside running text: visible, and never empty."""
    return visible(text) or "∅"


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, broken at spaces, long words in the middle; control characters visible."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in visible(paragraph).split(" "):
            candidate = f"{line} {word}" if line else word
            if cell_len(candidate) <= width or width < 1:
                line = candidate
                continue
            if line:
                lines.append(line)
            *full, line = chop_cells(word, width) or [""]
            lines += full
        lines.append(line)
    return lines
