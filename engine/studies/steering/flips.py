"""The smallest strength of a feature that flips an answer after one prompt, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec
from torch import Tensor

from engine.job import Job
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.steering.cautions import cautions
from engine.steering.continuing import Rules
from engine.steering.evidence import ROWS, first_logits, plain_said, try_programs
from engine.steering.interventions import Program, compile_program
from engine.steering.prefix import Prefix
from engine.steering.sampling import Sampling
from engine.steering.sweep import smallest_flip
from engine.steering_results import Intervention, Positions

Status: TypeAlias = Literal["flips", "flips already", "never", "cannot act"]
Sign: TypeAlias = Literal["positive", "negative"]
POINTS = 2 * ROWS
"""Strengths tried of each sign, their distances growing from small to large ones; a flip between two is bisected."""
_CONTROL_SEED = 0


@dataclass(frozen=True)
class Vector:
    """A feature, and how much of its decoder row one unit of strength is, in activation."""

    feature: FeatureRef
    unit: float


@dataclass(frozen=True)
class Asked:
    """What is sought on every prompt: from which answer to which, where, how far, and in how many tokens."""

    positions: Positions
    strongest: float
    signs: tuple[Sign, ...]
    tokens: int


@dataclass(frozen=True)
class Flips:
    """What was found for one feature on one prompt; strengths in its unit, None where there is none."""

    status: Status
    positive: float | None = None
    negative: float | None = None
    control: float | None = None
    """Along a random direction of the same length, of either sign that was asked for."""

    @property
    def smallest(self) -> float | None:
        """The one of the smaller size."""
        return _smaller(self.positive, self.negative)


def grid(strongest: float) -> list[float]:
    """Positive strengths up to `strongest`, dense where they are small: (n / N)² of it."""
    return [strongest * (n / POINTS) ** 2 for n in range(1, POINTS + 1)]


def cannot_act(opened: OpenSet, feature: FeatureRef, positions: Positions, length: int, tokens: int) -> str | None:
    """Why steering a feature changes nothing that is said after a prompt of `length` tokens; None where it can.

    Only what is certain beforehand counts: a decoder row of zeros, positions outside, or positions that nothing after
    them reads.
    """
    if not bool(opened.dictionaries[feature.source].decoder[feature.index].any()):
        return f"The decoder row of {feature} is zero."
    everywhere = Intervention(feature, 1.0)
    there = msgspec.structs.replace(everywhere, positions=positions)
    of_any = set(cautions(opened, [everywhere], length, tokens))
    return next((said for said in cautions(opened, [there], length, tokens) if said not in of_any), None)


class Prompt:
    """One prompt, read once, and whether its answer is flipped under any program.

    Attributes:
        margin: over the plain model, logit(sought) − logit(answer); with several tokens 1 or −1.
    """

    def __init__(self, opened: OpenSet, ids: Sequence[int], sought: int, answer: int, asked: Asked, job: Job) -> None:
        self._opened = opened
        self._sought, self._answer = sought, answer
        self._asked = asked
        self._job = job
        sites = {site for d in opened.dictionaries.values() for site in (d.site, d.write_site)}
        self.prefix = Prefix(opened.model, ids, sites, job)
        self._rules = Rules(asked.tokens, Sampling(0.0, 1.0, 0))
        if asked.tokens == 1:
            self.margin = self._difference(self.prefix.logits.cpu())
        else:
            self._plain = plain_said(self.prefix, self._rules, job)
            self.margin = self._first_said(self._plain.ids)

    def flips(self, vector: Vector, *, control: bool) -> Flips:
        """The smallest strengths of a feature that flip the answer."""
        asked = self._asked
        if self.margin > 0:
            return Flips("flips already")
        length = len(self.prefix)
        if cannot_act(self._opened, vector.feature, asked.positions, length, asked.tokens) is not None:
            return Flips("cannot act")
        found = {sign: self._smallest(vector, sign) for sign in asked.signs}
        random = None
        if control:
            for sign in asked.signs:  # only the smaller one is told
                random = _smaller(random, self._smallest(vector, sign, _CONTROL_SEED, random))
        positive, negative = found.get("positive"), found.get("negative")
        status: Status = "never" if positive is None and negative is None else "flips"
        return Flips(status, positive, negative, None if random is None else abs(random))

    def _smallest(self, vector: Vector, sign: Sign, seed: int | None = None, most: float | None = None) -> float | None:
        """From small strengths to large ones, no further than the first that flips, or than `most`."""
        way = 1 if sign == "positive" else -1
        tried = [(0.0, self.margin)]
        strengths = grid(self._asked.strongest)
        if most is not None:
            strengths = [*(strength for strength in strengths if strength < abs(most)), abs(most)]
        for start in range(0, len(strengths), ROWS):
            part = [way * strength for strength in strengths[start : start + ROWS]]
            margins = self._margins(vector, part, seed)
            tried += zip(part, margins, strict=True)
            if max(margins) > 0:
                break
        return smallest_flip(tried, way, lambda strength: self._margins(vector, [strength], seed)[0])

    def _margins(self, vector: Vector, strengths: Sequence[float], seed: int | None) -> list[float]:
        """How far each strength is over the flip, as one batch."""
        self._job.check()
        programs = [self._program(vector, strength, seed) for strength in strengths]
        if self._asked.tokens == 1:
            return [self._difference(row) for row in first_logits(self.prefix, programs, self._job)]
        tested = try_programs(self.prefix, programs, self._plain, self._rules, self._job)
        return [self._first_said(one.ids) for one in tested]

    def _program(self, vector: Vector, strength: float, seed: int | None) -> Program:
        one = Intervention(vector.feature, strength * vector.unit, positions=self._asked.positions)
        return compile_program(
            self._opened, [one], self.prefix.ids, tokens=self._asked.tokens, random_directions=seed, job=self._job
        )

    def _difference(self, row: Tensor) -> float:
        return float(row[self._sought] - row[self._answer])

    def _first_said(self, ids: Sequence[int]) -> float:
        said = next((token for token in ids if token in {self._sought, self._answer}), None)
        return 1.0 if said == self._sought else -1.0


def _smaller(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other, key=abs)
