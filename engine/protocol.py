"""What the engine is asked and what it answers: one vocabulary for the wire, the headless commands and the session.

Requests and events are JSON lines, tagged by `op` and `event`. Unknown operations and unknown fields of a request are
refused. The nouns and the errors stand in modules of their own and are part of this one's interface.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from engine.circuit_results import (
    ERROR,
    METRIC,
    Ablation,
    Aggregate,
    Check,
    Circuit,
    CircuitEdge,
    CircuitNode,
    CircuitSettings,
    CircuitSite,
    ErrorMode,
    Faithfulness,
    FaithfulnessPoint,
    Gradients,
    Method,
    Metric,
    MetricKind,
    NodeRef,
)  # fmt: skip
from engine.errors import BadRequest, SaescopeError, SessionError
from engine.results import (
    Arm,
    Context,
    DictionaryInfo,
    EngineFault,
    FeatureCard,
    FeatureRef,
    FeaturesResult,
    Generation,
    Hit,
    Intervention,
    ModelInfo,
    NextToken,
    Provenance,
    Rank,
    SiteFigures,
    SteerResult,
    Token,
    TokenFeature,
    TokenValue,
    parse_feature,
)  # fmt: skip

__all__ = [
    "ERROR", "METRIC", "PROTOCOL", "Ablation", "Aggregate", "AnyEvent", "AnyRequest", "Arm", "BadRequest", "Cancel",
    "CardRead", "Check", "Checked", "Circuit", "CircuitEdge", "CircuitNode", "CircuitSettings", "CircuitSite",
    "Context", "Count", "Counted", "DictionaryInfo", "Done", "EngineFault", "ErrorMode", "Event", "Failed",
    "Faithfulness", "FaithfulnessFound", "FaithfulnessPoint", "FeatureCard", "FeatureRef", "FeaturesFound",
    "FeaturesResult", "Generated", "Generation", "Gradients", "Hello", "HintsRead", "Hit", "Intervention",
    "ListHints", "MeasureFaithfulness", "Memory", "Method", "Metric", "MetricKind", "ModelInfo", "NextToken",
    "NextTokensFound", "NodeRef", "Open", "Opened", "Pair", "Progress", "Provenance", "Rank", "Request", "Row",
    "RowRead", "Run", "SaescopeError", "SessionError", "ShowCard", "SiteFigures", "Steer", "SteerResult", "Steered",
    "Stopped", "Token", "TokenFeature", "TokenValue", "Tokenised", "Trace", "TraceGrown", "Verify", "event_from_line",
    "parse_feature", "request_from_line", "to_line",
]  # fmt: skip

PROTOCOL = 1

# --- requests -----------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    """Something asked of the engine; `id` returns in every event that answers it."""

    id: int


class Open(Request, frozen=True, kw_only=True, tag="open"):
    """Open a model and dictionaries; None and () mean the default set."""

    model: str | None = None
    dictionaries: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    bos: Literal["auto", "on", "off"] = "auto"


class Count(Request, frozen=True, kw_only=True, tag="count"):
    """How many tokens a text is; answered at once, whatever else runs."""

    prompt: str
    chat: bool = False


class Run(Request, frozen=True, kw_only=True, tag="run"):
    """Find the features of a prompt."""

    prompt: str
    chat: bool = False
    rank: Rank = "max"
    top: int = 50
    per_site: int = 0
    """At least so many of every site, beyond the top of all."""
    per_token: int = 8
    """Features kept per token and site."""
    sources: tuple[str, ...] = ()
    """Dictionaries to read; () means all."""
    next_tokens: int = 5
    """Likeliest continuations kept per token; 0 lets the pass stop after the last dictionary."""
    keep_sinks: bool = False
    """Rank the first token and other attention sinks too."""


class Row(Request, frozen=True, kw_only=True, tag="row"):
    """The activations of one feature on every token of the last prompt."""

    feature: FeatureRef


class ShowCard(Request, frozen=True, kw_only=True, tag="card"):
    feature: FeatureRef


class ListHints(Request, frozen=True, kw_only=True, tag="hints"):
    """For each feature the tokens it peaks on, as one short line."""

    features: tuple[FeatureRef, ...]


class Steer(Request, frozen=True, kw_only=True, tag="steer"):
    """Continue a prompt plain and steered, side by side."""

    prompt: str
    interventions: tuple[Intervention, ...]
    chat: bool = False
    tokens: int = 40
    seed: int = 0
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0


class Pair(msgspec.Struct, frozen=True, omit_defaults=True):
    """A prompt and its answer, with the prompt and answer it is compared with where there are such."""

    clean: str
    answer: str
    patch: str | None = None
    patch_answer: str | None = None
    case: str = ""


class Trace(Request, frozen=True, kw_only=True, tag="trace"):
    """Find the features that cause a metric, and how they feed one another.

    Either `prompt`, with `patch` or against zero, or `pairs`. Without `target` the likeliest next token is the target.
    """

    prompt: str = ""
    patch: str | None = None
    pairs: tuple[Pair, ...] = ()
    chat: bool = False
    metric: MetricKind | None = None
    """None: `difference` where there is something to compare with, else `logit`."""
    target: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    position: int | None = None
    method: Method = "ig"
    steps: int = 10
    gradients: Gradients = "pass-through"
    aggregate: Aggregate | None = None
    """None: `none` for one prompt, `sum` for several."""
    node_threshold: float | None = None
    """Smallest |effect| of a node; None keeps the strongest `max_nodes`."""
    edge_threshold: float | None = None
    """Smallest |weight| of an edge; None: a thousandth of the metric."""
    max_nodes: int = 100
    nodes_only: bool = False
    """No edges: effects only."""
    budget: int = 2000
    """How many nodes `exact` measures, the strongest by gradient first."""
    dtype: Literal["float32", "float64"] = "float32"
    keep_sinks: bool = False
    """Against zero, change attention sinks too instead of holding them at their clean value."""
    sources: tuple[str, ...] = ()
    neurons: tuple[str, ...] = ()
    """Kinds of sites whose raw neurons are the nodes, e.g. `resid_post`, in place of dictionaries."""


class Verify(Request, frozen=True, kw_only=True, tag="verify"):
    """Measure what the last trace claims: a node's effect, or the edge from `source` to `target`."""

    source: NodeRef
    target: NodeRef | None = None


class MeasureFaithfulness(Request, frozen=True, kw_only=True, tag="faithfulness"):
    """Faithfulness and completeness of the last trace's nodes at these thresholds; () means a curve.

    With `held_out` they are measured on these pairs instead of the trace's; then `circuit` may bring other nodes.
    """

    thresholds: tuple[float, ...] = ()
    ablation: Ablation = "mean"
    errors: ErrorMode = "nodes"
    start_layer: int = 0
    held_out: tuple[Pair, ...] = ()
    circuit: Circuit | None = None


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """Stop request `target`."""

    target: int


AnyRequest: TypeAlias = (
    Open | Count | Run | Row | ShowCard | ListHints | Steer | Trace | Verify | MeasureFaithfulness | Cancel
)

# --- events -------------------------------------------------------------------------------------------------------


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


class Generated(Event, frozen=True, kw_only=True, tag="generated"):
    """One step of both arms; an arm that has ended sends nothing more."""

    step: int
    plain: str | None
    """All text of the plain arm so far."""
    steered: str | None
    kl: float | None
    """None once an arm has ended."""


class Steered(Event, frozen=True, kw_only=True, tag="steered"):
    result: SteerResult


class TraceGrown(Event, frozen=True, kw_only=True, tag="circuit"):
    """The circuit so far; the last one of a trace is `finished`."""

    circuit: Circuit


class Checked(Event, frozen=True, kw_only=True, tag="checked"):
    check: Check


class FaithfulnessFound(Event, frozen=True, kw_only=True, tag="faithfulness"):
    result: Faithfulness


class Done(Event, frozen=True, kw_only=True, tag="done"):
    seconds: float
    memory: Memory


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    error: EngineFault


class Stopped(Event, frozen=True, kw_only=True, tag="stopped"):
    """The request was cancelled or superseded."""


AnyEvent: TypeAlias = (
    Hello
    | Progress
    | Opened
    | Counted
    | Tokenised
    | FeaturesFound
    | NextTokensFound
    | RowRead
    | CardRead
    | HintsRead
    | Generated
    | Steered
    | TraceGrown
    | Checked
    | FaithfulnessFound
    | Done
    | Failed
    | Stopped
)

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_events: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def to_line(message: Request | Event) -> bytes:
    """One JSON line."""
    return _encoder.encode(message) + b"\n"


def request_from_line(line: bytes) -> AnyRequest:
    """The request on one line.

    Raises:
        BadRequest: it is not JSON, not a known operation, or has unknown or wrong fields.
    """
    try:
        return _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request cannot be read: {error}") from None


def event_from_line(line: bytes) -> AnyEvent:
    """The event on one line; raises `msgspec.DecodeError` where the other side speaks another protocol."""
    return _events.decode(line)
