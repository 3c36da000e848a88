"""The place of circuits. This version traces none, and says so."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from tui.panes.card import CardPage
from tui.panes.pane import Pane
from tui.state import State


class CircuitPane(Pane):
    """Pane 5."""

    GROUP = "circuit"
    NUMBER = 5
    NAME = "Circuit"

    def compose(self) -> ComposeResult:
        self.body = CardPage(id="circuit-page")
        yield self.title_bar
        yield self.body

    @property
    def home(self) -> CardPage:
        return self.body

    def show(self, state: State, old: State | None) -> None:
        if old is None:
            text = " This version does not trace circuits yet. Features, cards and steering are in panes 3, 4 and 6."
            self.body.show(lambda width: [Text(text, self.body.part("dim"))])
