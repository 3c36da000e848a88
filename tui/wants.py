"""What the screen needs from the engine: derived from the state, never remembered by a pane."""

from __future__ import annotations

from collections.abc import Callable

from engine.protocol import FeatureRef, ListHints, Request, Row, ShowCard
from tui.state import State

_HINTS = 64


class Wants:
    """Asks for what is missing, once each; what was refused or superseded may be asked again."""

    def __init__(self, next_id: Callable[[], int]) -> None:
        self._next_id = next_id
        self._asked: dict[int, object] = {}

    def forget(self) -> None:
        """A new engine knows nothing of what was asked of the old one."""
        self._asked.clear()

    def answered(self, request: int) -> None:
        """A request was answered, refused or stopped."""
        self._asked.pop(request, None)

    def missing(self, state: State) -> list[Request]:
        """Requests for the card, the row and the peaks that the screen lacks."""
        if state.engine.phase != "ready" or state.result is None:
            return []
        requests: list[Request] = []
        steered = [row.intervention.feature for row in state.steering.rows]
        reading = any(isinstance(key, tuple) and key[0] == "card" for key in self._asked.values())
        for ref in (state.feature,) if reading else (state.feature, *steered):
            if ref is not None and ref not in state.cards and self._may_ask(("card", ref)):
                requests.append(self._ask(ShowCard(id=self._next_id(), feature=ref), ("card", ref)))
                break  # a newer card request supersedes an older one
        feature = state.feature
        newest = state.shown == len(state.runs) - 1 and state.task("run") is None
        if feature is not None and newest and state.values is None and self._may_ask(("row", state.shown, feature)):
            requests.append(self._ask(Row(id=self._next_id(), feature=feature), ("row", state.shown, feature)))
        unknown = self._unknown_hints(state)
        if unknown and not any(isinstance(key, frozenset) for key in self._asked.values()):
            requests.append(self._ask(ListHints(id=self._next_id(), features=unknown), frozenset(unknown)))
        return requests

    def _unknown_hints(self, state: State) -> tuple[FeatureRef, ...]:
        """Features of the list, of steering, then of the circuit, whose peaks are not known."""
        listed = [row.ref for row in state.rows]
        listed += [row.intervention.feature for row in state.steering.rows]
        nodes = state.traced.circuit.nodes if state.traced else ()
        listed += [FeatureRef(node.ref.source, node.ref.index) for node in nodes if node.ref.index >= 0]
        return tuple(ref for ref in dict.fromkeys(listed) if str(ref) not in state.hints)[:_HINTS]

    def _may_ask(self, key: object) -> bool:
        return key not in self._asked.values()

    def _ask(self, request: Request, key: object) -> Request:
        self._asked[request.id] = key
        return request
