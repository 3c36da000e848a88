"""Axes: where a value lies between the ends, and the ticks between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tui.plots.words import short

_MOST = 1e300
"""Larger values are drawn at the edge: differences of two of them would not be finite."""
_SPAN = 1e-12
"""Axes are not narrower than this share of the size of their values: floats would step visibly."""


@dataclass(frozen=True)
class Axis:
    """A section of the numbers, or with `log` of their decimal exponents."""

    low: float
    high: float
    log: bool = False

    def raw(self, value: float) -> float | None:
        """A value in the units of the ends; None for what a logarithmic scale has no place for."""
        if self.log:
            return math.log10(value) if value > 0 else None
        return max(-_MOST, min(value, _MOST))

    def place(self, value: float) -> float | None:
        """Where a value lies: 0 at the low end, 1 at the high one, beyond them where it is outside."""
        raw = self.raw(value)
        return None if raw is None else (raw - self.low) / (self.high - self.low)

    def zoomed(self, factor: float, about: float) -> Axis:
        """A section smaller by a factor; the value at the place `about` stays where it is."""
        size = self.high - self.low
        centre = self.low + about * size
        return _apart(replace(self, low=centre - about * size / factor, high=centre + (1 - about) * size / factor))

    def moved(self, share: float) -> Axis:
        """The section moved by a share of its size."""
        step = share * (self.high - self.low)
        return _apart(replace(self, low=self.low + step, high=self.high + step))

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round numbers of the section, at most so many, with their places from 0 to 1."""
        most = max(most, 1)
        places = self._powers(most) if self.log else []
        places = places if len(places) > 1 else self._round(most)
        words: dict[str, float] = {}
        for place, label in places:
            words.setdefault(label, place)  # far below the digits shown two ticks read the same
        return [(place, label) for label, place in words.items()]

    def _powers(self, most: int) -> list[tuple[float, str]]:
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        step = max(1, -(-(last - first + 1) // most))
        powers = [float(power) for power in range(first, last + 1, step)]
        if len(powers) < 2 and self.high - self.low < 2:
            whole = range(math.floor(self.low), math.ceil(self.high))
            powers = [p + math.log10(n) for p in whole for n in (1, 2, 5)]
            powers = [power for power in powers if self.low - 1e-9 <= power <= self.high + 1e-9]
        return [((p - self.low) / (self.high - self.low), _power(p)) for p in powers]

    def _round(self, most: int) -> list[tuple[float, str]]:
        step = _step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [n * step for n in range(first, last + 1)] if last - first <= 2 * most else []
        if len(values) > most:
            values = values[::2]
        labelled = [(v, _power(v) if self.log else tick_words(v, step)) for v in values]
        return [((value - self.low) / (self.high - self.low), words) for value, words in labelled]


def axis_over(values: Iterable[float], *, log: bool = False, zero: bool = False, room: float = 0.0) -> Axis:
    """The axis from the smallest to the largest value; with `zero` from or to zero, with `room` a share more."""
    empty = Axis(0.0, 1.0, log)
    raws = [raw for value in values if (raw := empty.raw(value)) is not None]
    if not raws:
        return empty
    low, high = min(raws), max(raws)
    if zero and not log:
        low, high = min(low, 0.0), max(high, 0.0)
    size = high - low
    return _apart(Axis(low - room * size, high + room * size, log))


def axis_between(low: float, high: float) -> Axis:
    """The axis with these ends, as far as floats can tell its values apart."""
    return _apart(Axis(low, high))


def _apart(axis: Axis) -> Axis:
    """The axis with room between its ends."""
    low, high = max(axis.low, -_MOST), min(axis.high, _MOST)
    centre, size = (low + high) / 2, high - low
    least = max(abs(low), abs(high)) * _SPAN
    if size > max(least, 1e-290):
        return replace(axis, low=low, high=high)
    half = 0.5 if axis.log else abs(centre) / 2 if size <= 0 and abs(centre) > 1e-290 else max(least / 2, 1e-290)
    half = 0.5 if size <= 0 and abs(centre) <= 1e-290 else half
    return replace(axis, low=centre - half, high=centre + half)


def _step(rough: float) -> float:
    """The next of 1, 2, 5, 10 … that is not smaller."""
    if rough <= 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    if power <= 0:
        return rough
    return next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))


def tick_words(value: float, step: float) -> str:
    """A tick's number with as many digits as its step needs."""
    if abs(value) < step / 1e6:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    if abs(value) >= 1e7 or decimals > 5:
        return short(value)
    words = f"{abs(value):,.{max(decimals, 0)}f}"
    words = words[1:] if words.startswith("0.") else words
    return f"−{words}" if value < 0 else words


def _power(exponent: float) -> str:
    if not -300 < exponent < 300:
        return f"1e{exponent:+.0f}".replace("-", "−")
    return short(10.0**exponent)
