"""What the user does with labels: looking for them, and giving features labels of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.protocol import BadRequest, FeatureCard, FeatureRef, SearchLabels, SetLabel, ShowCard
from tui import label_reducer
from tui.text import visible

if TYPE_CHECKING:
    from tui.app import SaescopeApp

_TOP = 200


class LabelControl:
    """Between the label pages, the card and the app."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app

    def may(self, what: str) -> bool:
        """Whether there is an engine to ask; says why not. `what` is what is done: "labels are given"."""
        if self._app.state.replaying:
            self._app.say(f"This is a recording: {what} in a live session.", "", "warning")
        elif self._app.state.engine.phase != "ready":
            self._app.say(*self._app.state.unready, "warning")
        else:
            return True
        return False

    def seek(self, query: str, like: FeatureRef | None = None) -> None:
        """Look for labels by words, or for those like a feature's own; the answer arrives in the state."""
        request = SearchLabels(id=self._app.next_id(), query=query, like=like, top=_TOP)
        self._app.change(lambda s: label_reducer.seek(s, request.id))
        self._app.send(request)

    def card_of(self, feature: FeatureRef) -> FeatureCard | None:
        """The card as it was read last."""
        return self._app.state.cards.get(feature)

    def read(self, feature: FeatureRef) -> None:
        """Read a card, with the labels that are on it now; it arrives in the state."""
        self._app.send(ShowCard(id=self._app.next_id(), feature=feature))

    def is_unlabelled(self, feature: FeatureRef) -> bool:
        """Whether it is known to have no label: its card was read, and neither it nor the list shows one."""
        card = self.card_of(feature)
        return card is not None and not card.labels and str(feature) not in self._app.state.labels

    def put(self, feature: FeatureRef, text: str) -> None:
        """Keep the user's own label of a feature; that it is kept is said when the engine says so."""
        self._set(feature, text.strip())

    def take_away(self, feature: FeatureRef) -> None:
        """Take the user's own label of a feature away."""
        self._set(feature, "")

    def _set(self, feature: FeatureRef, text: str) -> None:
        request = SetLabel(id=self._app.next_id(), feature=feature, text=text)
        if self._app.state.engine.phase != "ready" or not self._app.send(request):
            raise BadRequest(*self._app.state.unready)
        self._app.change(lambda s: label_reducer.name(s, request.id))

    def leave(self, feature: FeatureRef, text: str) -> None:
        """Change nothing, and say so."""
        kept = f"{feature} is “{visible(text)}”, as before." if text else f"{feature} has no label of yours, as before."
        self._app.say(kept)
