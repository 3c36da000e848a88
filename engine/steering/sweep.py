"""Dose and response: the strengths to try, and the smallest one that flips an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.steering.values import largest_activation
from engine.steering_results import Intervention, Kind

_POINTS = 17
_SPANS: dict[Kind, tuple[float, float]] = {
    "add": (-4.0, 4.0), "clamp": (0.0, 4.0), "cap": (0.0, 4.0), "scale": (-1.0, 3.0), "rescale": (-1.0, 3.0),
}  # fmt: skip
"""Of add, clamp and cap in multiples of the feature's maximum."""
_BISECTIONS = 8


def strengths_to_try(opened: OpenSet, varied: Intervention, given: Sequence[float]) -> list[float]:
    """The strengths of a sweep by rising value; zero is always among those chosen here.

    Raises:
        BadRequest: the intervention has no strength, or none were given and the feature's maximum is not known.
    """
    if not varied.has_strength:
        raise BadRequest(f"{varied.feature}: {varied.kind} has no strength to vary.", "Vary another, or scale it.")
    if given:
        return sorted(set(given))
    low, high = _SPANS[varied.kind]
    unit = 1.0
    if varied.kind in {"add", "clamp", "cap"} and varied.unit == "raw":
        feature = varied.feature
        unit = largest_activation(opened.find(feature.source, feature.index), feature.index)
    return [unit * (low + (high - low) * n / (_POINTS - 1)) for n in range(_POINTS)]


def with_strength(interventions: Sequence[Intervention], varied: int, strength: float) -> tuple[Intervention, ...]:
    """The interventions with another strength of one of them."""
    return tuple(
        msgspec.structs.replace(one, strength=strength) if place == varied else one
        for place, one in enumerate(interventions)
    )


def smallest_flip(tried: Sequence[tuple[float, float]], sign: int, margin_at: Callable[[float], float]) -> float | None:
    """The smallest strength of one sign with a margin above zero, among those tried and between.

    Args:
        tried: strengths and their margins, by rising strength; a flip between two is bisected.
        margin_at: the margin at any strength.
    """
    side = sorted((abs(s), m) for s, m in tried if s * sign >= 0)
    below = 0.0
    for size, margin in side:
        if margin > 0:
            high = size
            for _ in range(_BISECTIONS if size > below else 0):
                middle = (below + high) / 2
                if margin_at(sign * middle) > 0:
                    high = middle
                else:
                    below = middle
            return sign * high
        below = size
    return None
