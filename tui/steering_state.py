"""What the steering pane shows: a row per intervention, settings of the text, and the two texts themselves. Pure.

A strength is a number in units of activation (of `add`, `clamp` and `cap`) or a factor (of `scale` and `rescale`). Its
slider reaches as far on either side of the mark at which it does nothing: four times the feature's maximum, or two.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from engine.protocol import (
    Change,
    Generation,
    Intervention,
    Kind,
    Scores,
    Steer,
    SteerResult,
    Step,
    SweepResult,
)

Colour = Literal["kl", "probability"]
Waits = Literal["", "adjust", "steer"]
"""What goes out when the run under way has shown its first word: nothing, other strengths for it, or another run."""
FACTORS: frozenset[Kind] = frozenset({"scale", "rescale"})
SPAN = 4.0
"""The slider's ends, in multiples of the feature's maximum."""
FACTOR_SPAN = 2.0
STEP = 0.25
"""A coarse step: a share of the feature's maximum, or of a factor of 1."""
FINE = 0.1
"""A fine step as a share of a coarse one."""
KEPT_STEERS = 200
KEPT_EVIDENCE = 50
_LARGEST = 1e6


class Sampling(msgspec.Struct, frozen=True):
    """How texts are drawn: the fields of a `Steer` that are not about interventions."""

    tokens: int = 40
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    keep_error: bool = True


class SteerRow(msgspec.Struct, frozen=True):
    """One intervention of the pane."""

    intervention: Intervention
    on: bool = True
    raw: float = 0.0
    """The strength it last had in units of activation,"""
    factor: float = 1.0
    """and as a factor: a round through the kinds loses neither."""


class Texts(msgspec.Struct, frozen=True):
    """Plain and steered text, streaming or finished, with what is known of every step."""

    prompt: str
    chat: bool
    interventions: tuple[Intervention, ...]
    request: int = 0
    """Whose answer it is; 0 for one from a session."""
    plain: str = ""
    steered: str = ""
    steps: tuple[Step, ...] = ()
    kl: tuple[float, ...] = ()
    changes: tuple[Change, ...] = ()
    scores: Scores | None = None
    warnings: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    ended: bool = False


class SteeringState(msgspec.Struct, frozen=True):
    """Everything in the pane."""

    rows: tuple[SteerRow, ...] = ()
    cursor: int = 0
    """The row under the cursor."""
    sampling: Sampling = Sampling()
    live: bool = False
    """A move of a control acts on the text that streams, from the next token on."""
    colour: Colour = "kl"
    token: int = 0
    """The generated token under the text cursor."""
    texts: Texts | None = None
    shown: int = -1
    """Index into `State.steers` of the finished result on screen, −1 while text streams or nothing ran."""
    coming: Texts | None = None
    """What the last run was asked for: its texts before their first step."""
    drawn: Sampling = Sampling()
    """The settings it was asked with."""
    waits: Waits = ""
    adjusting: int = 0
    """The request of the change in mid-stream that is not answered yet; 0 for none."""
    sweep: SweepResult | None = None
    """What the sweep under way has measured so far."""

    @property
    def row(self) -> SteerRow | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    @property
    def acting(self) -> tuple[Intervention, ...]:
        """The interventions that are on."""
        return tuple(row.intervention for row in self.rows if row.on)


# --- strengths ----------------------------------------------------------------------------------------------------


def mark_of(one: Intervention) -> float:
    """The strength at which the slider has its mark: where nothing is added, or nothing scaled."""
    return 1.0 if one.kind in FACTORS else 0.0


def reach_of(one: Intervention, scale: float) -> float:
    """How far the slider goes on either side of the mark; `scale` is the feature's maximum."""
    return FACTOR_SPAN if one.kind in FACTORS else SPAN * scale


def strength_of(one: Intervention, scale: float) -> float:
    """The strength in units of activation, or the factor."""
    return one.strength * scale if one.unit == "max" and one.kind in {"add", "clamp"} else one.strength


def step_of(one: Intervention, scale: float) -> float:
    """A coarse step of the strength."""
    return STEP if one.kind in FACTORS else STEP * scale


def with_strength(one: Intervention, strength: float) -> Intervention:
    """The intervention at a strength in units of activation, or at a factor; small sums of steps come back to zero."""
    bounded = max(-_LARGEST, min(strength, _LARGEST))
    return msgspec.structs.replace(one, strength=round(bounded, 6) + 0.0, unit="raw")


def parse_strength(text: str, one: Intervention, scale: float) -> float | None:
    """`60` in activation units, `-2.5x` in multiples of the feature's maximum; of a factor both mean the same.

    None for anything else.
    """
    cleaned = text.strip().replace("−", "-").replace("×", "x").casefold()
    times = cleaned.endswith("x")
    try:
        value = float(cleaned.removesuffix("x"))
    except ValueError:
        return None
    value = value * scale if times and one.kind not in FACTORS else value
    return value if abs(value) < _LARGEST else None


# --- texts --------------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"\s*\S+|\s+")


def texts_of(result: SteerResult) -> Texts:
    """A finished result as it is shown."""
    return Texts(
        prompt=result.prompt,
        chat=result.chat,
        interventions=result.interventions,
        plain=result.plain.text,
        steered=result.steered.text,
        steps=result.steps,
        kl=result.kl,
        changes=result.changes,
        scores=result.scores,
        warnings=result.warnings,
        watched=tuple(token.text for token in result.watched),
        ended=True,
    )


def pieces(texts: Texts, arm: Literal["plain", "steered"]) -> tuple[str, ...]:
    """The tokens of one arm; of sessions from before steps were kept its words."""
    if texts.steps:
        choices = (step.plain if arm == "plain" else step.steered for step in texts.steps)
        return tuple(choice.token.text for choice in choices if choice is not None)
    return tuple(_WORDS.findall(texts.plain if arm == "plain" else texts.steered))


def diverging(texts: Texts) -> int | None:
    """The first token at which the arms differ; where one has ended and the other goes on they do."""
    for place, step in enumerate(texts.steps):
        if step.plain is None or step.steered is None or step.plain.token.id != step.steered.token.id:
            return place
    if texts.steps or not (texts.plain or texts.steered):
        return None
    plain, steered = pieces(texts, "plain"), pieces(texts, "steered")
    for place, (a, b) in enumerate(zip(plain, steered, strict=False)):
        if a != b:
            return place
    return min(len(plain), len(steered)) if len(plain) != len(steered) else None


def length(texts: Texts) -> int:
    """How many tokens the longer arm has."""
    return max(len(pieces(texts, "plain")), len(pieces(texts, "steered")))


def generation(texts: Texts, arm: Literal["plain", "steered"]) -> Generation:
    """What was generated so far."""
    choices = (step.plain if arm == "plain" else step.steered for step in texts.steps)
    ids = tuple(choice.token.id for choice in choices if choice is not None)
    return Generation(ids, texts.plain if arm == "plain" else texts.steered)


def settings_of(sampling: Sampling) -> dict[str, Any]:
    """Settings as results name them."""
    named = msgspec.structs.asdict(sampling)
    del named["watch"]
    error = "kept" if named.pop("keep_error") else "dropped"
    return {**named, "stop": list(sampling.stop), "error": error}


def sampling_of(result: SteerResult) -> Sampling:
    """How a result was drawn, as far as it says."""
    known = {field: result.provenance.settings.get(field) for field in Sampling.__struct_fields__}
    given = {field: value for field, value in known.items() if value is not None}
    if result.watched:
        given.setdefault("watch", tuple(token.text for token in result.watched))
    given["keep_error"] = result.keep_error
    try:
        return msgspec.convert(given, Sampling)
    except msgspec.ValidationError:
        return Sampling(keep_error=result.keep_error)


def steer_request(
    request: int, prompt: str, chat: bool, interventions: tuple[Intervention, ...], sampling: Sampling
) -> Steer:
    """What to ask the engine."""
    return Steer(id=request, prompt=prompt, chat=chat, interventions=interventions, **msgspec.structs.asdict(sampling))
