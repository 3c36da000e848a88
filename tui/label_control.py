"""What the user does with labels: looking for them, and giving features labels of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.protocol import FeatureRef, SearchLabels, SetLabel
from tui import reducer

if TYPE_CHECKING:
    from tui.app import SaescopeApp

_TOP = 200


class LabelControl:
    """Between the label page, the card and the app."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app

    @property
    def ready(self) -> bool:
        """Whether there is an engine to ask; says why not."""
        if self._app.state.replaying:
            self._app.say("This is a recording: labels are looked for in a live session.", "", "warning")
        elif self._app.state.engine.phase != "ready":
            self._app.say("The engine is not ready yet.", "Wait until it has opened the dictionaries.", "warning")
        else:
            return True
        return False

    def seek(self, query: str, like: FeatureRef | None = None) -> None:
        """Look for labels by words, or for those like a feature's own; the answer arrives in the state."""
        request = SearchLabels(id=self._app.next_id(), query=query, like=like, top=_TOP)
        self._app.change(lambda s: reducer.seek(s, request.id))
        self._app.send(request)

    def put(self, feature: FeatureRef, text: str) -> None:
        """Keep the user's own label of a feature; nothing takes it away."""
        self._app.send(SetLabel(id=self._app.next_id(), feature=feature, text=text.strip()))
        self._app.say(f"{feature} is “{text.strip()}”." if text.strip() else f"Your label of {feature} is gone.")
