"""How the state changes with labels: what is looked for, what was given, and what was refused."""

from __future__ import annotations

import msgspec

from engine.protocol import Failed, HintsRead, LabelSet, LabelsFound
from tui.state import Notice, State, fault_notice
from tui.text import visible

OWN = "you"
"""Whose label the user's own is."""


def seek(state: State, request: int) -> State:
    """Labels are looked for; the answer to an older search will be ignored."""
    return msgspec.structs.replace(state, seeking=request)


def name(state: State, request: int) -> State:
    """A label is given, or taken away: whether that was done is said when the engine has answered."""
    return msgspec.structs.replace(state, naming=state.naming | {request})


def heard(state: State, event: HintsRead | LabelsFound | LabelSet) -> State:
    """What the engine said of labels."""
    match event:
        case HintsRead():
            kept = {k: v for k, v in state.labels.items() if k not in event.hints}  # one may be gone meanwhile
            return msgspec.structs.replace(state, hints={**state.hints, **event.hints}, labels={**kept, **event.labels})
        case LabelsFound():
            return msgspec.structs.replace(state, found=event.result) if event.id == state.seeking else state
        case LabelSet():
            return labelled(state, event)


def labelled(state: State, event: LabelSet) -> State:
    """A feature has other labels now: the first of them is what it is called."""
    key, card = str(event.feature), state.cards.get(event.feature)
    labels = {k: v for k, v in state.labels.items() if k != key}
    if event.labels:
        labels[key] = event.labels[0].text
    cards = state.cards
    if card is not None:
        cards = {**cards, event.feature: msgspec.structs.replace(card, labels=event.labels)}
    state = msgspec.structs.replace(state, labels=labels, cards=cards)
    if event.id not in state.naming:
        return state
    own = next((label.text for label in event.labels if label.by == OWN), "")
    said = f"{key} is “{visible(own)}”." if own else f"Your label of {key} is gone."
    return msgspec.structs.replace(state, naming=state.naming - {event.id}, notice=Notice(said))


def concerns(state: State, request: int) -> bool:
    """Whether a request that the user waits for is about labels."""
    return request in state.naming or bool(request and request == state.seeking)


def refused(state: State, event: Failed) -> State:
    """What was looked for is not found, or a label is not kept."""
    return msgspec.structs.replace(state, naming=state.naming - {event.id}, notice=fault_notice(event.error))
