"""What the try-it page asks for: one feature on the text as it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.protocol import FeatureRef, TryText
from tui import reducer
from tui.state import State

if TYPE_CHECKING:
    from tui.app import SaescopeApp


class TryControl:
    """Between the page and the app; keeps the text from one opening of the page to the next."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app
        self._text: str | None = None

    @property
    def text(self) -> str:
        """What was tried last; the prompt on screen at first."""
        if self._text is None:
            result = self._app.state.result
            self._text = result.prompt if result is not None else self._app.state.draft
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        self._text = text

    @property
    def chat(self) -> bool:
        """Whether the text goes into the chat template, as prompts do."""
        return self._app.state.chat

    def read(self, feature: FeatureRef) -> str:
        """Ask for the feature on the text; the answer arrives in the state, and only the newest counts.

        Returns why nothing can be asked, "" where it was.
        """
        request = TryText(id=self._app.next_id(), feature=feature, text=self.text, chat=self.chat)
        state = self._app.state
        if state.engine.phase != "ready" or not self._app.send(request):
            return " ".join(state.unready)
        self._app.change(lambda s: asked(s, request.id))
        return ""

    def forget(self) -> None:
        """The answer that is awaited is not wanted any more."""
        self._app.change(lambda s: asked(s, 0))

    def run(self, text: str) -> None:
        """Run the text as a prompt."""
        self._app.change(lambda s: reducer.put_draft(s, text))
        self._app.run_prompt(text)

    def label_of(self, feature: FeatureRef) -> str:
        """What the feature is called, or peaks on, as far as the screen knows."""
        state = self._app.state
        return state.labels.get(str(feature)) or state.hints.get(str(feature), "")

    def beside(self, feature: FeatureRef, step: int) -> FeatureRef:
        """The feature next to it in the list on screen; itself at the ends, the first where it is not listed."""
        rows = [row.ref for row in self._app.state.rows]
        if not rows:
            return feature
        place = rows.index(feature) + step if feature in rows else 0
        return rows[max(0, min(place, len(rows) - 1))]


def asked(state: State, request: int) -> State:
    """A text is read; the answer to an older one will be ignored."""
    return msgspec.structs.replace(state, trying=request)
