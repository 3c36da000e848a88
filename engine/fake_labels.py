"""Labels of the fake engine: one feature in three has one, and the user's own are remembered."""

from __future__ import annotations

from engine.errors import BadRequest
from engine.protocol import FeatureRef, Label, LabelHit, LabelSearch, SearchLabels, SetLabel

_THINGS = ("landmarks", "capital cities", "towns", "names of priests", "closing brackets")
_EVERY, _FEATURES = 3, 3000


class FakeLabels:
    """Answers as `engine.labels.answers` does."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._own: dict[FeatureRef, str] = {}

    def of(self, feature: FeatureRef) -> tuple[Label, ...]:
        """All labels of a feature, the user's own first."""
        own = (Label(self._own[feature], "you"),) if feature in self._own else ()
        theirs = Label(_THINGS[feature.index % len(_THINGS)], "fake-explainer", "oai_token-act-pair")
        return (*own, theirs) if feature.index % _EVERY == 0 else own

    def best(self, features: tuple[FeatureRef, ...]) -> dict[str, str]:
        return {str(f): labels[0].text for f in features if (labels := self.of(f))}

    def put(self, request: SetLabel) -> tuple[Label, ...]:
        if request.text == "/fail":
            raise BadRequest("This label asks the fake engine to fail.", "Give another.")
        self._own.pop(request.feature, None)
        if request.text:
            self._own[request.feature] = request.text
        return self.of(request.feature)

    def search(self, request: SearchLabels) -> LabelSearch:
        """Labels that hold every word, or the same label as another feature's."""
        like = self.of(request.like)[0].text if request.like and self.of(request.like) else ""
        words = (like or request.query).casefold().split()
        sources = request.sources or self._sources
        refs = [FeatureRef(s, i) for s in sources for i in range(0, _FEATURES, _EVERY)]
        refs = list(dict.fromkeys((*self._own, *refs)))
        hits = [
            LabelHit(ref, label, 1.0)
            for ref in refs
            for label in self.of(ref)
            if words and all(word in label.text.casefold() for word in words)
        ]
        counted = dict.fromkeys(sources, _FEATURES // _EVERY)
        return LabelSearch(like or request.query, tuple(hits[: request.top]), len(hits), request.like, counted)
