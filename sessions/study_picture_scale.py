"""Axes of pictures: where a number lies between two ends, and round numbers to mark on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["linear", "log", "counts"]
"""`counts` is the logarithm of 1 + count, so that a count of zero has a place."""

_MOST = 1e300
"""Larger numbers are drawn at the edge: differences of two of them would not be finite."""
_LEAST = 1e-290
_ALIKE = 1e-12
"""Ends closer than this share of their size are one number: floats between them would step visibly."""


class Scale(NamedTuple):
    """A section of the numbers, or of their logarithms, and the coordinates of its ends."""

    low: float
    high: float
    start: float = 0.0
    end: float = 1.0
    kind: Kind = "linear"

    def at(self, value: float) -> float:
        """The coordinate of a value; ValueError for what a logarithmic axis has no place for."""
        number = raw(value, self.kind)
        if number is None:
            raise ValueError(value)
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    def between(self, start: float, end: float) -> Scale:
        """The same section, drawn between other coordinates."""
        return self._replace(start=start, end=end)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Coordinates and words of at most so many round numbers of the section, in rising order."""
        if self.kind == "linear":
            marked = _round(self.low, self.high, most)
        elif self.kind == "counts":
            powers = [0.0, *(10.0**power for power in range(min(math.floor(self.high + 1e-9), 300) + 1))]
            marked = [(value, number(value)) for value in powers[:: -(-len(powers) // max(most, 1))]]
        else:
            marked = _powers(self.low, self.high, most)
        inside = [(self.at(value), words) for value, words in marked if abs(value) <= _MOST]
        first, last = sorted((self.start, self.end))
        return [(place, words) for place, words in inside if first - 0.01 <= place <= last + 0.01]


def raw(value: float, kind: Kind) -> float | None:
    """A value in the units of an axis's ends; None for what a logarithmic one has no place for."""
    value = max(-_MOST, min(value, _MOST))
    if kind == "linear":
        return value
    if kind == "counts":
        return math.log10(1 + value) if value >= 0 else None
    return math.log10(value) if value > 0 else None


def scale_over(values: Iterable[float], kind: Kind = "linear", *, zero: bool = False, room: float = 0.0) -> Scale:
    """From the smallest to the largest value; with `zero` from or to zero, with `room` a share more on open ends."""
    numbers = [found for value in values if (found := raw(value, kind)) is not None]
    if zero and kind != "log":
        numbers.append(0.0)
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    size, centre = high - low, low / 2 + high / 2
    if size <= max(max(abs(low), abs(high)) * _ALIKE, _LEAST):
        half = 0.5 if kind != "linear" or abs(centre) < _LEAST else abs(centre) / 2
        return Scale(centre - half, centre + half, kind=kind)
    bare = zero and kind != "log"
    low = low if bare and low == 0 else low - room * size
    return Scale(low, high if bare and high == 0 else high + room * size, kind=kind)


def number(value: float) -> str:
    """Three significant digits; thousands with commas, an exponent only for the very large and the very small."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    words = f"{abs(value):.3g}"
    if "e+" in words and abs(float(words)) < 1e7:
        words = f"{float(words):,.0f}"
    return f"−{words}" if value < 0 and float(f"{abs(value):.3g}") else words


def _round(low: float, high: float, most: int) -> list[tuple[float, str]]:
    step = nice_step((high - low) / max(most, 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first + 1 > most:  # both ends are round themselves
        step = nice_step(step * 1.01)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, _words(n, step, max(abs(low), abs(high)))) for n in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The next of … 1, 2, 5, 10 … that is not smaller."""
    power = 10.0 ** math.floor(math.log10(max(rough, _LEAST)))
    return next(n * power for n in (1, 2, 5, 10, 20) if n * power >= rough * (1 - 1e-9))


def _words(n: int, step: float, largest: float) -> str:
    """The n-th multiple of a step, with as many digits as tell it from the next."""
    if n == 0:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    if 1e-4 <= largest < 1e7:
        words = f"{abs(n * step):,.{max(decimals, 0)}f}"
    else:
        digits = max(0, min(math.floor(math.log10(abs(n) * step) + 1e-9) + decimals, 15))
        words = f"{abs(n * step):.{digits}e}"
    return f"−{words}" if n < 0 else words


def _powers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Powers of ten; in a short section their halves and fifths, in a very short one round numbers as they come."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    powers = range(first, last + 1, max(1, -(-(last - first + 1) // max(most, 1))))
    values = [10.0**power for power in powers if -308 < power < 308]
    if len(values) < 2:
        values = [
            n * 10.0**power
            for power in range(math.floor(low), math.floor(high) + 1)
            for n in (1, 2, 5)
            if -308 < power < 308 and low - 1e-9 <= power + math.log10(n) <= high + 1e-9
        ]
    if len(values) < 2 and low > -300 and high < 300:
        return [(value, words) for value, words in _round(10.0**low, 10.0**high, most) if value > 0]
    return [(value, number(value)) for value in values[: max(most, 1)]]
