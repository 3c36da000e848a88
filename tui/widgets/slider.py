"""A signed slider of one line: a mark in the middle, a bar from there to the handle."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style


def place_of(share: float, width: int) -> int:
    """The cell of the handle for a share in [−1, 1]; the middle of an odd `width` is 0."""
    middle = width // 2
    return middle + round(max(-1.0, min(1.0, share)) * middle)


def share_at(cell: int, width: int) -> float:
    """The share that a cell stands for; cells beyond the ends stand for the ends."""
    middle = width // 2
    return max(-1.0, min(1.0, (cell - middle) / middle)) if middle else 0.0


def slider(share: float, width: int, style: Callable[[str], Style]) -> list[Segment]:
    """`──────┼━━━●────`; beyond its ends the handle becomes an arrow. `style` knows dim, accent, positive, negative."""
    middle, place = width // 2, place_of(share, width)
    low, high = sorted((place, middle))
    pushed = style("negative" if share < 0 else "positive")
    segments = []
    for cell in range(width):
        if cell == place:
            handle = "●" if abs(share) <= 1 else "◀" if share < 0 else "▶"
            segments.append(Segment(handle, style("accent") if place == middle else pushed))
        elif cell == middle:
            segments.append(Segment("┼", style("dim")))
        else:
            between = low < cell < high
            segments.append(Segment("━" if between else "─", pushed if between else style("dim")))
    return segments
