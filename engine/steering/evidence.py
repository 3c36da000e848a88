"""Arms compared with the plain one: many programs in one batch, and what each of them changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.job import Job
from engine.steering.continuing import PlainArm, Rules, Said, divergence, generated_text, parted
from engine.steering.decoding import Decoding
from engine.steering.interventions import Program
from engine.steering.prefix import Prefix
from engine.steering.sampling import Uniforms, draw
from engine.steering_results import ArmFigures, Scores

ROWS = 8
"""Arms decoded at once: on a CPU a batch of eight takes no longer than a batch of two."""
_SCORED = 128


@dataclass
class Tested:
    """One arm after its text: ids, the log-probabilities [V] of its first new token, and KL(plain ‖ arm) per step."""

    ids: list[int]
    first: Tensor
    kl: list[float]


def plain_said(prefix: Prefix, rules: Rules, job: Job) -> Said:
    """What the plain model says after a prompt, remembered from before where that is possible."""
    if prefix.plain_arm is not None and prefix.plain_arm.answers(rules):
        known = prefix.plain_arm.said
        length = rules.tokens
        return Said(known.ids[:length], known.log_probabilities[:length], known.ended)
    said = Said()
    for _ in _speak(prefix, [None], rules, job, [said], keep=True):
        pass
    prefix.plain_arm = PlainArm(rules, said)
    return said


def try_programs(
    prefix: Prefix, programs: Sequence[Program | None], plain: Said, rules: Rules, job: Job
) -> list[Tested]:
    """Let every program speak; at most `ROWS` of them at once."""
    found: list[Tested] = []
    for start in range(0, len(programs), ROWS):
        part = programs[start : start + ROWS]
        arms = [Said() for _ in part]
        tested = [Tested(arm.ids, torch.empty(0), []) for arm in arms]
        for step, rows, took in _speak(prefix, part, rules, job, arms):
            for row, one in enumerate(tested):
                if step == 0:
                    one.first = rows[row]
                if took[row] and step < len(plain.ids):
                    one.kl.append(divergence(plain.log_probabilities[step], rows[row]))
        found += tested
    return found


def _speak(
    prefix: Prefix,
    programs: Sequence[Program | None],
    rules: Rules,
    job: Job,
    arms: Sequence[Said],
    *,
    keep: bool = False,
) -> Iterator[tuple[int, Tensor, list[bool]]]:
    """Draw for all arms at once; gives the step, the log-probabilities [R, V] and which arms took a token."""
    uniforms = Uniforms(rules.sampling.seed)
    decoding = Decoding(prefix, programs, job, room=rules.tokens)
    with decoding.running() as logits:
        for step in range(rules.tokens):
            job.check()
            scores = logits.cpu()
            rows = torch.log_softmax(scores, 1)
            took = [not arm.ended for arm in arms]
            for row, arm in enumerate(arms):
                if not took[row]:
                    continue
                arm.ids.append(draw(scores[row], uniforms[step], rules.sampling, [*prefix.ids, *arm.ids]))
                if keep:
                    arm.log_probabilities.append(rows[row])
                arm.ended = rules.ended(prefix.model, arm.ids)
            yield step, rows, took
            if all(arm.ended for arm in arms):
                return
            logits = decoding.advance([arm.ids[-1] for arm in arms])


def first_logits(prefix: Prefix, programs: Sequence[Program], job: Job) -> Tensor:
    """Next-token logits [R, V] after the prompt alone."""
    parts = []
    for start in range(0, len(programs), ROWS):
        job.check()
        with Decoding(prefix, programs[start : start + ROWS], job).running() as logits:
            parts.append(logits.cpu())
    return torch.cat(parts)


# --- what the plain model thinks of a text ------------------------------------------------------------------------


def plain_rows(prefix: Prefix, ids: Sequence[int], job: Job) -> Iterator[tuple[int, Tensor]]:
    """For each token of a text after the prompt, the plain model's log-probabilities [V] there."""
    if not ids:
        return
    model = prefix.model
    with torch.inference_mode():
        yield 0, torch.log_softmax(prefix.logits.cpu(), 0)
        if len(ids) == 1:
            return
        with model.visiting({}, job):
            if model.caches:
                new = torch.tensor([list(ids[:-1])], device=model.device)
                hidden = model.hidden(new, prefix.plain(1))[0]
            else:
                whole = torch.tensor([[*prefix.ids, *ids[:-1]]], device=model.device)
                hidden = model.hidden(whole)[0, len(prefix) :]
        for start in range(0, len(hidden), _SCORED):
            job.check()
            rows = torch.log_softmax(model.logits(hidden[start : start + _SCORED].contiguous()).cpu(), 1)
            for place, row in enumerate(rows):
                yield start + place + 1, row


def perplexity(log_probabilities: Sequence[float]) -> float | None:
    """exp of the mean −log p; None for an empty text."""
    return math.exp(-sum(log_probabilities) / len(log_probabilities)) if log_probabilities else None


def plain_perplexity(prefix: Prefix, ids: Sequence[int], job: Job) -> float | None:
    """That of a text after the prompt under the plain model."""
    return perplexity([float(row[ids[place]]) for place, row in plain_rows(prefix, ids, job)])


def own_perplexity(said: Said) -> float | None:
    """That of a text under the distributions it was drawn from."""
    return perplexity([float(row[i]) for row, i in zip(said.log_probabilities, said.ids, strict=True)])


def scores(prefix: Prefix, arms: tuple[Said, Said], job: Job) -> Scores:
    """What the plain model thinks of the plain and of the steered text."""
    plain, steered = arms
    probabilities, kl = [], []
    for place, row in plain_rows(prefix, steered.ids, job):
        probabilities.append(float(row[steered.ids[place]]))
        kl.append(divergence(row, steered.log_probabilities[place]))
    return Scores(
        plain_perplexity=own_perplexity(plain),
        steered_perplexity=perplexity(probabilities),
        steered_probabilities=tuple(math.exp(p) for p in probabilities),
        kl=tuple(kl),
    )


def figures(prefix: Prefix, tested: Tested, plain: Said, watched: Sequence[int], rules: Rules, job: Job) -> ArmFigures:
    """How one arm differs from the plain one."""
    return ArmFigures(
        text=generated_text(prefix.model, tested.ids, rules.stop),
        kl_first=divergence(plain.log_probabilities[0], tested.first),
        kl=sum(tested.kl) / len(tested.kl) if tested.kl else 0.0,
        first_divergence=parted(plain.ids, tested.ids),
        perplexity=plain_perplexity(prefix, tested.ids, job),
        watched=tuple(float(tested.first[i].exp()) for i in watched),
    )


def plain_figures(prefix: Prefix, plain: Said, watched: Sequence[int], rules: Rules) -> ArmFigures:
    """The plain arm itself."""
    return ArmFigures(
        text=generated_text(prefix.model, plain.ids, rules.stop),
        kl_first=0.0,
        kl=0.0,
        first_divergence=None,
        perplexity=own_perplexity(plain),
        watched=tuple(float(plain.log_probabilities[0][i].exp()) for i in watched),
    )
