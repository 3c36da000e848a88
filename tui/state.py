"""Everything on the screen as one immutable value. Panes look at their slice; only `tui.reducer` makes new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import msgspec

from engine.protocol import (
    DictionaryInfo,
    EngineFault,
    FeatureCard,
    FeatureRef,
    FeaturesResult,
    Hit,
    LabelSearch,
    Memory,
    MemoryPlan,
    ModelInfo,
    Open,
    Rank,
    SiteFigures,
    TextTried,
)
from sessions.model import CircuitRecord, EvidenceRecord, LogLine, Preset, RunRecord, SteerRecord, StudyRecord
from tui.circuit_state import CircuitView, TreeRow, tree
from tui.steering_state import SteeringState
from tui.study_state import StudyView

Scope = Literal["prompt", "token"]
TaskKind = Literal[
    "run", "steer", "control", "sweep", "impact", "ablations", "trace", "verify", "faithfulness", "study"
]  # fmt: skip
Where = Literal["", "prompt", "steering", "circuit"]
"""The pane in which something is said; "" is the status line."""
Order = Literal["activation", "share", "source", "position"]
ORDERS: tuple[Order, ...] = ("activation", "share", "source", "position")
RANKS: tuple[Rank, ...] = ("max", "sum", "mean")


class EngineState(msgspec.Struct, frozen=True):
    """What is known of the engine."""

    phase: Literal["absent", "starting", "opening", "ready", "lost"] = "starting"
    text: str = "starting"
    done: int = 0
    total: int = 0
    model: ModelInfo | None = None
    dictionaries: tuple[DictionaryInfo, ...] = ()
    memory: Memory | None = None
    plan: MemoryPlan | None = None
    deaths: int = 0
    fault: EngineFault | None = None
    """Why there is no model and none will come."""


class Task(msgspec.Struct, frozen=True):
    """A request under way that the user waits for."""

    id: int
    kind: TaskKind
    text: str
    done: int = 0
    total: int = 0


class Notice(msgspec.Struct, frozen=True):
    """One sentence for the user; an error has a remedy and perhaps a long story."""

    text: str
    level: Literal["info", "warning", "error"] = "info"
    remedy: str = ""
    detail: str = ""
    where: Where = ""


DROP = Notice("A prompt waits for the engine to be ready.", remedy="Escape again drops it.")
"""Asked before a prompt that waits is let go."""
END_STUDY = Notice("A study is under way.", remedy="Escape again ends it and keeps what it has found.")
"""Asked before a study is ended from the panes."""


class Row(msgspec.Struct, frozen=True):
    """One line of the feature list."""

    ref: FeatureRef
    activation: float
    position: int
    share: float
    """The activation as a share of the feature's site's strongest; 0 at a sink."""
    sink: bool
    """It fires most on an attention sink of its site."""
    hint: str = ""
    label: str = ""
    page: str | None = None
    """Its Neuronpedia page."""


class State(msgspec.Struct, frozen=True, dict=True):
    """The whole screen."""

    opening: Open
    replaying: bool = False
    engine: EngineState = EngineState()
    draft: str = ""
    draft_put: int = 0
    """Counts the drafts that did not come from the field (history, a session): only those are put into it. A pane
    that wrote every draft back would undo keys typed meanwhile."""
    chat: bool = False
    draft_tokens: int | None = None
    token_limit: int = 0
    runs: tuple[RunRecord, ...] = ()
    shown: int = -1
    """Index into `runs` of the run on screen."""
    tasks: tuple[Task, ...] = ()
    slow: bool = False
    """The run under way has taken a third of a second."""
    queued: str = ""
    """The prompt that was entered before the engine was ready, and runs then."""
    token: int = 0
    feature: FeatureRef | None = None
    scope: Scope = "prompt"
    site: str | None = None
    rank: Rank = "max"
    order: Order = "activation"
    needle: str = ""
    cards: Mapping[FeatureRef, FeatureCard] = {}
    hints: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    seeking: int = 0
    """The search among labels whose answer is awaited."""
    naming: frozenset[int] = frozenset()
    """Requests that give a label or take one away, and are not answered yet."""
    found: LabelSearch | None = None
    trying: int = 0
    """The reading of an edited text whose answer is awaited."""
    tried: TextTried | None = None
    marks: tuple[FeatureRef, ...] = ()
    steering: SteeringState = SteeringState()
    steers: tuple[SteerRecord, ...] = ()
    evidence: tuple[EvidenceRecord, ...] = ()
    presets: tuple[Preset, ...] = ()
    circuits: tuple[CircuitRecord, ...] = ()
    growing: CircuitRecord | None = None
    """What the trace under way has found so far; it is kept when the trace ends, however it ends."""
    circuit: CircuitView = CircuitView()
    studies: tuple[StudyRecord, ...] = ()
    study: StudyView = StudyView()
    notice: Notice | None = None
    saved: str = ""
    title: str = ""
    log: tuple[LogLine, ...] = ()

    # --- derived, never stored ----------------------------------------------------------------------------------

    @cached_property
    def run(self) -> RunRecord | None:
        """The run on screen."""
        return self.runs[self.shown] if 0 <= self.shown < len(self.runs) else None

    @cached_property
    def result(self) -> FeaturesResult | None:
        return self.run.result if self.run else None

    @cached_property
    def values(self) -> tuple[float, ...] | None:
        """The selected feature on every token, where it is known."""
        return self.values_of(self.feature) if self.feature else None

    def values_of(self, ref: FeatureRef) -> tuple[float, ...] | None:
        """A feature's activations on the run on screen, if they were read."""
        if self.run is None:
            return None
        hit = self._hits.get(ref)
        return hit.values if hit else self.run.rows.get(str(ref))

    @cached_property
    def _hits(self) -> dict[FeatureRef, Hit]:
        return {hit.ref: hit for hit in self.result.features} if self.result else {}

    @cached_property
    def _figures(self) -> dict[str, SiteFigures]:
        return {s.source: s for s in self.result.sites} if self.result else {}

    def sinks_at(self, source: str | None) -> frozenset[int]:
        """Positions left out of colours and shares: the first token, and what this site uses as attention sinks."""
        if self.result is None or len(self.result.tokens) < 2:
            return frozenset()
        figures = self._figures.get(source) if source else None
        return frozenset({0, *figures.sinks} if figures else {0})

    @cached_property
    def sinks(self) -> frozenset[int]:
        """Those of the selected feature's site."""
        return self.sinks_at(self.feature.source if self.feature else None)

    def _largest(self, values: Sequence[float], sinks: frozenset[int]) -> float:
        return max((abs(v) for i, v in enumerate(values) if i not in sinks), default=0.0)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Per token a share in [0, 1]: of the selected feature, or of how strongly anything fires."""
        if self.result is None:
            return ()
        values = self.values if self.feature else self.result.strength
        if values is None:
            return (0.0,) * len(self.result.tokens)
        top = self._largest(values, self.sinks)
        return tuple(min(abs(v) / top, 1.0) if top > 0 else 0.0 for v in values)

    @cached_property
    def peak(self) -> float:
        """What the strongest colour means."""
        values = self.values
        return self._largest(values, self.sinks) if values else 0.0

    @cached_property
    def dictionaries(self) -> dict[str, DictionaryInfo]:
        return {d.source: d for d in self.engine.dictionaries}

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Sources of the run on screen."""
        return tuple(s.source for s in self.result.sites) if self.result else ()

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The feature list: scope, site, filter and order applied."""
        if self.result is None:
            return ()
        found = self._token_rows() if self.scope == "token" else self._prompt_rows()
        needle, texts = self.needle.casefold(), [t.text for t in self.result.tokens]
        kept = [
            row
            for row in found
            if (self.site is None or row.ref.source == self.site)
            and (not needle or needle in f"{row.ref} {row.label} {row.hint} {texts[row.position]}".casefold())
        ]
        return tuple(sorted(kept, key=_ORDER_KEYS[self.order]))

    def _prompt_rows(self) -> list[Row]:
        assert self.result is not None
        return [self._row(h.ref, h.activation, h.position, abs(h.values[h.position])) for h in self.result.features]

    def _token_rows(self) -> list[Row]:
        assert self.result is not None
        if not 0 <= self.token < len(self.result.per_token):
            return []
        return [
            self._row(FeatureRef(self.sites[f.site], f.index), f.activation, self.token, abs(f.activation))
            for f in self.result.per_token[self.token]
        ]

    def _row(self, ref: FeatureRef, activation: float, position: int, peak: float) -> Row:
        info, figures = self.dictionaries.get(ref.source), self._figures.get(ref.source)
        sink = position in self.sinks_at(ref.source)
        return Row(
            ref=ref,
            activation=activation,
            position=position,
            share=peak / figures.strongest if figures and figures.strongest and not sink else 0.0,
            sink=sink,
            hint=self.hints.get(str(ref), ""),
            label=self.labels.get(str(ref), ""),
            page=info.neuronpedia if info else None,
        )

    @cached_property
    def traced(self) -> CircuitRecord | None:
        """The circuit on screen."""
        shown = self.circuit.shown
        return self.growing or (self.circuits[shown] if 0 <= shown < len(self.circuits) else None)

    @property
    def tree(self) -> tuple[TreeRow, ...]:
        """The lines of its tree."""
        return tree(self.traced, self.circuit) if self.traced else ()

    @cached_property
    def column(self) -> int:
        """The token of the circuit under the cursor: that of the screen where it is the same prompt."""
        if self.traced is None:
            return 0
        tokens = self.traced.circuit.tokens
        same = self.result is not None and self.result.tokens == tokens
        return max(0, min(self.token if same else self.circuit.column, len(tokens) - 1))

    @cached_property
    def card(self) -> FeatureCard | None:
        return self.cards.get(self.feature) if self.feature else None

    def task(self, kind: str) -> Task | None:
        """The request of a kind that is under way."""
        return next((t for t in self.tasks if t.kind == kind), None)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing has to be said."""
        return not self.tasks and self.notice is None and self.engine.phase == "ready"

    @property
    def trouble(self) -> Notice | None:
        """Why there is no model and none will come, where that is so."""
        return fault_notice(self.engine.fault) if self.engine.fault is not None else None

    @property
    def unready(self) -> tuple[str, str]:
        """What to say, and what to do, where something needs an engine that is not ready."""
        if (trouble := self.trouble) is not None:
            return trouble.text, trouble.remedy
        return "The engine is not ready yet.", "Wait until it has opened the dictionaries."

    @property
    def dropping(self) -> bool:
        """The user was asked whether the prompt that waits is to be dropped."""
        return bool(self.queued) and self.notice == DROP

    @property
    def ending(self) -> bool:
        """The user was asked whether the study under way is to be ended."""
        return self.notice == END_STUDY and self.task("study") is not None

    @property
    def stale(self) -> bool:
        """The results on screen are about to be replaced, and not at once: they are dimmed."""
        return self.slow and self.task("run") is not None

    @property
    def stale_circuit(self) -> bool:
        """A trace is under way and what is on screen is still the one before."""
        return self.slow and self.task("trace") is not None and self.growing is None

    @property
    def stale_texts(self) -> bool:
        """Other texts are on their way, and not at once."""
        task, texts = self.task("steer"), self.steering.texts
        return self.slow and task is not None and texts is not None and texts.request != task.id

    def scale_of(self, ref: FeatureRef | None) -> float:
        """What one step of steering is measured in: the feature's largest known activation."""
        if ref is None:
            return 1.0
        card = self.cards.get(ref)
        if card and card.max_activation:
            return card.max_activation
        values = self.values_of(ref)
        return self._largest(values, self.sinks_at(ref.source)) or 10.0 if values else 10.0


_ORDER_KEYS = {
    "activation": lambda r: (-abs(r.activation), r.ref),
    "share": lambda r: (-r.share, r.ref),
    "source": lambda r: (_natural(r.ref.source), -abs(r.activation)),
    "position": lambda r: (r.position, -abs(r.activation)),
}


def _natural(source: str) -> tuple[int, str]:
    """Sources in the order of their layers."""
    layer, _, rest = source.partition("-")
    return (int(layer) if layer.isdigit() else -1, rest)


def fault_notice(fault: EngineFault, where: Where = "") -> Notice:
    """An engine's error as the user reads it."""
    return Notice(fault.message, "error", fault.remedy, fault.detail, where)
