"""The nouns of circuits: nodes, edges, the metric they explain, and what an intervention measured.

Sign: an **effect** is what a node contributes to the metric, metric(clean) − metric(node at its baseline), exact or
estimated. An **edge** is the part of its target's effect that comes through its source. The baseline is the patch
prompt's value, or zero. Positions count tokens from 0; None means aggregated over positions.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from engine.results import Provenance, Token

MetricKind = Literal["logit", "difference", "logprob", "kl"]
Method = Literal["attrib", "ig", "exact"]
Gradients = Literal["pass-through", "dictionaries"]
Aggregate = Literal["none", "sum", "max"]
ErrorMode = Literal["nodes", "keep", "remove"]
Ablation = Literal["zero", "mean", "resample"]

ERROR = -1
"""`NodeRef.index` of an error node: what the dictionary does not explain at a place."""
METRIC = ""
"""`NodeRef.source` of the metric, the root of the tree."""


class NodeRef(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """A feature, an error or the metric, at a position or aggregated over all."""

    source: str
    index: int = ERROR
    position: int | None = None

    @property
    def is_metric(self) -> bool:
        return self.source == METRIC

    @property
    def is_error(self) -> bool:
        return self.index == ERROR and not self.is_metric

    def __str__(self) -> str:
        if self.is_metric:
            return "metric"
        name = f"{self.source}:{'error' if self.is_error else self.index}"
        return name if self.position is None else f"{name}@{self.position}"


class CircuitNode(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kept node. `nodes[0]` of a circuit is the metric."""

    ref: NodeRef
    effect: float
    """In units of the metric; for the metric itself metric(clean) − metric(baseline)."""
    activation: float = 0.0
    """Clean activation, mean over examples; where positions are aggregated, summed over them. 0 for errors."""
    baseline: float = 0.0
    """The activation it is compared with."""
    inflow: float | None = None
    """The sum of all edges into it, kept sources or not; None where they were not computed."""
    estimated: bool = False
    """The effect, or part of it, is a plain gradient: the method asked for has not reached this site yet, or its budget
    of measurements not this node."""


class CircuitEdge(msgspec.Struct, frozen=True, array_like=True):
    """`source` and `target` index `Circuit.nodes`; `weight` is in units of the metric."""

    source: int
    target: int
    weight: float


class CircuitSite(msgspec.Struct, frozen=True):
    """What one dictionary's nodes add up to, kept or not."""

    source: str
    hook: str
    layer: int
    d_sae: int
    features: float
    """Sum of the effects of all features."""
    error: float
    """Sum of the effects of all error nodes."""
    kept: int
    """How many of its nodes are in the circuit."""
    neuronpedia: str | None = None
    """`model/source` on Neuronpedia, where the dictionary has pages."""


class Metric(msgspec.Struct, frozen=True):
    """What is explained: see `MetricKind`; `kl` is −KL(clean ‖ run), so that effects are positive."""

    kind: MetricKind
    targets: tuple[Token, ...] = ()
    against: tuple[Token, ...] = ()
    position: int | None = None
    """The token whose next-token logits count; None is the last."""
    clean: float = 0.0
    """Mean over examples."""
    baseline: float | None = None
    """On the patch prompt; None without one."""
    probability: float | None = None
    """What the clean run gives the targets together; None for several examples and for `kl`."""

    @property
    def label(self) -> str:
        """`logit ·Paris − ·Rome`, with a dot for a leading space; names are not yet safe for a terminal."""

        def names(tokens: tuple[Token, ...]) -> str:
            shown = ["·" + t.text[1:] if t.text.startswith(" ") else t.text for t in tokens[:3]]
            return ", ".join(shown) + (", …" if len(tokens) > 3 else "")

        if self.kind == "kl":
            return "KL to the clean run"
        if not self.targets:
            return {"difference": "logit answer − other answer", "logprob": "log p answer"}.get(self.kind, "answer")
        head = "log p" if self.kind == "logprob" else "logit"
        return f"{head} {names(self.targets)}" + (f" − {names(self.against)}" if self.against else "")


class CircuitSettings(msgspec.Struct, frozen=True):
    """How the numbers were made."""

    method: Method
    steps: int
    """Steps of the integrated gradient; 1 for the other methods."""
    gradients: Gradients
    """`pass-through`: through the exact activations, errors included; `dictionaries`: only through what later
    dictionaries reconstruct, as SAELens' wrapper differentiates."""
    baseline: Literal["patch", "zero"]
    aggregate: Aggregate
    node_threshold: float
    edge_threshold: float
    max_nodes: int
    dtype: str
    basis: Literal["dictionaries", "neurons"] = "dictionaries"
    sinks: Literal["held", "traced"] = "held"
    """Against zero: whether the first token and other attention sinks keep their clean value."""


class Circuit(msgspec.Struct, frozen=True):
    """Nodes and edges that cause a metric, strongest first after the metric itself."""

    model: str
    prompt: str
    patch: str | None
    chat: bool
    tokens: tuple[Token, ...]
    """Of the prompt; () for a circuit over several examples of different texts."""
    examples: int
    metric: Metric
    settings: CircuitSettings
    sites: tuple[CircuitSite, ...]
    """In the order of a forward pass."""
    nodes: tuple[CircuitNode, ...]
    edges: tuple[CircuitEdge, ...]
    finished: bool
    """False: stopped or still growing; what is there is valid."""
    provenance: Provenance
    seconds: float
    length: int = 0
    """Tokens per prompt; 0 where the examples differ."""
    layers: int = 0
    """Of the model; 0 where that is not known."""

    def find(self, ref: NodeRef) -> int | None:
        """The place of a node in `nodes`."""
        return next((n for n, node in enumerate(self.nodes) if node.ref == ref), None)


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """A claim beside what an intervention measured, both in units of the metric."""

    source: NodeRef
    target: NodeRef | None
    """None or the metric: the whole effect of `source`. Otherwise the direct edge, everything between held fixed."""
    predicted: float
    measured: float
    how: str
    """The intervention in one phrase."""
    activation_change: tuple[float, float] | None = None
    """For an edge into a feature: its predicted and measured change of activation."""


class FaithfulnessPoint(msgspec.Struct, frozen=True):
    """One node set. Faithfulness is (m(C) − m(∅)) / (m(M) − m(∅)), completeness the same of the complement."""

    threshold: float
    nodes: int
    circuit: float
    """m(C): everything outside the set ablated."""
    complement: float
    """The set itself ablated."""
    faithfulness: float | None
    """None where the model and the empty circuit give the same metric."""
    completeness: float | None


class Faithfulness(msgspec.Struct, frozen=True):
    """Whether a node set is enough, and whether it is all there is (feature-circuits' definitions)."""

    model: float
    """m(M): nothing ablated."""
    empty: float
    """m(∅): everything ablated."""
    ablation: Ablation
    errors: ErrorMode
    start_layer: int
    """Sites before this layer are left free."""
    examples: int
    points: tuple[FaithfulnessPoint, ...]
    metric: Metric
    provenance: Provenance
    settings: dict[str, Any] = {}
