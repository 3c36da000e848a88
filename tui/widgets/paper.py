"""What our line-drawn widgets share: a content height that changes without a new layout of the whole screen."""

from __future__ import annotations

from typing import Self

from textual import events
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget


class Paper(ScrollView, can_focus=True):
    """A scroll view whose lines come from `render_line`.

    Setting `virtual_size` makes Textual lay out the screen and repaint the widget; here only the scrollbar follows,
    and the caller refreshes the lines that changed.
    """

    _fitted = -1

    def fit(self, width: int) -> None:
        """Lay the content out for a width."""

    def draw_line(self, y: int) -> Strip:
        """One line of the widget, 0 at the top of what is visible."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        """Draw a line, after fitting the content where the width changed since the last drawing.

        Done here and not on the resize event, which comes after the first picture of the new size has been sent.
        """
        width = self.scrollable_content_region.width
        if width != self._fitted:
            self._fitted = width
            self.fit(width)
        return self.draw_line(y)

    def set_height(self, lines: int) -> None:
        """The content has so many lines now."""
        size = Size(self.scrollable_content_region.width, lines)
        if size != self.virtual_size:
            self.set_reactive(Widget.virtual_size, size)
            self._scroll_update(size)

    def focus(self, scroll_visible: bool = True) -> Self:
        """Take the focus; Textual would redraw the widget first."""
        self.app.call_later(self.screen.set_focus, self, scroll_visible)
        return self

    def _on_focus(self, event: events.Focus) -> None:
        self._take_focus(event, events.DescendantFocus(self), focused=True)

    def _on_blur(self, event: events.Blur) -> None:
        self._take_focus(event, events.DescendantBlur(self), focused=False)

    def _take_focus(self, event: events.Event, told: events.Event, *, focused: bool) -> None:
        """As Textual does, without redrawing everything: the title of the pane shows where the focus is."""
        event.prevent_default()
        self.has_focus = focused
        if self.parent is not None:
            self.parent.post_message(told)

    def redraw_lines(self, lines: set[int]) -> None:
        """Redraw lines of the content, as far as they are on screen."""
        top, height, width = self.scroll_offset.y, self.size.height, self.size.width
        regions = [Region(0, line - top, width, 1) for line in lines if top <= line < top + height]
        if regions:
            self.refresh(*regions)
