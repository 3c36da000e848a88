"""How requests about steering are answered. Holds the last prompt's reading: a moved control answers at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.job import Job
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet
from engine.protocol import (
    Adjusted,
    ControlFound,
    Generated,
    MeasureControl,
    MeasureSweep,
    Prepare,
    Steer,
    Steered,
    SweepGrown,
)
from engine.results import NextToken
from engine.steering.asked import Asked
from engine.steering.comparing import compare, sweep
from engine.steering.continuing import (
    PLAIN,
    STEERED,
    Continuation,
    Said,
    divergence,
    generated_text,
    parted,
)
from engine.steering.evidence import scores
from engine.steering.interventions import Program
from engine.steering.prefix import Prefix
from engine.steering_results import Change, Choice, Generation, Intervention, SteerResult, Step


class Steerer:
    """Answers `Prepare`, `Steer`, `MeasureControl` and `MeasureSweep`."""

    def __init__(self, opened: OpenSet) -> None:
        self._opened = opened
        self._prefix: Prefix | None = None

    def prepare(self, request: Prepare, job: Job) -> None:
        """Read a prompt."""
        with telling_out_of_memory():
            self._read(self._opened.checked_ids(request.prompt, request.chat), job)

    def control(self, request: MeasureControl, job: Job) -> None:
        """Emit how steering compares with random directions of the same norm."""
        asked = Asked(self._opened, request.steer, job)
        with telling_out_of_memory():
            result = compare(asked, request, lambda: self._read(asked.ids, job), job)
        job.emit(ControlFound(id=job.id, result=result))

    def sweep(self, request: MeasureSweep, job: Job) -> None:
        """Emit dose and response as it grows."""
        asked = Asked(self._opened, request.steer, job)
        with telling_out_of_memory():
            for result in sweep(asked, request, lambda: self._read(asked.ids, job), job):
                job.emit(SweepGrown(id=job.id, result=result))

    def steer(self, request: Steer, job: Job) -> None:
        """Emit both texts as they grow; interventions may change meanwhile (`Job.adjust`)."""
        asked = Asked(self._opened, request, job)
        with telling_out_of_memory():
            job.emit(Steered(id=job.id, result=self._steered(asked, job)))

    def _read(self, ids: Sequence[int], job: Job) -> Prefix:
        """The prompt as the plain model reads it; read once for all requests about it."""
        if self._prefix is None or not self._prefix.is_of(self._opened.model, ids):
            self._prefix = None
            sites = {site for d in self._opened.dictionaries.values() for site in (d.site, d.write_site)}
            self._prefix = Prefix(self._opened.model, ids, sites, job)
        return self._prefix

    def _steered(self, asked: Asked, job: Job) -> SteerResult:
        started = time.perf_counter()
        model, request, rules = self._opened.model, asked.request, asked.rules
        programs = [asked.program()]
        prefix = self._read(asked.ids, job)
        going = Continuation(prefix, programs[0], rules, job)
        changes: list[Change] = []
        steps: list[Step] = []
        kl: list[float] = []
        for took in going.steps():
            choices = [self._choice(arm, asked) if took[place] else None for place, arm in enumerate(going.arms)]
            if all(took):
                kl.append(divergence(*(arm.log_probabilities[-1] for arm in going.arms)))
            steps.append(Step(*choices))
            plain, steered = (generated_text(model, arm.ids, rules.stop) for arm in going.arms)
            so_far = Generated(
                id=job.id, step=len(steps) - 1, plain=plain, steered=steered, kl=kl[-1] if all(took) else None,
                choices=steps[-1],
            )  # fmt: skip
            job.emit(so_far)
            if (changed := job.adjustment()) is not None and not going.arms[STEERED].ended:
                programs.append(asked.program(changed))
                changes.append(Change(going.change(programs[-1]), changed))
                job.emit(Adjusted(id=job.id, change=changes[-1]))
        acted = _acted(programs)
        return SteerResult(
            prompt=request.prompt,
            chat=request.chat,
            prompt_ids=tuple(asked.ids),
            interventions=request.interventions,
            plain=self._generation(going.arms[PLAIN], asked),
            steered=self._generation(going.arms[STEERED], asked),
            kl=tuple(kl),
            first_divergence=parted(*(arm.ids for arm in going.arms)),
            provenance=asked.provenance(),
            seconds=time.perf_counter() - started,
            keep_error=request.keep_error,
            steps=tuple(steps),
            changes=tuple(changes),
            acted=tuple(acted),
            watched=asked.watched_tokens,
            scores=scores(prefix, going.arms, job),
            warnings=(*programs[0].warnings, *silent(request.interventions, acted)),
        )

    def _choice(self, arm: Said, asked: Asked) -> Choice:
        token = self._opened.model.tokenizer.token
        row = arm.log_probabilities[-1].exp()
        best = row.topk(min(asked.request.top, len(row)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Choice(
            token=token(arm.ids[-1]),
            probability=float(row[arm.ids[-1]]),
            next=tuple(NextToken(i, token(i).text, p) for i, p in pairs),
            watched=tuple(float(row[i]) for i in asked.watched),
        )

    def _generation(self, arm: Said, asked: Asked) -> Generation:
        return Generation(tuple(arm.ids), generated_text(self._opened.model, arm.ids, asked.rules.stop), arm.ended)


def _acted(programs: Sequence[Program]) -> list[int]:
    """At how many tokens each of the first program's interventions changed something, later programs included."""
    counts = programs[0].acted()
    for program in programs[1:]:
        for place, count in enumerate(program.acted()[: len(counts)]):
            counts[place] += count
    return counts


def silent(interventions: Sequence[Intervention], acted: Sequence[int]) -> list[str]:
    """What acts only where its feature fires, and it never did."""
    return [
        f"{one.feature}: {one.kind} changed nothing: the feature fires at none of these tokens."
        for one, count in zip(interventions, acted, strict=True)
        if count == 0 and (one.kind == "ablate" or (one.kind == "scale" and one.strength != 1))
    ]
