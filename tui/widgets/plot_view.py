"""A plot of a study's table: bars, histogram, curve, scatter or heat, with a cursor on what it shows."""

from __future__ import annotations

import itertools
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from engine.protocol import AnyView, FeatureRef, Table
from themes.palettes import DARK, LIGHT, PALETTES
from tui.plots.drawing import picture
from tui.plots.paint import Paint, paint
from tui.plots.picture import Picture
from tui.widgets.lines import render_text, same_text
from tui.widgets.paper import Paper


class PlotView(Paper):
    """Draws one view; the last line says what is under the cursor, with its numbers."""

    DEFAULT_CSS = """
    PlotView { height: 1fr; background: $background; color: $foreground; overflow: hidden hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "go(0, -1)", "up", show=False),
        Binding("down,j", "go(0, 1)", "down", show=False),
        Binding("left,h", "go(-1, 0)", "left", show=False),
        Binding("right,l", "go(1, 0)", "right", show=False),
        Binding("n", "move(1)", "next", show=False),
        Binding("p", "move(-1)", "before", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "page down", show=False),
        Binding("home,g", "end(False)", "first", show=False),
        Binding("end,G", "end(True)", "last", show=False),
        Binding("+,equals_sign", "zoom(1)", "zoom in", show=False),
        Binding("minus", "zoom(-1)", "zoom out", show=False),
        Binding("K,shift+up", "pan(0, -1)", "pan up", show=False),
        Binding("J,shift+down", "pan(0, 1)", "pan down", show=False),
        Binding("H,shift+left", "pan(-1, 0)", "pan left", show=False),
        Binding("L,shift+right", "pan(1, 0)", "pan right", show=False),
        Binding("less_than_sign", "turn(-1, 0)", "turn left", show=False),
        Binding("greater_than_sign", "turn(1, 0)", "turn right", show=False),
        Binding("comma", "turn(0, -1)", "tilt down", show=False),
        Binding("full_stop", "turn(0, 1)", "tilt up", show=False),
        Binding("0", "reset", "whole", show=False),
        Binding("enter", "choose", "take", show=False),
    ]

    class Moved(Message):
        """The user put the cursor on something else: `row` of the table, `feature` of that row."""

        def __init__(self, widget: PlotView, row: int | None, feature: FeatureRef | None) -> None:
            super().__init__()
            self.widget = widget
            self.row = row
            self.feature = feature

        @property
        def control(self) -> PlotView:
            return self.widget

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, PlotView.Moved) and message.widget is self.widget

    class Chosen(Moved):
        """The user pressed Enter on what is under the cursor; unlike a move it is not overtaken by the next one."""

        def can_replace(self, message: Message) -> bool:
            return False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._picture: Picture | None = None
        self._lines: list[Text] = []
        self._made_for: tuple[Size, Paint] | None = None

    # --- what is shown ------------------------------------------------------------------------------------------

    def show(self, view: AnyView, table: Table) -> None:
        """Draw a view of a table; the cursor and the section stay where the same view grows."""
        self._picture = picture(view, table, self._picture)
        self._redraw()

    @property
    def _paint(self) -> Paint:
        theme = self.app.current_theme
        return paint(PALETTES.get(theme.name, DARK if theme.dark else LIGHT))

    def _drawn(self) -> list[Text]:
        """The lines for this size and theme."""
        self._made_for = (self.size, self._paint)
        return self._picture.draw(*self.size, self._paint) if self._picture else []

    def _redraw(self) -> None:
        """Draw again, and send the lines that look different."""
        if not self.size:
            return
        before, other = self._lines, self._is_outdated
        self._lines = self._drawn()
        if other:
            self.refresh()
            return
        pairs = itertools.zip_longest(before, self._lines)
        self.redraw_lines({n for n, (a, b) in enumerate(pairs) if not same_text(a, b)})

    @property
    def _is_outdated(self) -> bool:
        return self._made_for != (self.size, self._paint)

    def draw_line(self, y: int) -> Strip:
        """A line of the picture, which is drawn again where size or theme are others than before."""
        if self._is_outdated:
            self._lines = self._drawn()
        base, width = self.rich_style, self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, base)
        return Strip(render_text(self._lines[y], base)).simplify().crop(0, width).adjust_cell_length(width, base)

    # --- movements ----------------------------------------------------------------------------------------------

    def zoom(self, step: int) -> None:
        """Closer or farther, about the cursor."""
        if self._picture and self._picture.zoom(step):
            self._redraw()

    def pan(self, dx: int, dy: int) -> None:
        """Move the section shown."""
        if self._picture and self._picture.pan(dx, dy):
            self._redraw()

    def turn(self, dx: int, dy: int) -> None:
        """Turn what has three dimensions."""
        if self._picture and self._picture.turn(dx, dy):
            self._redraw()

    def reset(self) -> None:
        """Show everything, from where one looked first."""
        if self._picture and self._picture.reset():
            self._redraw()

    def move(self, step: int) -> None:
        """Put the cursor on the next row of the table, or the one before."""
        if self._picture and self._picture.step(step):
            self._moved()

    def move_to(self, dx: int, dy: int) -> None:
        """Put the cursor on the nearest thing in a direction; `dy` is positive downwards."""
        if self._picture and self._picture.go(dx, dy):
            self._moved()

    def _moved(self) -> None:
        self._redraw()
        self.post_message(self.Moved(self, self.row, self.current))

    def on_click(self, event: events.Click) -> None:
        """The cursor goes to what is nearest to the mouse."""
        if self._picture and self._picture.click(event.x, event.y):
            self._moved()

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(event, -1)

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, 1)

    def _wheel(self, event: events.MouseEvent, step: int) -> None:
        """Nothing here scrolls: points are zoomed, rows are gone through."""
        event.stop()
        event.prevent_default()
        before = self.row
        if self._picture and self._picture.wheel(step):
            if self.row == before:
                self._redraw()
            else:
                self._moved()

    def page(self, step: int) -> None:
        """So many rows as are on screen."""
        self.move(step * max(1, self.size.height - 4))

    def move_to_end(self, end: bool) -> None:
        self.move(_ALL if end else -_ALL)

    # --- what is under the cursor -------------------------------------------------------------------------------

    @property
    def row(self) -> int | None:
        """The row of the table under the cursor."""
        return self._picture.row if self._picture else None

    @property
    def current(self) -> FeatureRef | None:
        """The feature under the cursor."""
        return self._picture.feature if self._picture else None

    @property
    def status(self) -> str:
        """What is under the cursor, as the last line says it."""
        return self._picture.status if self._picture else ""

    @property
    def hints(self) -> str:
        """The keys that do something for this view, for a page's footer."""
        return self._picture.moves if self._picture else ""

    @property
    def plain_lines(self) -> list[str]:
        """What is drawn, without style; for tests."""
        return [line.plain for line in self._lines]

    # --- the user -----------------------------------------------------------------------------------------------

    def action_go(self, dx: int, dy: int) -> None:
        self.move_to(dx, dy)

    def action_move(self, step: int) -> None:
        self.move(step)

    def action_page(self, step: int) -> None:
        self.page(step)

    def action_end(self, end: bool) -> None:
        self.move_to_end(end)

    def action_zoom(self, step: int) -> None:
        self.zoom(step)

    def action_pan(self, dx: int, dy: int) -> None:
        self.pan(dx, dy)

    def action_turn(self, dx: int, dy: int) -> None:
        self.turn(dx, dy)

    def action_reset(self) -> None:
        self.reset()

    def action_choose(self) -> None:
        if self.row is not None:
            self.post_message(self.Chosen(self, self.row, self.current))


_ALL = 1_000_000_000
