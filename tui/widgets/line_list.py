"""A list of lines with a cursor, drawn line by line from data: a thousand rows cost what is visible.

`DataTable` would do, but it builds every cell up front, takes no per-cell links from plain data, and sends twelve
hundred bytes per cursor step.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import var
from textual.strip import Strip

from tui.widgets.bar import shortened
from tui.widgets.paper import Paper


class LineList(Paper):
    """Subclasses say how many rows there are and what each looks like; a header line stays on top."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "list--cursor",
        "list--header",
        "list--dim",
        "list--accent",
        "list--link",
    }

    cursor: var[int] = var(0)
    _cursor_hidden = False
    _stays = False
    header_lines = 1
    empty = ""
    """What is said where there are no rows."""

    class Moved(Message):
        """The user put the cursor on a row."""

        def __init__(self, widget: LineList, row: int) -> None:
            super().__init__()
            self.widget = widget
            self.row = row

        @property
        def control(self) -> LineList:
            return self.widget

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LineList.Moved) and message.widget is self.widget

    class Chosen(Message):
        """The user pressed Enter or clicked on the row under the cursor."""

        def __init__(self, widget: LineList, row: int) -> None:
            super().__init__()
            self.widget = widget
            self.row = row

        @property
        def control(self) -> LineList:
            return self.widget

    # --- what subclasses give -----------------------------------------------------------------------------------

    @property
    def row_count(self) -> int:
        raise NotImplementedError

    def draw_row(self, row: int, width: int) -> list[Segment]:
        """The segments of a row; the base colours are added under them."""
        raise NotImplementedError

    def is_marked(self, row: int) -> bool:
        """Whether the cursor shows on a row."""
        return row == self.cursor and not self._cursor_hidden

    def draw_header(self, width: int) -> list[Segment]:
        return []

    # --- refreshing ---------------------------------------------------------------------------------------------

    def rows_changed(self, rows: set[int] | None = None) -> None:
        """Redraw some rows, or after a change of the number of rows everything."""
        self.set_height(self.row_count + self.header_lines)
        if rows is None:
            self.refresh()
        else:
            self._refresh_rows(rows)

    def _refresh_rows(self, rows: set[int]) -> None:
        top = self.scroll_offset.y
        self.redraw_lines({row + self.header_lines for row in rows if row >= top})

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.row_count - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        self._refresh_rows({old, new})
        if not self._stays:
            self.reveal()

    def show_cursor(self, row: int | None, *, reveal: bool = True) -> None:
        """Put the cursor on a row; None where what is selected is not in the list, which then shows no cursor.

        Without `reveal` the list stays where it is: what moved was not the list's own cursor.
        """
        hidden = row is None
        if hidden != self._cursor_hidden:
            self._cursor_hidden = hidden
            self._refresh_rows({self.cursor})
        if row is not None:
            self._stays = not reveal
            self.cursor = row
            self._stays = False

    def reveal(self) -> None:
        """Scroll so that the cursor is on screen, below the header."""
        top, height = self.scroll_offset.y, self.size.height - self.header_lines
        if height <= 0:
            return
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True)

    # --- drawing ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """The cells of a line: the column of the scrollbar is not among them, whether or not one is shown."""
        return self.scrollable_content_region.width

    def header_changed(self) -> None:
        """Redraw the header alone."""
        self.refresh(Region(0, 0, self.size.width, self.header_lines))

    def style_of(self, part: str) -> Style:
        return self.get_component_rich_style(f"list--{part}", partial=True)

    def draw_line(self, y: int) -> Strip:
        width = self.room
        base = self.rich_style
        if y < self.header_lines:
            segments, under = self.draw_header(width), base + self.style_of("header")
        else:
            row = y - self.header_lines + self.scroll_offset.y
            if row >= self.row_count:
                note = self.empty if row == 0 else ""
                dim = base + self.style_of("dim")
                return Strip([Segment(shortened(note, width), dim)]).adjust_cell_length(self.size.width, base)
            segments = self.draw_row(row, width)
            under = base + self.style_of("cursor") if self.is_marked(row) else base
        styled = [Segment(s.text, under + s.style if s.style else under) for s in segments]
        strip = Strip(styled).simplify().adjust_cell_length(width, under)
        return strip.adjust_cell_length(self.size.width, base)

    # --- the user -----------------------------------------------------------------------------------------------

    def move(self, step: int) -> None:
        self._go(self.cursor + step)

    def move_to_end(self, end: bool) -> None:
        self._go(self.row_count - 1 if end else 0)

    def page(self, step: int) -> None:
        self.move(step * max(1, self.size.height - self.header_lines - 1))

    def _go(self, row: int) -> bool:
        """Put the cursor on a row, as far as there are any; whether that moved it. One that shows is a move too."""
        row = max(0, min(row, self.row_count - 1))
        if not self.row_count or (row == self.cursor and not self._cursor_hidden):
            return False
        self.show_cursor(row)
        self.reveal()
        self.post_message(self.Moved(self, row))
        return True

    def choose(self) -> None:
        if self.row_count:
            self.post_message(self.Chosen(self, self.cursor))

    def action_move(self, step: int) -> None:
        self.move(step)

    def action_page(self, step: int) -> None:
        self.page(step)

    def action_end(self, end: bool) -> None:
        self.move_to_end(end)

    def action_choose(self) -> None:
        self.choose()

    def on_click(self, event: events.Click) -> None:
        row = event.y - self.header_lines + self.scroll_offset.y
        if event.y >= self.header_lines and row < self.row_count:
            self._go(row)


class PageList(LineList):
    """A list on a page of its own, with the movements all lists have."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "page down", show=False),
        Binding("home,g", "end(False)", "first", show=False),
        Binding("end,G", "end(True)", "last", show=False),
        Binding("enter", "choose", "take", show=False),
    ]
    header_lines = 0
