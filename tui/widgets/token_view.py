"""Tokens as running text, each on the colour of its activation, with a cursor that moves from token to token.

Line API: a line is drawn from a cached strip, a cursor move redraws two lines, and tokens at level zero have no
style at all, which over SSH costs a fifth of the bytes of colouring everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.reactive import var
from textual.strip import Strip

from themes.palettes import BARS, LEVELS
from tui.text import cell_len, token_glyphs
from tui.widgets.paper import Paper


@dataclass(frozen=True)
class Piece:
    """A part of a token that lies on one line."""

    token: int
    text: str
    x: int
    width: int


def wrap(texts: Sequence[str], width: int) -> list[list[Piece]]:
    """Lay tokens out in lines of `width` cells; a token breaks only where it is longer than a line.

    A token that holds a newline ends its line.
    """
    lines: list[list[Piece]] = [[]]
    x = 0
    for index, raw in enumerate(texts):
        text = token_glyphs(raw)
        size = cell_len(text)
        if x and x + size > width:
            lines.append([])
            x = 0
        while size > width > 0:
            head = _head(text, width)
            lines[-1].append(Piece(index, head, 0, cell_len(head)))
            lines.append([])
            text = text[len(head) :]
            size = cell_len(text)
        if text:
            lines[-1].append(Piece(index, text, x, size))
            x += size
        if "\n" in raw:
            lines.append([])
            x = 0
    if not lines[-1] and len(lines) > 1:
        lines.pop()
    return lines


def _head(text: str, width: int) -> str:
    """As many characters as fit in `width` cells, at least one."""
    used = 0
    for place, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[: max(place, 1)]
    return text


class TokenView(Paper):
    """Shows tokens; posts `Moved` when the user moves the cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tokens--cursor",
        "tokens--first",
        "tokens--stale",
        *(f"tokens--heat-{n}" for n in range(1, LEVELS + 1)),
    }

    cursor: var[int] = var(0)
    stale: var[bool] = var(False)
    bars: var[bool] = var(False)
    """A second line under every line of text, with a bar per token: reading without colour."""

    class Moved(Message):
        """The user put the cursor on a token."""

        def __init__(self, token: int) -> None:
            super().__init__()
            self.token = token

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, TokenView.Moved)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._texts: tuple[str, ...] = ()
        self._levels: tuple[int, ...] = ()
        self._sinks: frozenset[int] = frozenset()
        self._lines: list[list[Piece]] = []
        self._where: dict[int, tuple[int, int]] = {}
        self._strips: dict[int, Strip] = {}
        self._styles: list[Style] = []
        self._width = 0

    # --- what is shown ------------------------------------------------------------------------------------------

    def show(self, texts: tuple[str, ...], levels: tuple[int, ...], sinks: frozenset[int]) -> None:
        """Show tokens with their steps 0…8; sinks are dimmed."""
        if texts != self._texts:
            self._texts, self._levels, self._sinks = texts, levels, sinks
            self._lay_out()
            self.scroll_home(animate=False)
            self.refresh()
        elif levels != self._levels or sinks != self._sinks:
            changed = {i for i, (a, b) in enumerate(zip(levels, self._levels, strict=False)) if a != b}
            self._levels, self._sinks = levels, sinks
            lines = {line for token in changed for line in range(*self._span(token))}
            self._redraw(lines)

    def _lay_out(self) -> None:
        self._width = self.scrollable_content_region.width
        self._lines = wrap(self._texts, self._width) if self._width else []
        self._where = {}
        for number, line in enumerate(self._lines):
            for piece in line:
                first = self._where.get(piece.token, (number, number))[0]
                self._where[piece.token] = (first, number)
        self._strips.clear()
        self.set_height(len(self._lines) * self._rows_per_line)

    @property
    def _rows_per_line(self) -> int:
        return 2 if self.bars else 1

    def _span(self, token: int) -> tuple[int, int]:
        first, last = self._where.get(token, (0, -1))
        return first, last + 1

    def _redraw(self, lines: set[int]) -> None:
        for line in lines:
            self._strips.pop(line, None)
        rows = self._rows_per_line
        self.redraw_lines({line * rows + row for line in lines for row in range(rows)})

    def fit(self, width: int) -> None:
        self._lay_out()

    def on_resize(self, _: events.Resize) -> None:
        self.reveal()

    def notify_style_update(self) -> None:
        self._styles = []
        self._strips.clear()
        super().notify_style_update()

    def watch_cursor(self, old: int, new: int) -> None:
        self._redraw({line for token in (old, new) for line in range(*self._span(token))})
        self.reveal()

    def watch_stale(self) -> None:
        self._strips.clear()
        self.refresh()

    def watch_bars(self) -> None:
        self._lay_out()
        self.reveal()
        self.refresh()

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self._texts) - 1))

    def reveal(self) -> None:
        """Scroll so that the cursor is on screen."""
        first, last = self._where.get(self.cursor, (0, 0))
        rows = self._rows_per_line
        region = Region(0, first * rows, 1, (last - first + 1) * rows)
        self.scroll_to_region(region, animate=False, force=True)

    # --- drawing ------------------------------------------------------------------------------------------------

    def draw_line(self, y: int) -> Strip:
        number, bar = divmod(y + self.scroll_offset.y, self._rows_per_line)
        if number >= len(self._lines):
            return Strip.blank(self.size.width, self.rich_style)
        if bar:
            return self._draw_bars(number)
        strip = self._strips.get(number)
        if strip is None:
            strip = self._strips[number] = self._draw(number)
        return strip

    def _draw(self, number: int) -> Strip:
        base = self.rich_style
        cursor = self.get_component_rich_style("tokens--cursor")
        first = self.get_component_rich_style("tokens--first", partial=True)
        stale = self.get_component_rich_style("tokens--stale", partial=True)
        if not self._styles:
            heat = (self.get_component_rich_style(f"tokens--heat-{n}") for n in range(1, LEVELS + 1))
            self._styles = [base, *heat]
        segments = []
        for piece in self._lines[number]:
            level = self._levels[piece.token] if piece.token < len(self._levels) else 0
            style = self._styles[level]
            if self.stale:
                style = base + stale
            elif piece.token in self._sinks:
                style = base + first
            if piece.token == self.cursor:
                style = cursor
            segments.append(Segment(piece.text, style))
        return Strip(segments).simplify().adjust_cell_length(self.size.width, base)

    def _draw_bars(self, number: int) -> Strip:
        text = "".join(
            BARS[self._levels[p.token] if p.token < len(self._levels) else 0] * p.width for p in self._lines[number]
        )
        return Strip([Segment(text, self.rich_style)]).adjust_cell_length(self.size.width, self.rich_style)

    # --- the user -----------------------------------------------------------------------------------------------

    def move(self, step: int) -> None:
        """Move by tokens."""
        self._go(self.cursor + step)

    def move_line(self, step: int) -> None:
        """Move by lines, to the token at the same column."""
        if not self._lines or self.cursor not in self._where:
            return
        line = self._where[self.cursor][0]
        x = next(p.x for p in self._lines[line] if p.token == self.cursor)
        target = max(0, min(line + step, len(self._lines) - 1))
        if target == line or not self._lines[target]:
            return
        before = [p for p in self._lines[target] if p.x <= x]
        self._go((before or self._lines[target])[-1 if before else 0].token)

    def move_to_end(self, end: bool) -> None:
        self._go(len(self._texts) - 1 if end else 0)

    def page(self, step: int) -> None:
        self.move_line(step * max(1, self.size.height - 1))

    def _go(self, token: int) -> None:
        token = max(0, min(token, len(self._texts) - 1))
        if self._texts and token != self.cursor:
            self.post_message(self.Moved(token))

    def on_click(self, event: events.Click) -> None:
        line = (event.y + self.scroll_offset.y) // self._rows_per_line
        if line < len(self._lines):
            for piece in self._lines[line]:
                if piece.x <= event.x < piece.x + piece.width:
                    self._go(piece.token)
