"""A line to type into, that shows nothing a terminal would act on."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.widgets import Input

from tui.text import cell_len, visible_in_place


class Field(Input):
    """Textual's `Input` without a blinking cursor; control characters that are pasted become visible glyphs."""

    def __init__(self, *, id: str, placeholder: str = "") -> None:
        super().__init__(id=id, placeholder=placeholder, compact=True)
        self.cursor_blink = False
        self.display = False

    def validate_value(self, value: str) -> str:
        """What is put into the field, by whatever way."""
        return visible_in_place(value)


class FaithfulField(Field):
    """A field that keeps what was typed or pasted as it is, line ends too; only what it shows is made visible."""

    def validate_value(self, value: str) -> str:
        return value

    @property
    def _value(self) -> Text:
        return Text(visible_in_place(self.value), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return cell_len(visible_in_place(self.value[:position]))

    def _on_paste(self, event: events.Paste) -> None:
        """Take all lines; Textual takes the first."""
        event.prevent_default()
        event.stop()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")  # tmux pastes line ends as \r
        if text:
            self.replace(text, *self.selection)
