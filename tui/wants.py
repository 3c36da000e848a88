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
        self._runs = 0
        self._read: set[FeatureRef | str] = set()
        """What was read since the newest run: features of the list by themselves, those of cards by their names."""

    def forget(self) -> None:
        """A new engine knows nothing of what was asked of the old one."""
        self._asked.clear()
        self._read.clear()

    def answered(self, request: int) -> None:
        """A request was answered, refused or stopped."""
        self._asked.pop(request, None)

    def missing(self, state: State) -> list[Request]:
        """Requests for the card, the row and the peaks that the screen lacks; cards need no prompt."""
        if state.engine.phase != "ready":
            return []
        if len(state.runs) != self._runs:
            self._runs = len(state.runs)
            self._read.clear()
        requests: list[Request] = []
        steered = [row.intervention.feature for row in state.steering.rows]
        reading = any(isinstance(key, tuple) and key[0] == "card" for key in self._asked.values())
        for ref in (state.feature,) if reading else (state.feature, *steered):
            if ref is not None and self._lacks_card(state, ref) and self._may_ask(("card", ref)):
                requests.append(self._ask(ShowCard(id=self._next_id(), feature=ref), ("card", ref)))
                break  # a newer card request supersedes an older one
        feature = state.feature
        newest = state.result is not None and state.shown == len(state.runs) - 1 and state.task("run") is None
        if feature is not None and newest and state.values is None and self._may_ask(("row", state.shown, feature)):
            requests.append(self._ask(Row(id=self._next_id(), feature=feature), ("row", state.shown, feature)))
        unknown = self._unknown_hints(state)
        if unknown and not any(isinstance(key, frozenset) for key in self._asked.values()):
            self._read.update(unknown)
            requests.append(self._ask(ListHints(id=self._next_id(), features=unknown), frozenset(unknown)))
        return requests

    def _lacks_card(self, state: State, ref: FeatureRef) -> bool:
        """A card that was not read, or whose labels are not those of the list, is read; the latter once a run."""
        if (card := state.cards.get(ref)) is None:
            return True
        first = card.labels[0].text if card.labels else ""
        said = state.labels.get(str(ref), "") if str(ref) in state.hints else first
        if said == first or str(ref) in self._read:
            return False
        self._read.add(str(ref))
        return True

    def _unknown_hints(self, state: State) -> tuple[FeatureRef, ...]:
        """Features of the list, of marks and steering, then of the circuit, whose peaks are not known.

        With every run those of the list are asked for again: another program may have labelled them since.
        """
        listed = [row.ref for row in state.rows]
        again = [ref for ref in listed if ref not in self._read]
        listed += [*state.marks, *(row.intervention.feature for row in state.steering.rows)]
        nodes = state.traced.circuit.nodes if state.traced else ()
        listed += [FeatureRef(node.ref.source, node.ref.index) for node in nodes if node.ref.index >= 0]
        unknown = [ref for ref in listed if str(ref) not in state.hints]
        return tuple(dict.fromkeys((*unknown, *again)))[:_HINTS]

    def _may_ask(self, key: object) -> bool:
        return key not in self._asked.values()

    def _ask(self, request: Request, key: object) -> Request:
        self._asked[request.id] = key
        return request
