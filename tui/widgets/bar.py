"""One-line widgets: the rule that titles a pane, and lines of information."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from tui.text import cell_len, fit
from tui.widgets.frames import Settled
from tui.widgets.lines import render_text, same_text


class Bar(Settled, can_focus=False):
    """A line of styled text, left and right; what does not fit is cut on the left part."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "bar--dim",
        "bar--accent",
        "bar--good",
        "bar--warning",
        "bar--error",
        "bar--link",
    }

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._left = self._right = Text()

    def show(self, left: Text, right: Text | None = None) -> None:
        """Show other text; nothing is sent where it is the same."""
        right = right if right is not None else Text()
        if not (same_text(left, self._left) and same_text(right, self._right)):
            self._left, self._right = left, right
            self.refresh()

    def style_of(self, part: str) -> Style:
        """The style of a part: dim, accent, good, warning, error or link."""
        return self.get_component_rich_style(f"bar--{part}", partial=True)

    @property
    def plain(self) -> str:
        """What is shown, without style; for tests."""
        return f"{self._left.plain} {self._right.plain}".strip()

    def filler(self) -> str:
        return " "

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        if y:
            return Strip.blank(width, base)
        right = self._right if cell_len(self._right.plain) < width - 4 else Text()
        room = width - cell_len(right.plain)
        left = self._left.copy()
        if cell_len(left.plain) > room - 1:
            left.truncate(max(room - 1, 0), overflow="ellipsis")
        gap = self.filler() * max(0, room - cell_len(left.plain))
        segments = [
            *render_text(left, base),
            Segment(gap, base + self.gap_style()),
            *render_text(right, base),
        ]
        return Strip(segments).simplify().adjust_cell_length(width, base)

    def gap_style(self) -> Style:
        return Style()


class TitleBar(Bar):
    """The rule above a pane: its number and name, what it shows, and figures on the right.

    Where several panes share a place, the names of the others follow, dimmed, like tabs.
    """

    def __init__(self, number: int, name: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.number = number
        self.label = name
        self.tabs: tuple[tuple[int, str], ...] = ()
        self._info = Text()
        self._figures = Text()

    def set_focused(self, focused: bool) -> None:
        """Draw the name in the accent colour while its pane has the focus."""
        self.set_class(focused, "-focused")
        self.show_info(self._info, self._figures)

    def set_tabs(self, tabs: tuple[tuple[int, str], ...]) -> None:
        """Name all panes that share this place; none for a pane of its own."""
        if tabs != self.tabs:
            self.tabs = tabs
            self.show_info(self._info, self._figures)

    def show_info(self, info: Text | str, figures: Text | str = "") -> None:
        """What the pane shows, and figures on the right."""
        self._info = info if isinstance(info, Text) else Text(info)
        self._figures = figures if isinstance(figures, Text) else Text(figures)
        rule = self.style_of("dim")
        marked = Style(bold=True) + (self.style_of("accent") if self.has_class("-focused") else Style())
        names = self.tabs or ((self.number, self.label),)
        line = Text("─ ", rule)
        for place, (number, name) in enumerate(names):
            line.append(" · " if place else "", rule)
            line.append(f"{number} {name}", marked if number == self.number else rule)
        line.append(" ", rule)
        if self._info.plain:
            line.append("─ ", rule)
            line.append_text(self._info)
            line.append(" ", rule)
        right = Text()
        if self._figures.plain:
            right.append(" ")
            right.append_text(self._figures)
            right.append(" ─", rule)
        self.show(line, right)

    def on_mount(self) -> None:
        self.show_info(self._info, self._figures)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self.is_mounted:
            self.show_info(self._info, self._figures)

    def filler(self) -> str:
        return "─"

    def gap_style(self) -> Style:
        return self.style_of("dim")


def shortened(text: str, width: int) -> str:
    """At most `width` cells of a text, with … where it was cut."""
    return text if cell_len(text) <= width else fit(text, width)
