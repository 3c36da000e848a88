"""What all panes have in common: a title rule, a place in the layout, and a slice of the state."""

from __future__ import annotations

from typing import ClassVar

from textual.widget import Widget

from tui.actions import Group
from tui.state import State
from tui.widgets.bar import TitleBar
from tui.widgets.frames import Column


class Pane(Column):
    """A part of the screen. It is told every new state and repaints what changed in its slice."""

    GROUP: ClassVar[Group]
    NUMBER: ClassVar[int]
    NAME: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(id=self.GROUP, classes="pane")
        self.title_bar = TitleBar(self.NUMBER, self.NAME)

    def show(self, state: State, old: State | None) -> None:
        """Take a new state; `old` is None the first time and after a change of theme."""
        raise NotImplementedError

    @property
    def home(self) -> Widget:
        """The widget that takes the focus when the user goes to this pane."""
        raise NotImplementedError

    def on_descendant_focus(self) -> None:
        self.title_bar.set_focused(True)

    def on_descendant_blur(self) -> None:
        self.title_bar.set_focused(False)
