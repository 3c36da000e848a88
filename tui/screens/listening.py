"""Pages that are typed on: what was typed before something on them could hear it is not lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.screen import ModalScreen, ScreenResultType

if TYPE_CHECKING:
    from tui.typing_ahead import TypingAhead


class ListeningPage(ModalScreen[ScreenResultType]):
    """Whatever gets the focus on it takes the keys that wait."""

    def on_descendant_focus(self) -> None:
        cast("TypingAhead", self.app).take_keys()
