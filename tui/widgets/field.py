"""A line to type into, that shows nothing a terminal would act on."""

from __future__ import annotations

from textual.widgets import Input

from tui.text import visible_in_place


class Field(Input):
    """Textual's `Input` without a blinking cursor; control characters that are pasted become visible glyphs."""

    def __init__(self, *, id: str, placeholder: str = "") -> None:
        super().__init__(id=id, placeholder=placeholder, compact=True)
        self.cursor_blink = False
        self.display = False

    def validate_value(self, value: str) -> str:
        """What is put into the field, by whatever way."""
        return visible_in_place(value)
