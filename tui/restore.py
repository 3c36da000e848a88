"""The screen as it was when a session was saved; `tui.recorder` goes the other way."""

from __future__ import annotations

import msgspec

from sessions.model import Session
from tui.circuit_state import CircuitView
from tui.reducer import select_token
from tui.state import State
from tui.steering_state import SteeringState, SteerRow, sampling_of, texts_of
from tui.study_state import StudyView


def from_session(state: State, session: Session) -> State:
    """The screen as it was when the session was saved."""
    view = session.view
    engine = msgspec.structs.replace(
        state.engine,
        model=session.model or state.engine.model,
        dictionaries=session.dictionaries or state.engine.dictionaries,
        plan=session.plan or state.engine.plan,
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
        labels=session.labels,
        marks=session.marks,
        steers=session.steers,
        evidence=session.evidence,
        presets=session.presets,
        steering=_steering(session),
        circuits=session.circuits,
        growing=None,
        circuit=CircuitView(shown=view.circuit, node_threshold=view.node_threshold, edge_threshold=view.edge_threshold),
        studies=session.studies,
        study=StudyView(),
        tasks=(),
        title=session.title,
        log=session.log,
    )
    return select_token(state, view.token)


def _steering(session: Session) -> SteeringState:
    """The rows, and the last texts where they continue the prompt that was on screen."""
    view = session.view
    rows = view.interventions or ((view.intervention,) if view.intervention is not None else ())
    result = session.steers[view.steer].result if 0 <= view.steer < len(session.steers) else None
    run = session.runs[view.run].result if 0 <= view.run < len(session.runs) else None
    if not rows and result is not None:
        rows = result.interventions
    steering = SteeringState(rows=tuple(SteerRow(one, n not in view.off) for n, one in enumerate(rows)))
    if result is None:
        return steering
    steering = msgspec.structs.replace(steering, sampling=sampling_of(result))
    if run is not None and (run.prompt, run.chat) != (result.prompt, result.chat):
        return steering
    return msgspec.structs.replace(steering, texts=texts_of(result), shown=view.steer)
