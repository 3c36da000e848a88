"""The session file's schema: everything needed to look at a session again and to run it again.

Results are the engine's own structs (`engine.protocol`); the file adds what the user did with them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.protocol import (
    AblationResult,
    Check,
    Circuit,
    ControlResult,
    DictionaryInfo,
    Faithfulness,
    FeatureCard,
    FeatureRef,
    FeaturesResult,
    ImpactResult,
    Intervention,
    MemoryPlan,
    ModelInfo,
    NodeRef,
    Open,
    SteerResult,
    StudyResult,
    SweepResult,
)

SCHEMA = 1


class Owner(msgspec.Struct, frozen=True):
    """The process that has the session open; gone once it was left in good order."""

    pid: int
    host: str


class RunRecord(msgspec.Struct, frozen=True):
    """One prompt that was run; `rows` are activations of features looked at beyond the top ones."""

    at: str
    result: FeaturesResult
    rows: dict[str, tuple[float, ...]] = {}


class SteerRecord(msgspec.Struct, frozen=True):
    at: str
    result: SteerResult


class EvidenceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was measured about steering; one of the four."""

    at: str
    control: ControlResult | None = None
    sweep: SweepResult | None = None
    impact: ImpactResult | None = None
    ablations: AblationResult | None = None


class Preset(msgspec.Struct, frozen=True):
    """Interventions the user keeps under a name."""

    name: str
    interventions: tuple[Intervention, ...]


class CircuitRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One trace, as far as it came, with what was measured of it and what the user made of it."""

    at: str
    circuit: Circuit
    checks: tuple[Check, ...] = ()
    pins: tuple[NodeRef, ...] = ()
    names: dict[str, str] = {}
    """`source:index` → the user's name for a feature, whatever its position."""
    groups: dict[str, str] = {}
    """`source:index@position` → the group (supernode) a node is in."""
    faithfulness: Faithfulness | None = None


class StudyRecord(msgspec.Struct, frozen=True):
    """A study that was carried out, as far as it came."""

    at: str
    result: StudyResult


class View(msgspec.Struct, frozen=True):
    """What was on the screen: a replay opens where the session was left."""

    draft: str = ""
    chat: bool = False
    run: int = -1
    """Index into `runs`; −1 for none."""
    token: int = 0
    feature: FeatureRef | None = None
    scope: Literal["prompt", "token"] = "prompt"
    site: str | None = None
    steer: int = -1
    intervention: Intervention | None = None
    """Of sessions written before there could be several."""
    interventions: tuple[Intervention, ...] = ()
    """What the steering control holds."""
    off: tuple[int, ...] = ()
    """Which of them are switched off."""
    circuit: int = -1
    """Index into `circuits`."""
    node_threshold: float | None = None
    """Smallest |effect| shown; None: all that the circuit has."""
    edge_threshold: float | None = None


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    at: str
    text: str


class Session(msgspec.Struct, frozen=True):
    """A session, as it is on disk."""

    id: str
    created: str
    updated: str
    opening: Open
    schema: int = SCHEMA
    title: str = ""
    owner: Owner | None = None
    versions: dict[str, str] = {}
    model: ModelInfo | None = None
    dictionaries: tuple[DictionaryInfo, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    cards: tuple[FeatureCard, ...] = ()
    hints: dict[str, str] = {}
    """`source:index` → the tokens a feature peaks on."""
    labels: dict[str, str] = {}
    """`source:index` → what the features looked at are called."""
    plan: MemoryPlan | None = None
    """What opening needed, and where the dictionaries were kept."""
    steers: tuple[SteerRecord, ...] = ()
    evidence: tuple[EvidenceRecord, ...] = ()
    presets: tuple[Preset, ...] = ()
    circuits: tuple[CircuitRecord, ...] = ()
    studies: tuple[StudyRecord, ...] = ()
    marks: tuple[FeatureRef, ...] = ()
    log: tuple[LogLine, ...] = ()
    view: View = View()

    @property
    def is_empty(self) -> bool:
        """Nothing worth keeping happened."""
        kept = (self.runs, self.steers, self.evidence, self.presets, self.circuits, self.studies, self.marks)
        return not (any(kept) or self.view.draft.strip())


def neuronpedia_ids(session: Session) -> dict[str, str]:
    """Source → `model/source` on Neuronpedia, for the dictionaries that have pages there."""
    return {d.source: d.neuronpedia for d in session.dictionaries if d.neuronpedia}
