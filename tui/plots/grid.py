"""A sheet of cells to draw on, and the lines around it: headings, legends, axes. Each glyph is one cell wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from tui.plots.paint import Paint
from tui.plots.scale import Axis
from tui.text import cell_len, fit

_BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of a braille glyph by row and column of the dot."""
_PLAIN = Style()
_TITLE = 20
"""Cells of a title that no note takes."""


class Grid:
    """Glyphs and their styles by row and column, the first row at the top."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(width, 1), max(height, 1)
        self.glyphs = [[" "] * self.width for _ in range(self.height)]
        self.styles = [[_PLAIN] * self.width for _ in range(self.height)]

    def put(self, x: int, y: int, glyph: str, style: Style) -> None:
        """A glyph in a cell; nothing where there is no such cell."""
        if 0 <= x < self.width and 0 <= y < self.height:
            self.glyphs[y][x], self.styles[y][x] = glyph, style

    def add_dots(self, x: int, y: int, bits: int, style: Style) -> None:
        """Dots of a braille glyph, added to those there; over other glyphs none."""
        if 0 <= x < self.width and 0 <= y < self.height:
            code = ord(self.glyphs[y][x])
            if _BRAILLE <= code < _BRAILLE + 256 or code == 0x20:
                here = code - _BRAILLE if code != 0x20 else 0
                self.glyphs[y][x], self.styles[y][x] = chr(_BRAILLE | here | bits), style

    def lines(self) -> list[Text]:
        """The rows as text."""
        return [_line(glyphs, styles) for glyphs, styles in zip(self.glyphs, self.styles, strict=True)]


def _line(glyphs: list[str], styles: list[Style]) -> Text:
    """Runs of one style as pieces. Empty cells take the style before them: over SSH every change of style is sent."""
    line, start, style = Text(no_wrap=True), 0, styles[0]
    for x in range(1, len(glyphs) + 1):
        if x == len(glyphs) or (styles[x] is not style and (glyphs[x] != " " or style.bgcolor is not None)):
            line.append("".join(glyphs[start:x]), style or None)
            if x < len(glyphs):
                start, style = x, styles[x]
    return line


def clipped(lines: Sequence[Text], width: int, height: int) -> list[Text]:
    """Exactly `height` lines, none wider than `width` cells."""
    shown = list(lines[:height]) + [Text()] * (height - len(lines))
    for line in shown:
        if cell_len(line.plain) > width:
            line.truncate(width, overflow="ellipsis")
    return shown


Legend = Sequence[tuple[str, Style, str]]
"""Glyphs with their styles and what they stand for."""


def heading(title: str, legend: Legend, width: int, height: int, paint: Paint, note: str = "") -> list[Text]:
    """The title and the legend, on one line where both have room or the plot is low, else on two.

    A note beside which the title has no room shortens it: what is said there decides how the plot is to be read.
    """
    room = width - cell_len(note) - 2 if note else width
    first = Text.assemble((fit(title, min(cell_len(title), max(room, min(width, _TITLE)))), paint.bold))
    if note and width - cell_len(first.plain) >= 4:
        first.append(f"  {fit(note, min(cell_len(note), width - cell_len(first.plain) - 2))}", paint.dim)
    if not legend:
        return [first]
    keys = Text()
    for glyph, style, name in legend:
        keys.append(glyph, style)
        keys.append(f" {name}  ", paint.dim)
    keys.rstrip()
    room = width - cell_len(first.plain) - 3
    if cell_len(keys.plain) > room and height >= 9:
        return [first, _cut(keys, width)]
    return [Text.assemble(first, "   ", _cut(keys, room))] if room > 4 else [first]


def _cut(text: Text, width: int) -> Text:
    if cell_len(text.plain) > width:
        text.truncate(width, overflow="ellipsis")
    return text


def margin_of(y: Axis, height: int, width: int) -> int:
    """Cells that the labels of a vertical axis and its line take."""
    labels = [words for _, words in y.ticks(max(2, height // 3))]
    return min(max((cell_len(words) for words in labels), default=0) + 1, max(width // 3, 1))


def framed(
    body: list[Text], x: Axis, y: Axis, margin: int, width: int, paint: Paint, caret: float | None = None
) -> list[Text]:
    """The rows of a plot between their axes: labels on the left, ticks and their numbers below.

    `margin` is what `margin_of` said of the height of the body; the body is the rest of the width. `caret` is the place
    on the horizontal axis that the cursor marks.
    """
    height = len(body)
    labels = {_row(place, height): words for place, words in y.ticks(max(2, height // 3)) if -0.01 <= place <= 1.01}
    lines = []
    for row, drawn in enumerate(body):
        words = labels.get(row)
        side = fit(words, margin - 1, right=True) + "┤" if words is not None else " " * (margin - 1) + "│"
        lines.append(Text.assemble((side, paint.dim), drawn))
    room = max(width - margin, 1)
    ticks = [(place, words) for place, words in x.ticks(max(2, room // 12)) if -0.001 <= place <= 1.001]
    rule, below, end = ["─"] * room, [" "] * (margin + room), 0
    for place, words in ticks:
        column = min(max(round(place * (room - 1)), 0), room - 1)
        start = min(max(margin + column - len(words) // 2, 0), width - len(words))
        if start >= end:
            rule[column] = "┬"
            below[start : start + len(words)] = words
            end = start + len(words) + 1
    line = Text.assemble((" " * (margin - 1) + "└" + "".join(rule), paint.dim))
    if caret is not None and 0 <= caret <= 1:
        column = margin + round(caret * (room - 1))
        line = Text.assemble(line[:column], ("▲", paint.accent), line[column + 1 :])
    return [*lines, line, Text("".join(below)[:width].rstrip(), paint.dim)]


def _row(place: float, height: int) -> int:
    return height - 1 - round(place * (height - 1))
