"""A scrollable page of prepared lines: feature cards, help, reports."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from tui.widgets.paper import Paper

Build = Callable[[int], Sequence[Text]]
"""Given the width, the lines to show."""

_console = Console(width=1000, color_system="truecolor", force_terminal=True, legacy_windows=False)


def render_text(text: Text, base: Style) -> list[Segment]:
    """One line of rich text as segments over a base style.

    `Text.render` leaves the style of a text without spans to its console, so it is added here.
    """
    if isinstance(text.style, Style):
        base = base + text.style
    return [Segment(s.text, base + s.style if s.style else base) for s in text.render(_console) if s.text]


def same_text(a: Text | None, b: Text | None) -> bool:
    """Whether two lines look the same; `Text.__eq__` ignores style."""
    if a is None or b is None:
        return a is b
    return a.plain == b.plain and a.style == b.style and a.spans == b.spans


class Lines(Paper):
    """Shows what a function builds for its width, one `Text` per line; built again when the width changes.

    A line too long is cut: whoever builds knows the width.
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._build: Build = lambda width: ()
        self._lines: Sequence[Text] = ()

    def show(self, build: Build, *, keep_scroll: bool = False) -> None:
        """Show other lines; only those that differ are sent."""
        before, top = self._lines, self.scroll_offset.y
        self._build = build
        self._rebuild()
        if not keep_scroll:
            self.scroll_home(animate=False)
        if self.scroll_offset.y != top:
            self.refresh()
            return
        pairs = itertools.zip_longest(before, self._lines)
        self.redraw_lines({n for n, (a, b) in enumerate(pairs) if not same_text(a, b)})

    def _rebuild(self) -> None:
        width = self.scrollable_content_region.width
        self._fitted = width or -1  # built while hidden: to be built again when it shows
        self._lines = self._build(width) if width else ()
        self.set_height(len(self._lines))

    def fit(self, width: int) -> None:
        self._rebuild()

    @property
    def plain_lines(self) -> list[str]:
        """What is shown, without style; for tests."""
        return [line.plain for line in self._lines]

    def draw_line(self, y: int) -> Strip:
        base = self.rich_style
        number = y + self.scroll_offset.y
        if number >= len(self._lines):
            return Strip.blank(self.size.width, base)
        styled = render_text(self._lines[number], base)
        return Strip(styled).simplify().crop(0, self.size.width).adjust_cell_length(self.size.width, base)

    def move(self, step: int) -> None:
        self.scroll_relative(y=step, animate=False)

    def page(self, step: int) -> None:
        self.scroll_relative(y=step * max(1, self.size.height - 1), animate=False)

    def move_to_end(self, end: bool) -> None:
        self.scroll_end(animate=False) if end else self.scroll_home(animate=False)
