"""How the state changes: pure functions from a state and what happened to the next state.

`reduce_event` takes what the engine said. An event that answers no request under way is late and changes nothing.
The rest take what the user did.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.client import EngineLost
from engine.protocol import (
    AblationsRanked,
    Adjusted,
    AnyEvent,
    CardRead,
    Checked,
    ControlFound,
    Counted,
    Done,
    EngineFault,
    Failed,
    FaithfulnessFound,
    FeatureRef,
    FeaturesFound,
    Generated,
    Hello,
    HintsRead,
    ImpactFound,
    LabelSet,
    LabelsFound,
    NextTokensFound,
    Opened,
    Progress,
    RowRead,
    Steered,
    Stopped,
    StudyGrown,
    SweepGrown,
    TextTried,
    TraceGrown,
)
from sessions.model import RunRecord
from tui import circuit_reducer, label_reducer, steering_reducer, study_reducer
from tui.session_log import logged as logged
from tui.state import DROP, ORDERS, RANKS, EngineState, Notice, State, Task, TaskKind, Where, fault_notice
from tui.text import counted


def _with(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


def _engine(state: State, **changes: Any) -> State:
    return _with(state, engine=msgspec.structs.replace(state.engine, **changes))


# --- what the engine said -----------------------------------------------------------------------------------------


def reduce_event(state: State, event: AnyEvent | EngineLost, at: str) -> State:
    """The state after an event; `at` is the time it came."""
    after = _settled(_reduced(state, event, at), at)
    if len(after.circuits) > len(state.circuits):
        after = logged(after, at, circuit_reducer.story(after.circuits[-1]))
    if after.steers is not state.steers:
        after = logged(after, at, steering_reducer.story(after.steers[-1].result))
    if after.evidence is not state.evidence:
        after = logged(after, at, steering_reducer.evidence_story(after.evidence[-1]))
    return after


def _settled(state: State, at: str) -> State:
    """What has grown and does not any more is kept."""
    return study_reducer.settled(steering_reducer.settled(circuit_reducer.settled(state), at), at)


def _reduced(state: State, event: AnyEvent | EngineLost, at: str) -> State:
    match event:
        case EngineLost():
            return _lost(state, event, at)
        case Hello():
            return _engine(state, phase="opening", text="engine started", done=0, total=0, fault=None)
        case Progress():
            return _progress(state, event)
        case Opened():
            return _opened(state, event, at)
        case Counted():
            return _with(state, draft_tokens=event.tokens, token_limit=event.limit)
        case FeaturesFound():
            return _features(state, event, at)
        case NextTokensFound():
            return _next_tokens(state, event)
        case RowRead():
            return _row(state, event)
        case CardRead():
            return _with(state, cards={**state.cards, event.card.ref: event.card})
        case HintsRead() | LabelsFound() | LabelSet():
            return label_reducer.heard(state, event)
        case TextTried() if event.id == state.trying:
            return _with(state, tried=event)
        case Generated() | Adjusted() | Steered() | ControlFound() | SweepGrown() | ImpactFound() | AblationsRanked():
            return steering_reducer.heard(state, event, at) if _awaited(state, event.id) else state
        case TraceGrown() if _awaited(state, event.id):
            return circuit_reducer.grown(state, event.circuit, at)
        case Checked() if _awaited(state, event.id):
            return logged(circuit_reducer.checked(state, event.check), at, circuit_reducer.check_story(event.check))
        case FaithfulnessFound() if _awaited(state, event.id):
            return circuit_reducer.measured(state, event.result)
        case StudyGrown() if _awaited(state, event.id):
            return study_reducer.grown(state, event.result, at)
        case Done():
            return _ended(_engine(state, memory=event.memory), event.id)
        case Stopped():
            return _ended(state, event.id)
        case Failed():
            return _failed(state, event, at)
        case _:
            return state


def _awaited(state: State, request: int) -> bool:
    return any(task.id == request for task in state.tasks)


def _ended(state: State, request: int) -> State:
    if not _awaited(state, request):
        return state
    return _with(state, tasks=tuple(t for t in state.tasks if t.id != request))


def _progress(state: State, event: Progress) -> State:
    if state.engine.phase in {"starting", "opening"}:
        return _engine(state, phase="opening", text=event.text, done=event.done, total=event.total)
    if not _awaited(state, event.id):
        return state
    tasks = tuple(
        msgspec.structs.replace(t, text=event.text, done=event.done, total=event.total) if t.id == event.id else t
        for t in state.tasks
    )
    return _with(state, tasks=tasks)


def _opened(state: State, event: Opened, at: str) -> State:
    engine = EngineState(
        phase="ready",
        text=f"ready in {event.seconds:.1f} s",
        model=event.model,
        dictionaries=event.dictionaries,
        memory=event.memory,
        plan=event.plan,
        deaths=state.engine.deaths,
    )
    # Warnings and errors were about an engine that was not ready, as is what was said in a pane.
    notice = state.notice if state.notice and state.notice.level == "info" and not state.notice.where else None
    text = f"opened {event.model.name} with {counted(len(event.dictionaries), 'dictionary', 'dictionaries')}"
    return logged(_with(state, engine=engine, token_limit=event.model.context, notice=notice), at, text)


def _lost(state: State, event: EngineLost, at: str) -> State:
    engine = msgspec.structs.replace(
        state.engine,
        phase="lost",
        text=f"engine lost: {event.reason}",
        memory=None,
        deaths=state.engine.deaths + 1,
    )
    notice = Notice(
        "The engine died and is being started again.",
        "error",
        "N shows whether the label given last was kept." if state.naming else "Nothing is lost.",
        f"It ended because: {event.reason}. The session, and what is on the screen, are kept.",
    )
    state = steering_reducer.kept(circuit_reducer.forgotten(state), at, 0.0)
    state = steering_reducer.given_up(state)
    if state.task("study") is not None:
        state = study_reducer.failed(state, EngineFault("lost", "The engine died at this study and was started again."))
    state = _with(state, engine=engine, tasks=(), naming=frozenset(), notice=notice)
    return logged(state, at, f"engine lost: {event.reason}")


def _features(state: State, event: FeaturesFound, at: str) -> State:
    if not _awaited(state, event.id):
        return state
    result = event.result
    runs = (*state.runs, RunRecord(at, result))
    same_text = state.result is not None and state.result.tokens == result.tokens
    token = state.token if same_text else len(result.tokens) - 1
    known = {s.source for s in result.sites}
    feature = state.feature if state.feature and state.feature.source in known else None
    site = state.site if state.site in known else None
    text = f"{len(result.tokens)} tokens, {len(result.features)} features in {result.seconds:.2f} s"
    state = _with(state, runs=runs, shown=len(runs) - 1, token=token, feature=feature, site=site, notice=None)
    state = steering_reducer.follow(state)
    if state.feature is None and state.rows:
        telling = next((row for row in state.rows if not row.sink), state.rows[0])
        state = _with(state, feature=telling.ref)
    return logged(state, at, text)


def _next_tokens(state: State, event: NextTokensFound) -> State:
    if not _awaited(state, event.id) or not state.runs:
        return state
    last = state.runs[-1]
    result = msgspec.structs.replace(last.result, next_tokens=event.next_tokens)
    return _with(state, runs=(*state.runs[:-1], msgspec.structs.replace(last, result=result)))


def _row(state: State, event: RowRead) -> State:
    """Rows belong to the newest run: that is the one whose residuals the engine holds."""
    if not state.runs or len(event.values) != len(state.runs[-1].result.tokens):
        return state
    last = state.runs[-1]
    record = msgspec.structs.replace(last, rows={**last.rows, str(event.feature): event.values})
    return _with(state, runs=(*state.runs[:-1], record))


def _failed(state: State, event: Failed, at: str) -> State:
    if state.engine.phase in {"starting", "opening"}:
        return _without_model(state, event.error, at)
    if event.id and event.id == state.steering.adjusting:
        return steering_reducer.refused(state)
    if event.id and event.id == state.trying:
        return _with(state, trying=0, notice=fault_notice(event.error))
    if label_reducer.concerns(state, event.id):
        after = label_reducer.refused(state, event)
        return logged(after, at, _story(event.error)) if event.id in state.naming else after
    task = next((t for t in state.tasks if t.id == event.id), None)
    if task is None:
        return state
    if task.kind == "steer":
        state = steering_reducer.given_up(state)
    elif task.kind == "study":
        state = study_reducer.failed(state, event.error)
    state = _with(_ended(state, event.id), notice=fault_notice(event.error, _PLACES[task.kind]))
    return logged(state, at, _story(event.error))


def _without_model(state: State, fault: EngineFault, at: str) -> State:
    """There is no model and none will come: a prompt that waited for one waits no more, and stays in the field."""
    state = _engine(state, phase="lost", text="nothing is open", done=0, total=0, fault=fault)
    return logged(_with(state, queued="", notice=state.trouble), at, _story(fault))


def _story(fault: EngineFault) -> str:
    return f"{fault.message} {fault.remedy}".strip()


def left_alone(state: State, at: str) -> State:
    """The engine dies every time and is not started again."""
    fault = EngineFault("EngineLost", "The engine died again and is left alone.", "`saescope doctor` may know why.")
    return _without_model(state, fault, at)


_PLACES: dict[TaskKind, Where] = {
    "run": "prompt", "steer": "steering", "control": "steering", "sweep": "steering", "impact": "steering",
    "ablations": "steering", "trace": "circuit", "verify": "circuit", "faithfulness": "circuit",
    "study": "",
}  # fmt: skip


# --- what the user did --------------------------------------------------------------------------------------------


def run_started(state: State, request: int) -> State:
    """A prompt was sent: a run under way is superseded, its late answers will be ignored."""
    tasks = tuple(t for t in state.tasks if t.kind != "run")
    return _with(
        state,
        tasks=(*tasks, Task(request, "run", "reading the prompt")),
        queued="",
        slow=False,
        notice=None,
    )


def request_is_slow(state: State, request: int) -> State:
    """The results on screen may be dimmed now."""
    return _with(state, slow=True) if _awaited(state, request) else state


def queue_prompt(state: State, text: str) -> State:
    """Run this as soon as the engine is ready."""
    return _with(state, draft=text, queued=text)


def ask_to_drop(state: State) -> State:
    """Ask whether the prompt that waits is to be dropped."""
    return _with(state, notice=DROP)


def drop_queued(state: State, at: str) -> State:
    """Let the prompt that waits go; its text is still in the field."""
    text = "The prompt was dropped; its text is still in pane 1."
    notice = Notice(text, remedy="Enter there runs it.")
    return logged(_with(state, queued="", notice=notice), at, text)


def set_draft(state: State, text: str) -> State:
    """The user typed."""
    return _with(state, draft=text) if text != state.draft else state


def put_draft(state: State, text: str) -> State:
    """A text goes into the prompt field."""
    return _with(state, draft=text, draft_put=state.draft_put + 1)


def toggle_chat(state: State) -> State:
    return _with(state, chat=not state.chat)


def saved(state: State, at: str) -> State:
    return _with(state, saved=at) if at != state.saved else state


def without_engine(state: State) -> State:
    """A recording is looked at: there is no engine and none will come."""
    return _engine(state, phase="absent", text="replay")


def stopped(state: State, at: str = "") -> State:
    """What was to stop is cancelled; a circuit, a sweep and a study are kept as far as they had grown."""
    ended = study_reducer.to_stop(state)
    state = _with(state, tasks=tuple(task for task in state.tasks if task not in ended))
    return _settled(steering_reducer.given_up(state), at)


def select_token(state: State, token: int) -> State:
    """Put the token cursor on a token; the list follows where it shows this token's features."""
    if state.result is None:
        return state
    return _with(state, token=max(0, min(token, len(state.result.tokens) - 1)))


def select_feature(state: State, ref: FeatureRef | None) -> State:
    """Choose the feature that colours the tokens and fills the card."""
    return state if ref == state.feature else _with(state, feature=ref)


def mark_all(state: State, refs: tuple[FeatureRef, ...]) -> State:
    """Mark features beside those that are marked."""
    return _with(state, marks=tuple(dict.fromkeys((*state.marks, *refs))))


def toggle_mark(state: State, ref: FeatureRef) -> State:
    """Mark a feature, or take the mark away."""
    marks = tuple(m for m in state.marks if m != ref) if ref in state.marks else (*state.marks, ref)
    return _with(state, marks=marks)


def toggle_scope(state: State) -> State:
    return _with(state, scope="token" if state.scope == "prompt" else "prompt")


def next_site(state: State, step: int) -> State:
    """All sites, then one after another, and round."""
    choices = (None, *state.sites)
    place = choices.index(state.site) if state.site in choices else 0
    return _with(state, site=choices[(place + step) % len(choices)])


def filter_by(state: State, needle: str) -> State:
    """Filter the list; where that hides the selected feature, the first one left is selected."""
    state = _with(state, needle=needle)
    if needle and state.rows and all(row.ref != state.feature for row in state.rows):
        return select_feature(state, state.rows[0].ref)
    return state


def notify(state: State, notice: Notice | None) -> State:
    """Say something to the user, or stop saying it."""
    return _with(state, notice=notice)


def next_order(state: State) -> State:
    return _with(state, order=ORDERS[(ORDERS.index(state.order) + 1) % len(ORDERS)])


def next_rank(state: State) -> State:
    return _with(state, rank=RANKS[(RANKS.index(state.rank) + 1) % len(RANKS)])


def show_run(state: State, step: int) -> State:
    """An older or newer run, as far as there are any."""
    shown = max(0, min(state.shown + step, len(state.runs) - 1))
    if shown == state.shown or not state.runs:
        return state
    state = steering_reducer.follow(_with(state, shown=shown), back=True)
    return select_token(_with(state, site=state.site if state.site in state.sites else None), state.token)
