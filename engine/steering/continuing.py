"""Plain and steered text of one prompt, step by step, from the same random numbers.

The plain arm does not depend on what is steered: what it said is kept, so that moving a control costs one arm only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.job import Job
from engine.model import LanguageModel
from engine.steering.decoding import Decoding
from engine.steering.interventions import Program
from engine.steering.prefix import Prefix
from engine.steering.sampling import Sampling, Uniforms, draw
from engine.steering_results import Ended

PLAIN, STEERED = 0, 1
_ROUNDING = 1e-6
_KEPT_BYTES = 1 << 27
"""How much of the plain arm's distributions is kept."""


@dataclass
class Said:
    """What an arm has said: ids, and the log-probabilities [V] each was drawn from, before temperature and cuts."""

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[Tensor] = field(default_factory=list)
    ended: Ended = ""


@dataclass(frozen=True)
class Rules:
    """How tokens are drawn and when a text ends."""

    tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()

    def ended(self, model: LanguageModel, ids: Sequence[int]) -> Ended:
        """Why a text ends after `ids`, or ""."""
        if ids[-1] in model.end_ids:
            return "end"
        if self.stop and cut_at(model.tokenizer.text(list(ids)), self.stop) is not None:
            return "stop"
        return "length" if len(ids) >= self.tokens else ""


def cut_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins, if one is there."""
    return min((place for s in stop if (place := text.find(s)) >= 0), default=None)


def generated_text(model: LanguageModel, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The text of new tokens, without the token or the stop string that ended it."""
    text = model.tokenizer.text([token for token in ids if token not in model.end_ids])
    return text[: cut_at(text, stop)]


@dataclass
class PlainArm:
    """What the plain model said after a prompt, by these rules; perhaps not to the end."""

    rules: Rules
    said: Said = field(default_factory=Said)

    def answers(self, rules: Rules) -> bool:
        """Whether it says all that these rules ask for."""
        if (self.rules.sampling, self.rules.stop) != (rules.sampling, rules.stop):
            return False
        return self.said.ended in {"end", "stop"} or len(self.said.ids) >= rules.tokens


class Continuation:
    """Plain and steered arm of one prompt; `arms` hold what each has said so far."""

    def __init__(
        self, prefix: Prefix, program: Program, rules: Rules, job: Job, *, cached: bool = True, fixed: bool = False
    ) -> None:
        self._prefix = prefix
        self._rules = rules
        self._job = job
        plain = prefix.plain_arm if cached else None
        self._known = plain.said if plain is not None and plain.answers(rules) else None
        programs = [program] if self._known is not None else [None, program]
        self._decoding = Decoding(prefix, programs, job, cached=cached, room=rules.tokens, fixed=fixed)
        self._row = len(programs) - 1
        self.arms = (Said(), Said())

    def change(self, program: Program) -> int:
        """Another program acts from the next new token on; the number of that token."""
        self._decoding.change(self._row, program)
        return len(self.arms[STEERED].ids)

    def steps(self) -> Iterator[tuple[bool, bool]]:
        """Draw a token for each arm, again and again; gives which arms took one."""
        uniforms = Uniforms(self._rules.sampling.seed)
        kept = self._keeping()
        with self._decoding.running() as logits:
            for number in range(self._rules.tokens):
                self._job.check()
                took = (not self.arms[PLAIN].ended, not self.arms[STEERED].ended)
                scores = logits.cpu()
                if took[PLAIN]:
                    if self._known is None:
                        self._draw(PLAIN, scores[0], uniforms[number])
                    else:
                        self._repeat(self._known, number)
                if took[STEERED]:
                    self._draw(STEERED, scores[-1], uniforms[number])
                if kept is not None:
                    self._prefix.plain_arm = kept
                yield took
                if all(arm.ended for arm in self.arms):
                    return
                if self._known is not None and self.arms[STEERED].ended:
                    continue  # what is left to say is known
                live = self.arms if self._known is None else self.arms[STEERED:]
                logits = self._decoding.advance([arm.ids[-1] for arm in live])

    def _draw(self, place: int, scores: Tensor, uniform: float) -> None:
        arm, rules = self.arms[place], self._rules
        arm.log_probabilities.append(torch.log_softmax(scores, 0))
        arm.ids.append(draw(scores, uniform, rules.sampling, [*self._prefix.ids, *arm.ids]))
        arm.ended = rules.ended(self._prefix.model, arm.ids)

    def _repeat(self, known: Said, number: int) -> None:
        arm = self.arms[PLAIN]
        arm.log_probabilities.append(known.log_probabilities[number])
        arm.ids.append(known.ids[number])
        arm.ended = self._rules.ended(self._prefix.model, arm.ids)

    def _keeping(self) -> PlainArm | None:
        """Where what the plain arm says now is remembered, if it is new and there is room."""
        size = self._prefix.logits.nbytes * self._rules.tokens
        return PlainArm(self._rules, self.arms[PLAIN]) if self._known is None and size <= _KEPT_BYTES else None


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) in nats of two log-probability rows [V]; what rounding alone gives is 0."""
    kl = float((p.exp() * (p - q)).sum())
    return kl if kl > _ROUNDING else 0.0


def parted(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first position where two texts differ, in a token or because one has ended."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return None if len(a) == len(b) else min(len(a), len(b))
