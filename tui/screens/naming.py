"""The page on which one gives a feature a label of one's own."""

from __future__ import annotations

from engine.protocol import BadRequest, FeatureCard, FeatureRef
from tui.label_control import LabelControl
from tui.label_reducer import OWN
from tui.screens.asking import AskPage
from tui.screens.following import Following
from tui.state import State
from tui.text import visible

_WHAT = (
    "It is kept on this machine, for every session, beside the labels of others. "
    "`saescope labels export` prints all of yours."
)


class NamingPage(AskPage, Following):
    """The field holds the label there is as soon as the engine has said it; until then nothing is taken away.

    The engine is asked each time: the card may not have been read yet, and another program may have set a label.
    """

    def __init__(self, feature: FeatureRef, labels: LabelControl) -> None:
        super().__init__(f"Your label of {feature}", "", self._keep, placeholder="what the feature is")
        self._feature, self._labels = feature, labels
        self._card: FeatureCard | None = None
        self._reading = False
        """The card was asked for and has not come."""
        self._own: str | None = None
        """The user's label now; None while it is not known."""

    def opened(self) -> None:
        self._card = self._labels.card_of(self._feature)
        self._learn()
        self._reading = True
        self._labels.read(self._feature)

    def follow(self, state: State, old: State) -> None:
        """See whether the card has come."""
        card = state.cards.get(self._feature)
        if self._reading and card is not self._card:
            self._reading = False
            self._card = card
            self._learn()

    def _learn(self) -> None:
        """Put what the card says into the field, unless the user has typed something else."""
        if self._card is None:
            self.say(f"The label it has is being read. {_WHAT}")
            return
        before, self._own = self._own, next((label.text for label in self._card.labels if label.by == OWN), "")
        if self.field.value == (before or ""):
            self.field.value = self._own
            self.field.cursor_position = len(self._own)
        now = f"It is “{visible(self._own)}” now; an empty line takes that away. " if self._own else ""
        self.say(f"{now}{_WHAT}")

    def _keep(self, text: str) -> None:
        text = text.strip()
        if text and text != self._own:
            self._labels.put(self._feature, text)
        elif not text and self._own:
            self._labels.take_away(self._feature)
        elif not text and self._own is None:
            raise BadRequest(
                f"The label that {self._feature} has is not read yet, so nothing was taken away.",
                "Wait a moment, or leave with Escape.",
            )
        else:
            self._labels.leave(self._feature, text)
