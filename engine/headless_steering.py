"""Steering without a screen: requests from what was typed, and answers for the command line and for scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from engine.errors import BadRequest
from engine.headless import Headless, Report
from engine.job import Job
from engine.protocol import (
    AblationResult,
    AblationsRanked,
    CardRead,
    ControlFound,
    ControlResult,
    Event,
    Generated,
    ImpactFound,
    ImpactResult,
    Intervention,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    Open,
    Progress,
    RankAblations,
    ShowCard,
    Steer,
    Steered,
    SteerResult,
    SweepGrown,
    SweepResult,
)
from engine.steering_results import Unit
from engine.typed_interventions import read_strengths

T = TypeVar("T")
Changes = Mapping[int, tuple[Intervention, ...]]
_SEEDS = 1 << 63


@dataclass(frozen=True)
class Steering:
    """What `saescope steer` found: one result for each seed, and where asked for its control."""

    runs: tuple[SteerResult, ...]
    controls: tuple[ControlResult, ...]
    maxima: dict[str, float]
    """`source:index` → the largest known activation, for text; empty where nobody asked."""

    @property
    def document(self) -> Any:
        """What is printed as JSON: the result itself, or several under `runs`; each with its `control`, if any."""
        documents: list[Any] = list(self.runs)
        if self.controls:
            fields = [{name: getattr(run, name) for name in run.__struct_fields__} for run in self.runs]
            documents = [{**run, "control": control} for run, control in zip(fields, self.controls, strict=True)]
        return documents[0] if len(documents) == 1 else {"runs": documents}


def steer_request(
    prompt: str,
    interventions: tuple[Intervention, ...],
    *,
    chat: bool = False,
    tokens: int = 40,
    seed: int = 0,
    temperature: float = 0.7,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    keep_error: bool = True,
    watch: Sequence[str] = (),
) -> Steer:
    """What was typed as a request.

    Raises:
        BadRequest: a number has no meaning.
    """
    if not 0 <= temperature < math.inf:
        raise BadRequest(f"{temperature} is not a temperature.", "Use 0 for greedy, or a positive number.")
    if not 0 < top_p <= 1:
        raise BadRequest(f"{top_p} is not a top-p.", "It lies above 0 and at most at 1.")
    if not 0 < repetition_penalty < math.inf:
        raise BadRequest(f"{repetition_penalty} is not a repetition penalty.", "Use 1 for none.")
    if not all(stop):
        raise BadRequest("An empty --stop would end every text.", "Leave it out.")
    return Steer(
        id=2, prompt=prompt, interventions=interventions, chat=chat, tokens=tokens, seed=seed, temperature=temperature,
        top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty, stop=tuple(stop), keep_error=keep_error,
        watch=tuple(watch),
    )  # fmt: skip


def sweep_request(
    steer: Steer, varied: int, strengths: str | None, controls: int, answer: str | None, against: str | None
) -> MeasureSweep:
    """What was typed as a request; the varied intervention takes the unit of the strengths.

    Raises:
        BadRequest: there is nothing to vary, or the strengths have no meaning.
    """
    interventions = list(steer.interventions)
    if varied >= len(interventions):
        raise BadRequest(
            f"There is no intervention {varied + 1} to vary.", f"Give --vary from 1 to {len(interventions)}."
        )
    one = interventions[varied]
    if not one.has_strength:
        raise BadRequest(
            f"{one.feature} is ablated, which has no strength to vary.", "Use --scale or --clamp, or vary another."
        )
    if against is not None and answer is None:
        raise BadRequest("--against says what an answer is compared with.", "Give the --answer too.")
    values: tuple[float, ...] = ()
    unit: Unit | None = "max" if one.kind in {"add", "clamp"} else None
    if strengths is not None:
        values, unit = read_strengths(strengths, one.kind)
    interventions[varied] = msgspec.structs.replace(one, unit=unit or one.unit)
    return MeasureSweep(
        id=2, steer=msgspec.structs.replace(steer, interventions=tuple(interventions)), strengths=values,
        varied=varied, controls=controls, answer=answer, against=against,
    )  # fmt: skip


def steer(
    opening: Open,
    request: Steer,
    *,
    runs: int = 1,
    control: int = 0,
    changes: Changes | None = None,
    maxima: bool = False,
    report: Report,
) -> Steering:
    """Plain and steered continuations from one or several seeds, each beside `control` random directions.

    Raises:
        BadRequest: seeds run out, or strengths change in a run that is to be compared with random directions.
    """
    if request.seed + runs > _SEEDS:
        raise BadRequest(f"From seed {request.seed} on there are not {runs} seeds.", "Begin with a smaller --seed.")
    if control and changes:
        raise BadRequest(
            "A control keeps its strengths, so it says nothing of a run in which they change.",
            "Leave out --control or --change.",
        )
    headless = opened(opening, report)
    found: list[SteerResult] = []
    controls: list[ControlResult] = []
    for number in range(runs):
        one = msgspec.structs.replace(request, seed=request.seed + number)
        name = f"run {number + 1} of {runs}" if runs > 1 else "steering"
        found.append(_steer(headless, one, changes or {}, name, report))
        if control:
            measured = headless.ask(MeasureControl(id=3, steer=one, directions=control))
            controls.append(_last(measured, ControlFound).result)
    return Steering(tuple(found), tuple(controls), largest(headless, request.interventions) if maxima else {})


def sweep(
    opening: Open, request: MeasureSweep, *, maxima: bool = False, report: Report
) -> tuple[SweepResult, dict[str, float]]:
    """Dose and response of one intervention."""
    headless = opened(opening, report)
    result = _last(headless.ask(request), SweepGrown).result
    return result, largest(headless, result.interventions) if maxima else {}


def impact(
    opening: Open, request: MeasureImpact, *, maxima: bool = False, report: Report
) -> tuple[ImpactResult, dict[str, float]]:
    """What interventions do to all other features of a prompt."""
    headless = opened(opening, report)
    result = _last(headless.ask(request), ImpactFound).result
    return result, largest(headless, result.interventions) if maxima else {}


def ablations(opening: Open, request: RankAblations, sites: Sequence[str], *, report: Report) -> AblationResult:
    """Which features of a prompt matter most; `sites` are sources or hook names."""
    headless = opened(opening, report)
    sources = tuple(dict.fromkeys(s for site in sites for s in headless.engine.opened.sources_at(site)))
    return _last(headless.ask(msgspec.structs.replace(request, sources=sources)), AblationsRanked).result


def opened(opening: Open, report: Report) -> Headless:
    """An engine with a set open."""
    headless = Headless(report)
    headless.ask(opening)
    return headless


def largest(headless: Headless, interventions: Iterable[Intervention]) -> dict[str, float]:
    """The largest activations that are known of the features steered."""
    found: dict[str, float] = {}
    for feature in {one.feature for one in interventions}:
        card = _last(headless.ask(ShowCard(id=4, feature=feature)), CardRead).card
        if card.max_activation:
            found[str(feature)] = card.max_activation
    return found


def _steer(headless: Headless, request: Steer, changes: Changes, name: str, report: Report) -> SteerResult:
    """One run; the changes are handed in when the token before them has come."""
    events: list[Event] = []

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            report(event.text, event.done, event.total)
        elif isinstance(event, Generated):
            report(name, event.step + 1, request.tokens)
            if (wanted := changes.get(event.step + 1)) is not None:
                job.adjust(wanted)
        else:
            events.append(event)

    job = Job(request.id, emit)
    try:
        headless.engine.handle(request, job)
    finally:
        report("", 0, 0)
    return _last(events, Steered).result


def _last(events: Sequence[Event], kind: type[T]) -> T:
    return next(event for event in reversed(events) if isinstance(event, kind))
