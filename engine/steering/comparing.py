"""Evidence on request: steering beside random directions of the same norm, and dose and response."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from torch import Tensor

from engine.circuits.examples import answer_id
from engine.errors import BadRequest
from engine.job import Job
from engine.protocol import MeasureControl, MeasureSweep
from engine.steering.asked import Asked
from engine.steering.evidence import ROWS, figures, first_logits, plain_figures, plain_said, try_programs
from engine.steering.interventions import Program
from engine.steering.prefix import Prefix
from engine.steering.sweep import smallest_flip, strengths_to_try, with_strength
from engine.steering_results import ArmFigures, ControlResult, Flip, SweepPoint, SweepResult

_MOST_CONTROLS = 50
_MOST_STRENGTHS = 500


def compare(asked: Asked, request: MeasureControl, read: Callable[[], Prefix], job: Job) -> ControlResult:
    """Steer along the decoder rows, and along random directions of their norm.

    Raises:
        BadRequest: an absurd number of directions.
    """
    started = time.perf_counter()
    if not 1 <= request.directions <= _MOST_CONTROLS:
        raise BadRequest(f"{request.directions} random directions?", f"Ask for 1 to {_MOST_CONTROLS}.")
    program = asked.program()
    programs = [program, *asked.controls(request.directions)]
    job.progress("the plain text")
    prefix = read()
    plain = plain_said(prefix, asked.rules, job)
    found: list[ArmFigures] = []
    for start in range(0, len(programs), ROWS):
        job.rest()
        job.progress("steering along random directions", start, len(programs))
        for one in try_programs(prefix, programs[start : start + ROWS], plain, asked.rules, job):
            found.append(figures(prefix, one, plain, asked.watched, asked.rules, job))
    steer = request.steer
    return ControlResult(
        prompt=steer.prompt,
        chat=steer.chat,
        interventions=steer.interventions,
        watched=asked.watched_tokens,
        plain=plain_figures(prefix, plain, asked.watched, asked.rules),
        steered=found[0],
        controls=tuple(found[1:]),
        provenance=asked.provenance(directions=request.directions),
        seconds=time.perf_counter() - started,
        warnings=program.warnings,
    )


def sweep(asked: Asked, request: MeasureSweep, read: Callable[[], Prefix], job: Job) -> Iterator[SweepResult]:
    """Dose and response as far as measured, again and again; the last one has the flip.

    Raises:
        BadRequest: nothing can be varied, too much is asked for, or the answer has no rival.
    """
    started = time.perf_counter()
    steer = request.steer
    if not 0 <= request.varied < len(steer.interventions):
        raise BadRequest(f"There is no intervention {request.varied} to vary.", "Count them from 0.")
    if not 0 <= request.controls <= _MOST_CONTROLS:
        raise BadRequest(f"{request.controls} random directions?", f"Ask for 0 to {_MOST_CONTROLS}.")
    strengths = strengths_to_try(asked.opened, steer.interventions[request.varied], request.strengths)
    if len(strengths) > _MOST_STRENGTHS:
        raise BadRequest(f"{len(strengths)} strengths?", f"Ask for at most {_MOST_STRENGTHS}.")
    warnings = asked.program(with_strength(steer.interventions, request.varied, strengths[-1])).warnings
    rivals = _rivals(asked, request)
    job.progress("the plain text")
    prefix = read()
    pair = _against_likeliest(asked, rivals, prefix)
    asked.watch(pair or ())
    plain = plain_said(prefix, asked.rules, job)
    result = SweepResult(
        prompt=steer.prompt, chat=steer.chat, interventions=steer.interventions, varied=request.varied,
        watched=asked.watched_tokens, plain=plain_figures(prefix, plain, asked.watched, asked.rules), points=(),
        flip=None, provenance=asked.provenance(controls=request.controls), seconds=0.0, warnings=warnings,
    )  # fmt: skip
    margins: list[tuple[float, float]] = []
    each = 1 + request.controls
    for start in range(0, len(strengths), max(1, ROWS // each)):
        job.rest()
        job.progress("sweeping", start, len(strengths))
        part = strengths[start : start + max(1, ROWS // each)]
        programs: list[Program] = []
        for strength in part:
            changed = with_strength(steer.interventions, request.varied, strength)
            programs += [asked.program(changed), *asked.controls(request.controls, changed)]
        tested = try_programs(prefix, programs, plain, asked.rules, job)
        told = [figures(prefix, one, plain, asked.watched, asked.rules, job) for one in tested]
        points = [
            SweepPoint(strength, told[n * each], tuple(told[n * each + 1 : (n + 1) * each]))
            for n, strength in enumerate(part)
        ]
        if pair is not None:
            margins += [(strength, _margin(tested[n * each].first, pair)) for n, strength in enumerate(part)]
        result = _grown(result, started, points=(*result.points, *points))
        if len(result.points) < len(strengths) or pair is not None:
            yield result
    if pair is not None:
        job.progress("seeking the flip")
        result = _grown(result, started, flip=_flip(asked, request.varied, prefix, margins, pair, job))
    yield _grown(result, started, finished=True)


def _grown(result: SweepResult, started: float, **changes: object) -> SweepResult:
    return msgspec.structs.replace(result, seconds=time.perf_counter() - started, **changes)


def _rivals(asked: Asked, request: MeasureSweep) -> tuple[int, int | None] | None:
    """The answer sought and what it is compared with; None for what the plain model would say."""
    if request.answer is None:
        if request.against is not None:
            raise BadRequest("An answer to compare with was given, but none that is sought.", "Give that too.")
        return None
    against = None if request.against is None else answer_id(asked.opened, request.against)
    return answer_id(asked.opened, request.answer), against


def _against_likeliest(asked: Asked, rivals: tuple[int, int | None] | None, prefix: Prefix) -> tuple[int, int] | None:
    if rivals is None:
        return None
    answer, against = rivals
    rival = int(prefix.logits.argmax()) if against is None else against
    if answer == rival:
        name = asked.tokens([answer])[0].text
        why = "is the likeliest next token already" if against is None else "is compared with itself"
        raise BadRequest(f"{name!r} {why}: there is nothing to flip.", "Give another answer, or a rival for it.")
    return answer, rival


def _flip(
    asked: Asked,
    varied: int,
    prefix: Prefix,
    margins: Sequence[tuple[float, float]],
    pair: tuple[int, int],
    job: Job,
) -> Flip:
    def margin_at(strength: float) -> float:
        changed = with_strength(asked.request.interventions, varied, strength)
        return _margin(first_logits(prefix, [asked.program(changed)], job)[0], pair)

    answer, against = asked.tokens(pair)
    found = [smallest_flip(margins, sign, margin_at) for sign in (1, -1)]
    return Flip(answer, against, _margin(prefix.logits.cpu(), pair), found[0], found[1])


def _margin(row: Tensor, pair: tuple[int, int]) -> float:
    """Of logits or log-probabilities [V]: the difference is the same."""
    return float(row[pair[0]] - row[pair[1]])
