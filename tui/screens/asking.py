"""A page that asks for one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from engine.protocol import SaescopeError
from tui.screens.listening import ListeningPage
from tui.text import wrapped
from tui.widgets.bar import Bar
from tui.widgets.field import FaithfulField
from tui.widgets.lines import Lines


class AskPage(ListeningPage[None]):
    """Enter hands the line to `take`; where that refuses it, the reason is said and the line stays to be mended.

    A paste of several lines stays several lines, joined by ⏎ in the field.
    """

    DEFAULT_CSS = """
    AskPage { background: $background; }
    AskPage #page-title { background: $panel; }
    AskPage Field { height: 1; border: none; background: $panel; padding: 0 1; margin: 1 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close", id="ask.close")]

    def __init__(
        self, title: str, explanation: str, take: Callable[[str], None], *, present: str = "", placeholder: str = ""
    ) -> None:
        super().__init__()
        self._title, self._explanation, self._take = title, explanation, take
        self._present, self._placeholder = present, placeholder

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.field = FaithfulField(id="ask-field", placeholder=self._placeholder)
        self.body = Lines(id="ask-text")
        self.body.can_focus = False
        yield self.heading
        yield self.field
        yield self.body

    def on_mount(self) -> None:
        hint = Text("enter takes it · esc close ", self.heading.style_of("dim"))
        self.heading.show(Text(f" {self._title}", Style(bold=True)), hint)
        self.field.display = True
        self.field.value = self._present
        self.field.focus()
        self.say(self._explanation)
        self.opened()

    def opened(self) -> None:
        """The page is there; for subclasses, as Textual calls every class's own `on_mount`."""

    def say(self, text: str, name: str = "dim") -> None:
        """Put a text below the field."""
        style = self.heading.style_of(name)
        self.body.show(lambda width: [Text(f" {line}", style) for line in wrapped(text, width - 1)])

    @on(Input.Submitted, "#ask-field")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        try:
            self._take(event.value)
        except SaescopeError as error:
            self.say(f"{error.message}\n{error.remedy}", "error")
        else:
            self.dismiss()
