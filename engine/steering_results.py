"""The nouns of steering: what is done to features, the two texts, and the evidence that it was no accident.

Strengths are in units of the feature's activation (its decoder row is what one unit writes), or in multiples of its
largest known activation. Positions count tokens from 0 over prompt and continuation together.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from engine.circuit_results import Metric
from engine.errors import BadRequest
from engine.results import FeatureRef, NextToken, Provenance, Token

Kind = Literal["add", "clamp", "scale", "ablate", "rescale", "cap"]
Unit = Literal["raw", "max"]
AblateTo = Literal["zero", "mean", "patch", "noise"]
Ended = Literal["", "length", "end", "stop"]

KINDS: tuple[Kind, ...] = ("add", "clamp", "scale", "ablate", "rescale", "cap")
ABLATE_TO: tuple[AblateTo, ...] = ("zero", "mean", "patch", "noise")
SETS_VALUE: frozenset[Kind] = frozenset({"clamp", "scale", "ablate"})
"""Kinds that decide what a feature's activation is; two of them on one feature at one token contradict each other."""


class Positions(msgspec.Struct, frozen=True):
    """Tokens at which an intervention acts.

    `prompt`: every prompt token. `generated`: the last prompt token, from which the first new token is drawn, and every
    new token. `range`: from `start` to before `stop`, counted over both.
    """

    kind: Literal["all", "prompt", "generated", "range"] = "all"
    start: int = 0
    stop: int | None = None

    def holds(self, position: int, prompt: int) -> bool:
        """Whether token `position` is one of them, after a prompt of `prompt` tokens."""
        match self.kind:
            case "all":
                return True
            case "prompt":
                return position < prompt
            case "generated":
                return position >= prompt - 1
        return self.start <= position and (self.stop is None or position < self.stop)

    def __str__(self) -> str:
        if self.kind != "range":
            return self.kind
        if self.stop == self.start + 1:
            return str(self.start)
        return f"{self.start}:{'' if self.stop is None else self.stop}"


_RANGE = re.compile(r"(\d+)(?:\s*(?P<colon>:)\s*(\d*))?\Z")


def parse_positions(text: str) -> Positions:
    """`all`, `prompt`, `generated`, `7` or `2:9` (to before 9) or `2:` as positions.

    Raises:
        BadRequest: the text has another form, or an empty range.
    """
    name = text.strip().casefold()
    if name in {"all", "prompt", "generated"}:
        return Positions(kind=name)  # type: ignore[arg-type]
    match = _RANGE.match(name)
    if match is None or len(name) > 20:
        raise BadRequest(f"{text!r} names no positions.", "Write all, prompt, generated, 7, 2:9 or 2: instead.")
    start = int(match[1])
    stop = None if match["colon"] and not match[3] else int(match[3]) if match["colon"] else start + 1
    if stop is not None and stop <= start:
        raise BadRequest(f"{text!r} is an empty range.", "The end of a range is the first token left out.")
    return Positions("range", start, stop)


class Intervention(msgspec.Struct, frozen=True, omit_defaults=True):
    """What steering does to one feature. Δ is added at the dictionary's site; d is its decoder row, f its activation.

    `add`: Δ = strength · d, with `unit_norm` strength · d/‖d‖. `clamp`: Δ = (strength − f) · d. `scale`:
    Δ = (strength − 1) · f · d. `ablate`: Δ = (v − f) · d, where v is zero, the corpus mean, or the activation at the
    same token of the prompt `patch`; to `noise`, −f · d plus a random direction of the norm of f · d. `rescale` and
    `cap` are Neuronpedia's, on d̂ = d/‖d‖: (strength − 1)(x·d̂) d̂ and (min(x·d̂, strength) − x·d̂) d̂.
    """

    feature: FeatureRef
    strength: float = 0.0
    kind: Kind = "add"
    unit: Unit = "raw"
    """Of `add` and `clamp`: activation units, or multiples of the feature's largest activation in held-out text."""
    unit_norm: bool = False
    to: AblateTo = "zero"
    patch: str | None = None
    seed: int = 0
    """Of noise."""
    positions: Positions = Positions()
    special: bool = True
    """Act on the tokenizer's special tokens too."""

    @property
    def has_strength(self) -> bool:
        return self.kind != "ablate"


class Generation(msgspec.Struct, frozen=True, omit_defaults=True):
    ids: tuple[int, ...]
    text: str
    """Without the token or the stop string that ended it."""
    ended: Ended = ""
    """By reaching its length, by a token that ends texts, or by a stop string."""


class Choice(msgspec.Struct, frozen=True):
    """One new token of one arm: what was drawn, and what else might have been."""

    token: Token
    probability: float
    """Of the token drawn, before temperature, top-p, top-k and penalty."""
    next: tuple[NextToken, ...] = ()
    """The likeliest tokens there."""
    watched: tuple[float, ...] = ()
    """Probabilities of the tokens asked for."""


class Step(msgspec.Struct, frozen=True):
    """One step of both arms, None for an arm that has ended."""

    plain: Choice | None
    steered: Choice | None


class Change(msgspec.Struct, frozen=True):
    """Interventions that were changed while the text streamed: they act from generated token `step` on."""

    step: int
    interventions: tuple[Intervention, ...]


class Scores(msgspec.Struct, frozen=True):
    """What the plain model thinks of both texts."""

    plain_perplexity: float | None
    """exp of the mean −log p per token; None for an empty text."""
    steered_perplexity: float | None
    steered_probabilities: tuple[float, ...]
    """For each token of the steered text, its probability under the plain model after the same text."""
    kl: tuple[float, ...]
    """KL(plain ‖ steered) in nats at each token of the steered text, both after the same text."""


class SteerResult(msgspec.Struct, frozen=True):
    """Plain and steered continuation of one prompt, drawn with the same random numbers."""

    prompt: str
    chat: bool
    prompt_ids: tuple[int, ...]
    interventions: tuple[Intervention, ...]
    plain: Generation
    steered: Generation
    kl: tuple[float, ...]
    """KL(plain ‖ steered) in nats of the next-token distributions at each step, each arm on its own text, until
    one of them ends."""
    first_divergence: int | None
    """The first generated position where the arms chose different tokens."""
    provenance: Provenance
    seconds: float
    keep_error: bool = True
    steps: tuple[Step, ...] = ()
    changes: tuple[Change, ...] = ()
    """In the order in which they happened; before the first, `interventions` acted."""
    acted: tuple[int, ...] = ()
    """For each intervention, at how many tokens it changed the activations."""
    watched: tuple[Token, ...] = ()
    """The tokens asked for; their probabilities are in `steps`."""
    scores: Scores | None = None
    warnings: tuple[str, ...] = ()


class ArmFigures(msgspec.Struct, frozen=True):
    """How one arm differs from the plain one. Perplexity is that of its text under the plain model."""

    text: str
    kl_first: float
    """KL(plain ‖ arm) at the first new token, where both follow the same text."""
    kl: float
    """The mean over steps, each arm on its own text."""
    first_divergence: int | None
    perplexity: float | None
    watched: tuple[float, ...] = ()
    """Probabilities of the tokens asked for, at the first new token."""


class ControlResult(msgspec.Struct, frozen=True):
    """Steering beside the same strengths along random directions of the same norm."""

    prompt: str
    chat: bool
    interventions: tuple[Intervention, ...]
    watched: tuple[Token, ...]
    plain: ArmFigures
    steered: ArmFigures
    controls: tuple[ArmFigures, ...]
    """One for each random direction, seeds from 0."""
    provenance: Provenance
    seconds: float
    warnings: tuple[str, ...] = ()


class SweepPoint(msgspec.Struct, frozen=True):
    strength: float
    steered: ArmFigures
    controls: tuple[ArmFigures, ...] = ()


class Flip(msgspec.Struct, frozen=True):
    """The smallest strength of each sign at which the next token is rather `answer` than `against`, if there is one."""

    answer: Token
    against: Token
    margin: float
    """logit(answer) − logit(against) without steering."""
    positive: float | None
    negative: float | None


class SweepResult(msgspec.Struct, frozen=True):
    """Dose and response: one intervention at several strengths, the others as they are."""

    prompt: str
    chat: bool
    interventions: tuple[Intervention, ...]
    varied: int
    """Which of the interventions was varied."""
    watched: tuple[Token, ...]
    plain: ArmFigures
    points: tuple[SweepPoint, ...]
    """By rising strength."""
    flip: Flip | None
    provenance: Provenance
    seconds: float
    warnings: tuple[str, ...] = ()
    finished: bool = False
    """All strengths were measured, and the flip sought; otherwise it grows still, or was stopped."""


class SiteImpact(msgspec.Struct, frozen=True):
    """What an intervention does to the other features of one dictionary; attention sinks are left out."""

    source: str
    hook: str
    active: int
    """Features that fire on some token, with or without the intervention."""
    changed: int
    """Those of them that change by more than a thousandth of the site's largest activation on some token."""
    silenced: int
    """Those that no longer fire anywhere."""
    woken: int
    """Those that fire only now."""
    small: int
    """Of the changed ones, how many change by less than 1 on every token."""
    cosine: float
    """Mean cosine of the reconstructions with and without."""
    mse: float
    """Mean squared difference of the reconstructions, per number."""

    @property
    def share(self) -> float:
        return self.changed / self.active if self.active else 0.0


class FeatureChange(msgspec.Struct, frozen=True):
    feature: FeatureRef
    position: int
    """Where it changes most."""
    before: float
    after: float


class ImpactArm(msgspec.Struct, frozen=True):
    sites: tuple[SiteImpact, ...]
    changes: tuple[FeatureChange, ...]
    """Largest first."""
    kl: float
    """KL(plain ‖ arm) of the next token after the prompt, in nats."""


class ImpactResult(msgspec.Struct, frozen=True):
    """Which other features an intervention changes on a prompt, beside a random direction of the same norm."""

    prompt: str
    chat: bool
    tokens: tuple[Token, ...]
    interventions: tuple[Intervention, ...]
    steered: ImpactArm
    control: ImpactArm
    provenance: Provenance
    seconds: float
    warnings: tuple[str, ...] = ()


class AblationRow(msgspec.Struct, frozen=True):
    """One feature by three measures; ranks from 1, by size. Attribution and ablation are effects on the metric."""

    feature: FeatureRef
    activation: float
    """The largest on the prompt."""
    position: int
    attribution: float
    """Σ over tokens of f · (d · ∂metric/∂x): the linear guess of `ablation`."""
    ablation: float
    """metric(clean) − metric(without the feature at any token)."""
    kl: float
    """KL(clean ‖ without) of the next token, in nats."""
    by_activation: int
    by_attribution: int
    by_ablation: int


class AblationResult(msgspec.Struct, frozen=True):
    """Which features matter: by activation, by attribution, and by taking them out."""

    prompt: str
    chat: bool
    tokens: tuple[Token, ...]
    metric: Metric
    top: int
    measured: int
    """How many features were taken out, one at a time: the strongest by either of the other measures."""
    rows: tuple[AblationRow, ...]
    """All that were measured, by rank of ablation."""
    shared_activation: int
    """Of the top by ablation, how many are in the top by activation."""
    shared_attribution: int
    correlation_activation: float | None
    """Pearson, over the measured features, with |ablation|."""
    correlation_attribution: float | None
    provenance: Provenance
    seconds: float
