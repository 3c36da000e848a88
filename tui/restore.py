"""The screen as it was when a session was saved; `tui.recorder` goes the other way."""

from __future__ import annotations

import msgspec

from sessions.model import Session
from tui.circuit_state import CircuitView
from tui.reducer import select_token
from tui.state import State, Steering


def from_session(state: State, session: Session) -> State:
    """The screen as it was when the session was saved."""
    view = session.view
    steering = Steering()
    if 0 <= view.steer < len(session.steers):
        result = session.steers[view.steer].result
        first = result.interventions[0] if result.interventions else None
        steering = Steering(
            feature=first.feature if first else None,
            strength=first.strength if first else 0.0,
            plain=result.plain.text,
            steered=result.steered.text,
            kl=result.kl,
            shown=view.steer,
        )
    if view.intervention is not None:
        steering = msgspec.structs.replace(
            steering, feature=view.intervention.feature, strength=view.intervention.strength
        )
    engine = msgspec.structs.replace(
        state.engine,
        model=session.model or state.engine.model,
        dictionaries=session.dictionaries or state.engine.dictionaries,
    )
    state = msgspec.structs.replace(
        state,
        engine=engine,
        draft=view.draft,
        draft_put=state.draft_put + 1,
        chat=view.chat,
        runs=session.runs,
        shown=view.run,
        token=view.token,
        feature=view.feature,
        scope=view.scope,
        site=view.site,
        cards={card.ref: card for card in session.cards},
        hints=session.hints,
        marks=session.marks,
        steers=session.steers,
        steering=steering,
        circuits=session.circuits,
        growing=None,
        circuit=CircuitView(shown=view.circuit, node_threshold=view.node_threshold, edge_threshold=view.edge_threshold),
        title=session.title,
        log=session.log,
    )
    return select_token(state, view.token)
