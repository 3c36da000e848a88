"""What the engine is asked and what it answers: one vocabulary for the wire, the headless commands and the session.

Requests and events are JSON lines, tagged by `op` and `event`. Unknown operations and unknown fields of a request are
refused. Requests, events, nouns and errors stand in modules of their own; this is their one interface.
"""

from __future__ import annotations

from typing import TypeAlias

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
)
from engine.errors import BadRequest, SaescopeError, SessionError
from engine.events import (
    PROTOCOL,
    AblationsRanked,
    Adjusted,
    CardRead,
    Checked,
    ControlFound,
    Counted,
    Done,
    Event,
    Failed,
    FaithfulnessFound,
    FeaturesFound,
    Generated,
    Hello,
    HintsRead,
    ImpactFound,
    LabelSet,
    LabelsFound,
    Memory,
    NextTokensFound,
    Opened,
    Progress,
    RowRead,
    Steered,
    Stopped,
    SweepGrown,
    Tokenised,
    TraceGrown,
)
from engine.requests import (
    Adjust,
    Cancel,
    Count,
    ListHints,
    MeasureControl,
    MeasureFaithfulness,
    MeasureImpact,
    MeasureSweep,
    Open,
    Pair,
    Prepare,
    RankAblations,
    Request,
    Row,
    Run,
    SearchLabels,
    SetLabel,
    ShowCard,
    Steer,
    Trace,
    Verify,
)
from engine.results import (
    Arm,
    Context,
    DictionaryInfo,
    EngineFault,
    FeatureCard,
    FeatureRef,
    FeaturesResult,
    Hit,
    Label,
    LabelHit,
    LabelSearch,
    MemoryPlan,
    ModelInfo,
    NextToken,
    Provenance,
    Rank,
    Residency,
    SiteFigures,
    Token,
    TokenFeature,
    TokenValue,
    parse_feature,
)
from engine.steering_results import (
    ABLATE_TO,
    KINDS,
    SETS_VALUE,
    AblateTo,
    AblationResult,
    AblationRow,
    ArmFigures,
    Change,
    Choice,
    ControlResult,
    Ended,
    FeatureChange,
    Flip,
    Generation,
    ImpactArm,
    ImpactResult,
    Intervention,
    Kind,
    Positions,
    Scores,
    SiteImpact,
    SteerResult,
    Step,
    SweepPoint,
    SweepResult,
    Unit,
    parse_positions,
)  # fmt: skip

# fmt: off
__all__ = [
    "ABLATE_TO", "ERROR", "KINDS", "METRIC", "PROTOCOL", "SETS_VALUE", "AblateTo", "Ablation", "AblationResult",
    "AblationRow", "AblationsRanked", "Adjust", "Adjusted", "Aggregate", "AnyEvent", "AnyRequest", "Arm",
    "ArmFigures", "BadRequest", "Cancel", "CardRead", "Change", "Check", "Checked", "Choice", "Circuit",
    "CircuitEdge", "CircuitNode", "CircuitSettings", "CircuitSite", "Context", "ControlFound", "ControlResult",
    "Count", "Counted", "DictionaryInfo", "Done", "Ended", "EngineFault", "ErrorMode", "Event", "Failed",
    "Faithfulness", "FaithfulnessFound", "FaithfulnessPoint", "FeatureCard", "FeatureChange", "FeatureRef",
    "FeaturesFound", "FeaturesResult", "Flip", "Generated", "Generation", "Gradients", "Hello", "HintsRead", "Hit",
    "ImpactArm", "ImpactFound", "ImpactResult", "Intervention", "Kind", "Label", "LabelHit", "LabelSearch",
    "LabelSet", "LabelsFound", "ListHints", "MeasureControl", "MeasureFaithfulness", "MeasureImpact", "MeasureSweep",
    "Memory", "MemoryPlan", "Method", "Metric", "MetricKind", "ModelInfo", "NextToken", "NextTokensFound", "NodeRef",
    "Open", "Opened", "Pair", "Positions", "Prepare", "Progress", "Provenance", "Rank", "RankAblations", "Request",
    "Residency", "Row", "RowRead", "Run", "SaescopeError", "Scores", "SearchLabels", "SessionError", "SetLabel",
    "ShowCard", "SiteFigures", "SiteImpact", "Steer", "SteerResult", "Steered", "Step", "Stopped", "SweepGrown",
    "SweepPoint", "SweepResult", "Token", "TokenFeature", "TokenValue", "Tokenised", "Trace", "TraceGrown", "Unit",
    "Verify", "event_from_line", "parse_feature", "parse_positions", "request_from_line", "to_line",
]
# fmt: on

AnyRequest: TypeAlias = (
    Open
    | Count
    | Run
    | Row
    | ShowCard
    | ListHints
    | SearchLabels
    | SetLabel
    | Prepare
    | Steer
    | Adjust
    | MeasureControl
    | MeasureSweep
    | MeasureImpact
    | RankAblations
    | Trace
    | Verify
    | MeasureFaithfulness
    | Cancel
)

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
    | LabelsFound
    | LabelSet
    | Generated
    | Adjusted
    | Steered
    | ControlFound
    | SweepGrown
    | ImpactFound
    | AblationsRanked
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
