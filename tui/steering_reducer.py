"""How the steering part of the state changes: what streams in, what is kept of it, and what is asked of the engine.

Texts of a run that was superseded are late: their id is that of no request under way, and they change nothing.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from engine.protocol import (
    AblationResult,
    AblationsRanked,
    Adjusted,
    AnyEvent,
    ControlFound,
    ControlResult,
    Generated,
    ImpactFound,
    ImpactResult,
    Intervention,
    Steer,
    Steered,
    SteerResult,
    SweepGrown,
    SweepResult,
)
from sessions.model import EvidenceRecord, SteerRecord
from tui.state import State, Task, TaskKind
from tui.steering_state import (
    KEPT_EVIDENCE,
    KEPT_STEERS,
    Texts,
    Waits,
    diverging,
    generation,
    length,
    settings_of,
    steer_request,
    strength_of,
    texts_of,
)
from tui.text import counted, signed

Measured: TypeAlias = ControlResult | SweepResult | ImpactResult | AblationResult
Evidence: TypeAlias = Literal["control", "sweep", "impact", "ablations"]


def _with(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


def _steering(state: State, **changes: Any) -> State:
    return _with(state, steering=msgspec.structs.replace(state.steering, **changes))


# --- what the engine said -----------------------------------------------------------------------------------------


def heard(state: State, event: AnyEvent, at: str) -> State:
    """The state after an event about steering that answers a request under way."""
    match event:
        case Generated():
            return _generated(state, event)
        case Adjusted():
            return _adjusted(state, event)
        case Steered():
            shown = texts_of(event.result)
            state = _recorded(state, SteerRecord(at, event.result))
            return _show(state, msgspec.structs.replace(shown, request=event.id))
        case SweepGrown():
            return _steering(state, sweep=event.result)
        case ControlFound():
            return _measured(state, EvidenceRecord(at, control=event.result))
        case ImpactFound():
            return _measured(state, EvidenceRecord(at, impact=event.result))
        case AblationsRanked():
            return _measured(state, EvidenceRecord(at, ablations=event.result))
    return state


def _generated(state: State, event: Generated) -> State:
    """One more step; the first one takes the place of the texts before."""
    texts = state.steering.texts
    if texts is None or texts.request != event.id:
        texts = state.steering.coming
    if texts is None or texts.request != event.id:
        return state
    texts = msgspec.structs.replace(
        texts,
        plain=texts.plain if event.plain is None else event.plain,
        steered=texts.steered if event.steered is None else event.steered,
        kl=texts.kl if event.kl is None else (*texts.kl, event.kl),
        steps=texts.steps if event.choices is None else (*texts.steps, event.choices),
    )
    return _steering(state, texts=texts, shown=-1)


def _adjusted(state: State, event: Adjusted) -> State:
    texts = state.steering.texts
    if texts is not None and texts.request == event.id:
        texts = msgspec.structs.replace(texts, changes=(*texts.changes, event.change))
    return _steering(state, texts=texts, adjusting=0)


def _show(state: State, texts: Texts | None, shown: int | None = None) -> State:
    """Texts on screen, with the text cursor on one of their tokens."""
    last = length(texts) - 1 if texts is not None else 0
    place = len(state.steers) - 1 if shown is None else shown
    return _steering(state, texts=texts, shown=place, token=max(0, min(state.steering.token, last)))


def _recorded(state: State, record: SteerRecord) -> State:
    return _with(state, steers=(*state.steers, record)[-KEPT_STEERS:])


def _measured(state: State, record: EvidenceRecord) -> State:
    return _with(state, evidence=(*state.evidence, record)[-KEPT_EVIDENCE:])


def settled(state: State, at: str) -> State:
    """Once nothing of its kind runs any more: a sweep is kept as far as it came, a change in mid-stream is past."""
    if state.steering.sweep is not None and state.task("sweep") is None:
        record = EvidenceRecord(at, sweep=state.steering.sweep)
        state = _measured(_steering(state, sweep=None), record)
    if state.steering.adjusting and state.task("steer") is None:
        state = _steering(state, adjusting=0, waits=state.steering.waits or "steer")
    return state


def follow(state: State, *, back: bool = False) -> State:
    """Another prompt is on screen: texts of the one before do not stay, nor does what still streams for it.

    `back`: it is a prompt of before, whose last texts are shown again.
    """
    if state.result is None:
        return state
    if state.steering.coming is not None and not _of_run(state, state.steering.coming):
        state = left(state)
    if state.steering.texts is None or not _of_run(state, state.steering.texts):
        state = _steering(state, texts=None, shown=-1)
        for place in range(len(state.steers) - 1, -1, -1) if back else ():
            if _of_run(state, state.steers[place].result):
                return _show(state, texts_of(state.steers[place].result), place)
    return state


def left(state: State) -> State:
    """What streams is of no use any more."""
    tasks = tuple(t for t in state.tasks if t.kind != "steer")
    return _steering(_with(state, tasks=tasks), coming=None, waits="", adjusting=0)


def emptied(state: State) -> State:
    """Nothing is steered any more, so there is no text to compare."""
    return _steering(left(state), texts=None, shown=-1)


def _of_run(state: State, texts: Texts | SteerResult) -> bool:
    """Whether texts continue the prompt on screen."""
    return state.result is not None and (texts.prompt, texts.chat) == (state.result.prompt, state.result.chat)


def kept(state: State, at: str, seconds: float) -> State:
    """Texts cut off in mid-stream become a record that ends there; model and hooks are those of the prompt's run."""
    texts, run, task = state.steering.texts, state.result, state.task("steer")
    if task is None or texts is None or texts.request != task.id or not texts.steps or texts.ended or run is None:
        return state
    sampling = state.steering.drawn
    settings = {**settings_of(sampling), "stopped": True}
    result = SteerResult(
        prompt=texts.prompt,
        chat=texts.chat,
        prompt_ids=tuple(token.id for token in run.tokens),
        interventions=texts.interventions,
        plain=generation(texts, "plain"),
        steered=generation(texts, "steered"),
        kl=texts.kl,
        first_divergence=diverging(texts),
        provenance=msgspec.structs.replace(run.provenance, settings=settings),
        seconds=seconds,
        keep_error=sampling.keep_error,
        steps=texts.steps,
        changes=texts.changes,
    )
    state = _recorded(state, SteerRecord(at, result))
    return _steering(state, texts=msgspec.structs.replace(texts, ended=True), shown=len(state.steers) - 1)


def evidence_story(record: EvidenceRecord) -> str:
    """One line for the log."""
    if record.control is not None:
        return f"measured {counted(len(record.control.controls), 'random direction', 'random directions')}"
    if record.sweep is not None:
        return f"measured {counted(len(record.sweep.points), 'strength', 'strengths')}"
    if record.impact is not None:
        return f"measured what {described(record.impact.interventions)} changes"
    return f"took out {counted(record.ablations.measured, 'feature', 'features')}" if record.ablations else ""


def story(result: SteerResult) -> str:
    """One line for the log."""
    return (
        f"steered {described(result.interventions) or 'nothing'}: {counted(len(result.plain.ids), 'token', 'tokens')}"
    )


def described(interventions: tuple[Intervention, ...]) -> str:
    """Interventions in a few words."""
    return ", ".join(
        f"{one.feature} {'' if one.kind == 'add' else one.kind + ' '}"
        f"{signed(one.strength) if one.has_strength else 'to ' + one.to}{' × max' if one.unit == 'max' else ''}"
        for one in interventions
    )


# --- what is asked of the engine ----------------------------------------------------------------------------------

_TEXTS: dict[TaskKind, str] = {
    "steer": "generating",
    "control": "measuring random directions",
    "sweep": "measuring strengths",
    "impact": "measuring what else changes",
    "ablations": "taking features out",
}


def begun(state: State) -> bool:
    """Whether the run under way has shown its first step."""
    task, texts = state.task("steer"), state.steering.texts
    return task is not None and texts is not None and texts.request == task.id


def started(state: State, kind: TaskKind, request: int) -> State:
    """Something was asked; what of its kind was under way is superseded."""
    tasks = tuple(t for t in state.tasks if t.kind != kind)
    state = _with(
        state, tasks=(*tasks, Task(request, kind, _TEXTS[kind])), notice=None, slow=state.slow and bool(tasks)
    )
    if kind == "steer":
        steering = state.steering
        run, sampling = state.result, steering.sampling
        prompt, chat = (run.prompt, run.chat) if run is not None else ("", False)
        coming = Texts(prompt, chat, steering.acting, request, watched=sampling.watch)
        return _steering(state, waits="", adjusting=0, coming=coming, drawn=sampling)
    return _steering(state, sweep=None) if kind == "sweep" else state


def steer_of(state: State, request: int) -> Steer | None:
    """The run that the pane describes; None without a prompt."""
    if state.result is None:
        return None
    steering = state.steering
    return steer_request(request, state.result.prompt, state.result.chat, steering.acting, steering.sampling)


def wait(state: State, waits: Waits) -> State:
    """The newest values wait; another run is more than other strengths."""
    waits = "steer" if "steer" in (waits, state.steering.waits) else waits
    return state if waits == state.steering.waits else _steering(state, waits=waits)


def adjusting(state: State, request: int) -> State:
    """Other interventions were sent into the text that streams."""
    return _steering(state, adjusting=request, waits="")


def refused(state: State) -> State:
    """The text that streams takes no change: another run does, or says what is wrong with it."""
    return wait(_steering(state, adjusting=0), "steer")


def given_up(state: State) -> State:
    """Nothing waits any more: the user stopped what ran, it failed, or the engine is gone."""
    return _steering(state, waits="", adjusting=0) if state.steering.waits or state.steering.adjusting else state


# --- what was measured --------------------------------------------------------------------------------------------


def found(state: State, kind: Evidence, varied: int = 0) -> Measured | None:
    """What was measured of a kind and still fits the prompt, the interventions and the settings in the pane.

    In a recording nothing can be measured anew: there the newest is shown, if none fits.
    """
    measured: list[Measured] = [r for record in reversed(state.evidence) if (r := getattr(record, kind)) is not None]
    newest = measured[0] if measured and state.replaying else None
    return next((result for result in measured if _fits(state, result, varied)), newest)


def _fits(state: State, result: Measured, varied: int) -> bool:
    run = state.result
    if run is not None and (run.prompt, run.chat) != (result.prompt, result.chat):
        return False
    if isinstance(result, AblationResult):
        return True
    measured, acting = result.interventions, state.steering.acting
    settings, present = _comparable(result.provenance.settings), settings_of(state.steering.sampling)
    if isinstance(result, ImpactResult):  # of the prompt alone: how texts are drawn does not matter
        return measured == acting and settings.get("error", "kept") == present["error"]
    if isinstance(result, SweepResult):
        if not result.finished or (result.varied, len(measured)) != (varied, len(acting)):
            return False
        measured, acting = _without_strength(measured, varied), _without_strength(acting, varied)
    if measured != acting or len(result.watched) != len(state.steering.sampling.watch):
        return False
    return all(present[name] == settings[name] for name in present.keys() & settings.keys())


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _without_strength(interventions: tuple[Intervention, ...], place: int) -> tuple[Intervention, ...]:
    return tuple(
        msgspec.structs.replace(one, strength=0.0, unit="raw") if n == place else one
        for n, one in enumerate(interventions)
    )


def change_label(state: State, before: tuple[Intervention, ...], after: tuple[Intervention, ...]) -> str:
    """What a change in mid-stream did, in as few words as possible."""
    if [(o.feature, o.kind) for o in before] != [(o.feature, o.kind) for o in after]:
        return described(after) or "nothing"
    changed = [b for a, b in zip(before, after, strict=True) if a != b]
    return ", ".join(signed(strength_of(one, state.scale_of(one.feature))) for one in changed) or "the same"
