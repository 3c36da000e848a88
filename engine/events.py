"""What the engine says. Each event is one JSON line, tagged by `event`, with the id of the request it answers."""

from __future__ import annotations

import msgspec

from engine.circuit_results import Check, Circuit, Faithfulness
from engine.results import (
    DictionaryInfo,
    EngineFault,
    FeatureCard,
    FeatureRef,
    FeaturesResult,
    Label,
    LabelSearch,
    MemoryPlan,
    ModelInfo,
    NextToken,
    Token,
)
from engine.steering_results import (
    AblationResult,
    Change,
    ControlResult,
    ImpactResult,
    SteerResult,
    Step,
    SweepResult,
)
from engine.study_results import StudyResult

PROTOCOL = 4


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something the engine says; `id` is the request it answers, 0 for none."""

    id: int = 0


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    pid: int
    protocol: int = PROTOCOL


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """Long work: what is being done and, where known, how far it is."""

    text: str
    done: int = 0
    total: int = 0


class Memory(msgspec.Struct, frozen=True):
    used: int
    """Bytes in use on the device (the process's own resident bytes on a CPU)."""
    total: int


class Opened(Event, frozen=True, kw_only=True, tag="opened"):
    model: ModelInfo
    dictionaries: tuple[DictionaryInfo, ...]
    memory: Memory
    seconds: float
    plan: MemoryPlan | None = None
    """What opening needed and what was chosen."""


class Counted(Event, frozen=True, kw_only=True, tag="counted"):
    tokens: int
    limit: int


class Tokenised(Event, frozen=True, kw_only=True, tag="tokenised"):
    tokens: tuple[Token, ...]


class FeaturesFound(Event, frozen=True, kw_only=True, tag="features"):
    result: FeaturesResult


class NextTokensFound(Event, frozen=True, kw_only=True, tag="next"):
    """Follows `FeaturesFound`: the rest of the pass gave the logits."""

    next_tokens: tuple[tuple[NextToken, ...], ...]


class RowRead(Event, frozen=True, kw_only=True, tag="row"):
    feature: FeatureRef
    values: tuple[float, ...]


class CardRead(Event, frozen=True, kw_only=True, tag="card"):
    card: FeatureCard


class HintsRead(Event, frozen=True, kw_only=True, tag="hints"):
    hints: dict[str, str]
    """`source:index` → the tokens it peaks on; "" where there is no card."""
    labels: dict[str, str] = {}
    """`source:index` → its label, where it has one: the user's own before others'."""


class LabelsFound(Event, frozen=True, kw_only=True, tag="labels"):
    result: LabelSearch


class LabelSet(Event, frozen=True, kw_only=True, tag="label"):
    """The user's label of a feature has been kept, or taken away."""

    feature: FeatureRef
    labels: tuple[Label, ...]
    """All labels of the feature now, the user's own first."""


class Generated(Event, frozen=True, kw_only=True, tag="generated"):
    """One step of both arms; an arm that has ended sends nothing more."""

    step: int
    plain: str | None
    """All text of the plain arm so far."""
    steered: str | None
    kl: float | None
    """None once an arm has ended."""
    choices: Step | None = None


class Adjusted(Event, frozen=True, kw_only=True, tag="adjusted"):
    """Answers the `Steer`: its interventions have changed."""

    change: Change


class Steered(Event, frozen=True, kw_only=True, tag="steered"):
    result: SteerResult


class ControlFound(Event, frozen=True, kw_only=True, tag="control"):
    result: ControlResult


class SweepGrown(Event, frozen=True, kw_only=True, tag="sweep"):
    """The sweep so far; the last one of a request is followed by `Done`."""

    result: SweepResult


class ImpactFound(Event, frozen=True, kw_only=True, tag="impact"):
    result: ImpactResult


class AblationsRanked(Event, frozen=True, kw_only=True, tag="ablations"):
    result: AblationResult


class TraceGrown(Event, frozen=True, kw_only=True, tag="circuit"):
    """The circuit so far; the last one of a trace is `finished`."""

    circuit: Circuit


class Checked(Event, frozen=True, kw_only=True, tag="checked"):
    check: Check


class FaithfulnessFound(Event, frozen=True, kw_only=True, tag="faithfulness"):
    result: Faithfulness


class StudyGrown(Event, frozen=True, kw_only=True, tag="study"):
    """The study so far; the last one of a request is `finished`."""

    result: StudyResult


class TextTried(Event, frozen=True, kw_only=True, tag="tried"):
    """A feature on an edited text: its activation on every token."""

    feature: FeatureRef
    tokens: tuple[Token, ...]
    values: tuple[float, ...]
    maximum: float | None
    """The feature's largest known activation, as on its card."""


class Done(Event, frozen=True, kw_only=True, tag="done"):
    seconds: float
    memory: Memory


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    error: EngineFault


class Stopped(Event, frozen=True, kw_only=True, tag="stopped"):
    """The request was cancelled or superseded."""
