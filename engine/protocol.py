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
    StudyGrown,
    SweepGrown,
    TextTried,
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
    MeasureStudy,
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
    TryText,
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
from engine.study_results import (
    AnyView,
    Bars,
    Cell,
    Column,
    Curve,
    FeatureSet,
    Heat,
    Histogram,
    Scatter,
    SetMember,
    StudyResult,
    Table,
)
from engine.study_settings import POSITIONAL, STUDIES, AnyStudy, name_of, settings_from

# fmt: off
__all__ = [
    "ABLATE_TO", "ERROR", "KINDS", "METRIC", "POSITIONAL", "PROTOCOL", "SETS_VALUE", "STUDIES", "AblateTo",
    "Ablation", "AblationResult", "AblationRow", "AblationsRanked", "Adjust", "Adjusted", "Aggregate", "AnyEvent",
    "AnyRequest", "AnyStudy", "AnyView", "Arm", "ArmFigures", "BadRequest", "Bars", "Cancel", "CardRead", "Cell",
    "Change", "Check", "Checked", "Choice", "Circuit", "CircuitEdge", "CircuitNode", "CircuitSettings",
    "CircuitSite", "Column", "Context", "ControlFound", "ControlResult", "Count", "Counted", "Curve",
    "DictionaryInfo", "Done", "Ended", "EngineFault", "ErrorMode", "Event", "Failed", "Faithfulness",
    "FaithfulnessFound", "FaithfulnessPoint", "FeatureCard", "FeatureChange", "FeatureRef", "FeatureSet",
    "FeaturesFound", "FeaturesResult", "Flip", "Generated", "Generation", "Gradients", "Heat", "Hello",
    "HintsRead", "Histogram", "Hit", "ImpactArm", "ImpactFound", "ImpactResult", "Intervention", "Kind", "Label",
    "LabelHit", "LabelSearch", "LabelSet", "LabelsFound", "ListHints", "MeasureControl", "MeasureFaithfulness",
    "MeasureImpact", "MeasureStudy", "MeasureSweep", "Memory", "MemoryPlan", "Method", "Metric", "MetricKind",
    "ModelInfo", "NextToken", "NextTokensFound", "NodeRef", "Open", "Opened", "Pair", "Positions", "Prepare",
    "Progress", "Provenance", "Rank", "RankAblations", "Request", "Residency", "Row", "RowRead", "Run",
    "SaescopeError", "Scatter", "Scores", "SearchLabels", "SessionError", "SetLabel", "SetMember", "ShowCard",
    "SiteFigures", "SiteImpact", "Steer", "SteerResult", "Steered", "Step", "Stopped", "StudyGrown", "StudyResult",
    "SweepGrown", "SweepPoint", "SweepResult", "Table", "TextTried", "Token", "TokenFeature", "TokenValue",
    "Tokenised", "Trace", "TraceGrown", "TryText", "Unit", "Verify", "event_from_line", "name_of", "parse_feature",
    "parse_positions", "request_from_line", "settings_from", "to_line",
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
    | MeasureStudy
    | TryText
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
    | StudyGrown
    | TextTried
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
