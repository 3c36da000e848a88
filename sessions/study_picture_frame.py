"""What all plots of a picture share: text, colours with patterns and marks, keys, and the frame with its axes.

No difference is told by colour alone: bars have patterns, points and lines marks. The colours are Okabe and Ito's,
which the colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

from engine.text import visible
from sessions.circuit_layout import columns_of, cut
from sessions.study_picture_scale import Scale

WIDTH = 900
"""Of a picture, in pixels."""
RIGHT = WIDTH - 30
CHARACTER = 6.7
"""The width of a character of 11 pixels."""
GREY, INK = "#555555", "#222222"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
OTHER = "#8a8a8a"
MOST_SERIES = 24
"""Told apart by colour and pattern, or colour and mark."""
_MOTIFS = (
    "",
    '<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6" {}/>',
    '<path d="M0 4H8" {}/>',
    '<path d="M4 0V8M0 4H8" {}/>',
    '<path d="M-2 6L2 10M0 0L8 8M6 -2L10 2" {}/>',
    '<path d="M3 4H5M-1 0H1M7 0H9M-1 8H1M7 8H9" {}/>',
)
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_MARKS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "m-2.7 -2.7h5.4v5.4h-5.4z",
    "m0 -3.6l3.4 6h-6.8z",
    "m0 -3.8l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
    "m0 3.6l3.4 -6h-6.8z",
    "m-3.4 -1.1h2.3v-2.3h2.2v2.3h2.3v2.2h-2.3v2.3h-2.2v-2.3h-2.3z",
)
_DOT = "m-1.5 0a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0 -3 0z"


class Key(NamedTuple):
    """A line of a legend: how the n-th series looks, and its name. `n` under zero is the rest, or what is missing."""

    kind: Literal["fill", "line", "mark"]
    n: int
    text: str


@dataclass
class Drawn:
    """A plot without its heading: elements between y = 0 and its height, keys, and what has to be said."""

    parts: list[str]
    height: float
    keys: list[Key] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Frame(NamedTuple):
    """The rectangle in which the data lie."""

    left: float
    top: float
    right: float
    bottom: float


def xml(text: str) -> str:
    """Any text, safe in an attribute or an element."""
    return escape(visible(text), {'"': "&quot;"})


def fit(words: str, room: int) -> str:
    """Any text, safe, in at most so many columns."""
    return cut(visible(words[:400]), room)


def text(x: float, y: float, words: str, attributes: str = "") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{" " + attributes if attributes else ""}>{xml(words)}</text>'


def counted(count: int, one: str, many: str) -> str:
    """`1 point`, `2,000 points`."""
    return f"{count:,} {one if count == 1 else many}"


def titled(element: str, words: str) -> str:
    """An element (`<… />`) that says these words under the pointer."""
    name = element[1 : element.index(" ")]
    return f"{element[:-2]}><title>{xml(words)}</title></{name}>"


def colour(n: int) -> str:
    """Of the n-th series; grey for the rest."""
    return COLOURS[n % len(COLOURS)] if n >= 0 else OTHER


def mark(n: int) -> str:
    """The outline of the n-th mark about a point, as the end of a path; a dot for the rest."""
    return _MARKS[(n + n // len(COLOURS)) % len(_MARKS)] if n >= 0 else _DOT


def dashes(n: int) -> str:
    """How the line of the n-th series is broken: an attribute with a leading space, or nothing."""
    pattern = _DASHES[n // len(COLOURS) % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def fill(n: int) -> str:
    """The filling of the n-th series of bars; under zero that of cells without a number."""
    return f"url(#fill{n})" if n >= 0 else "url(#missing)"


def definitions(drawn: str) -> str:
    """The patterns that a drawing uses."""
    found = [
        _pattern(f"fill{n}", colour(n), _motif(n), "#ffffff") for n in range(MOST_SERIES) if f"(#fill{n})" in drawn
    ]
    if "(#missing)" in drawn:
        found.append(_pattern("missing", "#f4f4f2", _MOTIFS[5], "#b4b4b0"))
    if "(#negative)" in drawn:
        found.append(_pattern("negative", "none", _MOTIFS[1], "#333333"))
    return f"<defs>{''.join(found)}</defs>" if found else ""


def _motif(n: int) -> str:
    return _MOTIFS[(n + n // len(COLOURS)) % len(_MOTIFS)]


def _pattern(name: str, background: str, motif: str, ink: str) -> str:
    stroke = f'stroke="{ink}" stroke-width="1.3" fill="none"'
    return (
        f'<pattern id="{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{background}"/>{motif.format(stroke)}</pattern>'
    )


def legend(keys: Sequence[Key], y: float) -> tuple[list[str], float]:
    """Keys side by side in as many lines as they need from `y` on, and how high these are together."""
    parts: list[str] = []
    x, line = 20.0, 0
    for key in keys[: MOST_SERIES + 1]:
        words = fit(key.text, 40)
        size = 34 + columns_of(words) * CHARACTER + 14
        if x > 20 and x + size > RIGHT:
            x, line = 20.0, line + 1
        parts += [_swatch(key, x, y + line * 18 + 9), text(x + 34, y + line * 18 + 13, words)]
        x += size
    return parts, 18.0 * (line + 1) if keys else 0.0


def _swatch(key: Key, x: float, y: float) -> str:
    if key.kind == "fill":
        return f'<rect x="{x:.0f}" y="{y - 6:.0f}" width="26" height="12" fill="{fill(key.n)}" stroke="#666666"/>'
    shape = f'<path d="M{x + 13:.0f} {y:.0f}{mark(key.n)}" fill="{colour(key.n)}"/>'
    if key.kind == "mark":
        return shape
    line = f'<path d="M{x:.0f} {y:.0f}h26" stroke="{colour(key.n)}" stroke-width="1.8" fill="none"{dashes(key.n)}/>'
    return line + shape


def framed(x: Scale, y: Scale, names: tuple[str, str], height: float) -> tuple[list[str], Frame, Scale, Scale]:
    """A frame as wide as the picture with room for the numbers on the left, its axes, and the scales fitted to it."""
    marks = y.between(height, 8).ticks(max(int(height // 45), 2))
    left = 48 + max((columns_of(words) for _, words in marks), default=1) * CHARACTER
    frame = Frame(left, 8, RIGHT, height)
    x, y = x.between(frame.left, frame.right), y.between(frame.bottom, frame.top)
    parts = [*across(x, frame, names[0]), *upward(y, frame, names[1])]
    box = f'x="{left:.1f}" y="8" width="{frame.right - left:.1f}" height="{height - 8:.1f}"'
    parts.append(f'<rect class="frame" {box} fill="none" stroke="#999999"/>')
    return parts, frame, x, y


def across(x: Scale, frame: Frame, name: str) -> list[str]:
    """The axis under a frame, with its grid."""
    parts, end = [], 0.0
    for place, words in x.ticks(9):
        parts.append(_line(place, frame.top, place, frame.bottom))
        half = columns_of(words) * CHARACTER / 2
        if place - half > end:
            parts.append(text(place, frame.bottom + 16, words, f'class="x" text-anchor="middle" fill="{GREY}"'))
            end = place + half + 6
    middle = (frame.left + frame.right) / 2
    parts.append(text(middle, frame.bottom + 34, fit(name, 90), 'class="name" text-anchor="middle"'))
    return parts


def upward(y: Scale, frame: Frame, name: str) -> list[str]:
    """The axis on the left of a frame, with its grid."""
    parts = []
    for place, words in y.ticks(max(int((frame.bottom - frame.top) // 45), 2)):
        parts.append(_line(frame.left, place, frame.right, place))
        parts.append(text(frame.left - 6, place + 4, words, f'class="y" text-anchor="end" fill="{GREY}"'))
    middle = (frame.top + frame.bottom) / 2
    turned = f'class="name" text-anchor="middle" transform="rotate(-90 24 {middle:.1f})"'
    parts.append(text(24, middle, fit(name, 50), turned))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="#e6e6e2"/>'
