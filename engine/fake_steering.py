"""Steering of the fake engine: two texts and their evidence from arithmetic, the same every time.

The arms part the earlier, and lie the further apart, the harder the interventions push. Words come at once, or one by
one where the prompt says `/slow`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from engine.fake_circuit import chance
from engine.job import Job
from engine.protocol import (
    AblationResult,
    AblationRow,
    AblationsRanked,
    Adjusted,
    ArmFigures,
    BadRequest,
    Change,
    Choice,
    ControlFound,
    ControlResult,
    FeatureChange,
    FeatureRef,
    Flip,
    Generated,
    Generation,
    ImpactArm,
    ImpactFound,
    ImpactResult,
    Intervention,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    Metric,
    NextToken,
    Provenance,
    RankAblations,
    Scores,
    SiteImpact,
    Steer,
    Steered,
    SteerResult,
    Step,
    SweepGrown,
    SweepPoint,
    SweepResult,
    Token,
)

MAXIMUM = 44.1
"""The largest activation of every feature."""
_SETTINGS = ("tokens", "seed", "temperature", "top_p", "top_k", "repetition_penalty")
_TAIL = 20
"""How far apart in strength two pushes part the texts one word earlier."""
Obey = Callable[[], None]
"""Does what the prompt orders, once a word."""


class FakeSteering:
    """Answers what is asked about steering."""

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance

    # --- texts --------------------------------------------------------------------------------------------------

    def steer(self, request: Steer, job: Job, words: Sequence[str], obey: Obey) -> None:
        """Stream both texts, and what came of it."""
        present, parted = request.interventions, False
        changes: list[Change] = []
        steps: list[Step] = []
        kl: list[float] = []
        for step in range(request.tokens):
            job.check()
            obey()
            adjusted = job.adjustment()
            if adjusted is not None:
                present = adjusted
                changes.append(Change(step, present))
                job.emit(Adjusted(id=job.id, change=changes[-1]))
            pushed = push(present)
            parted = parted or _parts(pushed, step)
            steps.append(_step(step, pushed, parted, request))
            kl.append(_kl(pushed, step))
            plain, steered = ("".join(_texts(steps, arm)) for arm in ("plain", "steered"))
            job.emit(Generated(id=job.id, step=step, plain=plain, steered=steered, kl=kl[-1], choices=steps[-1]))
            if any(stop in plain and stop in steered for stop in request.stop):
                break
        result = self._result(request, words, steps, kl, tuple(changes))
        job.emit(Steered(id=job.id, result=result))

    def _result(
        self,
        request: Steer,
        words: Sequence[str],
        steps: Sequence[Step],
        kl: Sequence[float],
        changes: tuple[Change, ...],
    ) -> SteerResult:
        first = next(
            (n for n, s in enumerate(steps) if s.plain and s.steered and s.plain.token != s.steered.token), None
        )
        return SteerResult(
            prompt=request.prompt,
            chat=request.chat,
            prompt_ids=tuple(token(word).id for word in words),
            interventions=request.interventions,
            plain=_generation(steps, "plain", request),
            steered=_generation(steps, "steered", request),
            kl=tuple(kl),
            first_divergence=first,
            provenance=self._with_settings(request),
            seconds=0.1,
            keep_error=request.keep_error,
            steps=tuple(steps),
            changes=changes,
            acted=tuple(len(words) + len(steps) - 1 if push((i,)) else 0 for i in request.interventions),
            watched=tuple(token(text) for text in request.watch),
            scores=Scores(
                plain_perplexity=12.0,
                steered_perplexity=round(12.0 + abs(push(request.interventions)), 2),
                steered_probabilities=tuple(round(0.5 * chance("under plain", n), 3) for n in range(len(steps))),
                kl=tuple(kl),
            ),
            warnings=cautions(request.interventions),
        )

    def _with_settings(self, request: Steer) -> Provenance:
        settings = {name: getattr(request, name) for name in _SETTINGS}
        settings |= {"stop": list(request.stop), "error": "kept" if request.keep_error else "dropped"}
        return msgspec.structs.replace(self._provenance, settings=settings)

    # --- evidence -----------------------------------------------------------------------------------------------

    def control(self, request: MeasureControl, job: Job, obey: Obey) -> None:
        """Random directions do about a tenth of what the feature does."""
        steer = request.steer
        controls = []
        for seed in range(request.directions):
            job.progress("random directions", seed, request.directions)
            obey()
            controls.append(_figures(steer, 0.1 * push(steer.interventions) * (0.5 + chance("control", seed))))
        result = ControlResult(
            prompt=steer.prompt,
            chat=steer.chat,
            interventions=steer.interventions,
            watched=tuple(token(text) for text in steer.watch),
            plain=_figures(steer, 0.0),
            steered=_figures(steer, push(steer.interventions)),
            controls=tuple(controls),
            provenance=self._with_settings(steer),
            seconds=0.2,
            warnings=cautions(steer.interventions),
        )
        job.emit(ControlFound(id=job.id, result=result))

    def sweep(self, request: MeasureSweep, job: Job, obey: Obey) -> None:
        """The further from no strength the more; it grows by four strengths at a time."""
        steer = request.steer
        if not 0 <= request.varied < len(steer.interventions):
            raise BadRequest("There is no such intervention to vary.", "Turn one on.")
        strengths = request.strengths or tuple(round(MAXIMUM * n / 2, 4) for n in range(-8, 9))
        points: list[SweepPoint] = []
        for n, strength in enumerate(sorted(strengths)):
            job.progress("strengths", n, len(strengths))
            obey()
            varied = msgspec.structs.replace(steer.interventions[request.varied], strength=strength)
            pushed = push((varied,))
            controls = tuple(_figures(steer, 0.1 * pushed * (0.5 + chance(seed))) for seed in range(request.controls))
            points.append(SweepPoint(strength, _figures(steer, pushed), controls))
            if n % 4 == 3 or n == len(strengths) - 1:
                swept = self._swept(request, tuple(points))
                swept = msgspec.structs.replace(swept, finished=n == len(strengths) - 1)
                job.emit(SweepGrown(id=job.id, result=swept))

    def _swept(self, request: MeasureSweep, points: tuple[SweepPoint, ...]) -> SweepResult:
        steer = request.steer
        flip = None
        if request.answer is not None:
            against = token(request.against or " of")
            flip = Flip(token(request.answer), against, margin=-1.5, positive=round(0.7 * MAXIMUM, 2), negative=None)
        return SweepResult(
            prompt=steer.prompt,
            chat=steer.chat,
            interventions=steer.interventions,
            varied=request.varied,
            watched=tuple(token(text) for text in steer.watch),
            plain=_figures(steer, 0.0),
            points=points,
            flip=flip,
            provenance=self._with_settings(steer),
            seconds=0.5,
        )

    def impact(self, request: MeasureImpact, job: Job, words: Sequence[str], sites: Sequence[tuple[str, str]]) -> None:
        """What an intervention does to `sites`, pairs of source and hook."""
        job.progress("other features", 0, 1)
        settings = {"error": "kept" if request.keep_error else "dropped"}
        pushed = push(request.interventions)
        result = ImpactResult(
            prompt=request.prompt,
            chat=request.chat,
            tokens=tuple(token(word) for word in words),
            interventions=request.interventions,
            steered=_impact(pushed, words, sites, request.top),
            control=_impact(0.2 * pushed, words, sites, request.top),
            provenance=msgspec.structs.replace(self._provenance, settings=settings),
            seconds=0.1,
            warnings=cautions(request.interventions),
        )
        job.emit(ImpactFound(id=job.id, result=result))

    def ablations(
        self,
        request: RankAblations,
        job: Job,
        words: Sequence[str],
        strongest: Sequence[tuple[FeatureRef, float, int]],
        obey: Obey,
    ) -> None:
        """Rank `strongest`: features with their largest activation and its position, strongest first."""
        measured = strongest[: request.candidates]
        rows = []
        for n, (ref, activation, position) in enumerate(measured):
            if n % 20 == 0:
                job.progress("ablations", n, len(measured))
                obey()
            attribution = round((chance("attribution", ref) - 0.3) * activation / 40, 4)
            ablation = round(attribution * (0.6 + 0.8 * chance("ablation", ref)), 4)
            rows.append(AblationRow(ref, activation, position, attribution, ablation, abs(ablation) / 10, n + 1, 0, 0))
        rows = _ranked(rows, "attribution", "by_attribution")
        rows = _ranked(rows, "ablation", "by_ablation")
        rows.sort(key=lambda row: row.by_ablation)
        result = AblationResult(
            prompt=request.prompt,
            chat=request.chat,
            tokens=tuple(token(word) for word in words),
            metric=Metric("logit", (token(request.target[0] if request.target else " of"),), (), len(words) - 1, 3.2),
            top=request.top,
            measured=len(rows),
            rows=tuple(rows),
            shared_activation=sum(row.by_activation <= request.top for row in rows[: request.top]),
            shared_attribution=sum(row.by_attribution <= request.top for row in rows[: request.top]),
            correlation_activation=0.21,
            correlation_attribution=0.93,
            provenance=self._provenance,
            seconds=0.3,
        )
        job.emit(AblationsRanked(id=job.id, result=result))


def token(text: str) -> Token:
    """A word as a token."""
    return Token(id=zlib.crc32(text.encode()) % 49152, text=text)


def push(interventions: Sequence[Intervention]) -> float:
    """How hard interventions push, in units of activation."""
    return sum(map(_push, interventions))


def _push(one: Intervention) -> float:
    match one.kind:
        case "add" | "clamp":
            return one.strength * (MAXIMUM if one.unit == "max" else 1.0)
        case "scale" | "rescale":
            return 10 * (one.strength - 1)
        case "ablate":
            return {"zero": -10.0, "mean": -9.0, "patch": -7.0, "noise": -12.0}[one.to]
    return -5.0


def cautions(interventions: Sequence[Intervention]) -> tuple[str, ...]:
    """What cannot act."""
    return tuple(
        f"{one.feature}: {one.kind} {one.strength:g} changes nothing."
        for one in interventions
        if one.has_strength and _push(one) == 0
    )


def _parts(pushed: float, step: int) -> bool:
    return pushed != 0 and step >= 2 - int(abs(pushed) / _TAIL)


def _kl(pushed: float, step: int) -> float:
    return round(min(abs(pushed) / 10, 5.0) * (0.2 + 1.6 * chance("kl", step)), 3)


def _step(step: int, pushed: float, parted: bool, request: Steer) -> Step:
    plain = Choice(token(f" plain{step}"), 0.4, _next(0.41, request.top), _watched(request, 0.1))
    if not parted:
        return Step(plain, msgspec.structs.replace(plain, watched=_watched(request, 0.1 + abs(pushed) / 1000)))
    drawn = round(0.05 + 0.9 * chance("drawn", step), 3)
    watched = _watched(request, min(0.1 + abs(pushed) / 100, 0.9))
    return Step(plain, Choice(token(f" steered{step}"), drawn, _next(drawn, request.top), watched))


def _next(first: float, count: int) -> tuple[NextToken, ...]:
    others = (NextToken(n, f" word{n}", round(first / (n + 1), 3)) for n in range(1, count))
    return (NextToken(0, " of", first), *others)[:count]


def _watched(request: Steer, probability: float) -> tuple[float, ...]:
    return tuple(round(probability * (0.5 + 0.5 * chance(text)), 4) for text in request.watch)


def _texts(steps: Sequence[Step], arm: str) -> Iterator[str]:
    for step in steps:
        choice: Choice | None = getattr(step, arm)
        if choice is not None:
            yield choice.token.text


def _generation(steps: Sequence[Step], arm: str, request: Steer) -> Generation:
    text = "".join(_texts(steps, arm))
    ids = tuple(token(word).id for word in _texts(steps, arm))
    for stop in request.stop:
        if stop in text:
            return Generation(ids, text[: text.index(stop)], "stop")
    return Generation(ids, text, "length")


def _figures(steer: Steer, pushed: float) -> ArmFigures:
    return ArmFigures(
        text=f" {'plain' if pushed == 0 else 'steered'} by {pushed:g}",
        kl_first=_kl(pushed, 0),
        kl=round(min(abs(pushed) / 10, 5.0), 3),
        first_divergence=None if pushed == 0 else max(0, 2 - int(abs(pushed) / _TAIL)),
        perplexity=round(12 + abs(pushed), 2),
        watched=_watched(steer, min(0.1 + abs(pushed) / 100, 0.9)),
    )


def _impact(pushed: float, words: Sequence[str], sites: Sequence[tuple[str, str]], top: int) -> ImpactArm:
    share = min(abs(pushed) / 100, 1.0)
    found = tuple(
        SiteImpact(
            source=source, hook=hook, active=100, changed=int(100 * share), silenced=int(10 * share),
            woken=int(8 * share), small=int(60 * share), cosine=round(1 - share / 2, 3), mse=round(share, 3),
        )
        for source, hook in sites
    )  # fmt: skip
    changes = tuple(
        FeatureChange(FeatureRef(sites[n % len(sites)][0], 31 * n), n % max(len(words), 1), 5.0, 5.0 + pushed / (n + 2))
        for n in range(top if pushed else 0)
    )
    return ImpactArm(found, changes, round(min(abs(pushed) / 10, 5.0), 3))


def _ranked(rows: Sequence[AblationRow], by: str, into: str) -> list[AblationRow]:
    """The rows with their place by one measure written into a field."""
    order = sorted(range(len(rows)), key=lambda n: -abs(getattr(rows[n], by)))
    places = {n: place for place, n in enumerate(order, 1)}
    return [msgspec.structs.replace(row, **{into: places[n]}) for n, row in enumerate(rows)]
