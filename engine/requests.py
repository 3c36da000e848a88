"""What the engine is asked. Each request is one JSON line, tagged by `op`; unknown fields are refused."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from engine.circuit_results import (
    Ablation,
    Aggregate,
    Circuit,
    ErrorMode,
    Gradients,
    Method,
    MetricKind,
    NodeRef,
)
from engine.results import FeatureRef, Rank
from engine.steering_results import Intervention
from engine.study_settings import AnyStudy

BosOption: TypeAlias = Literal["auto", "on", "off"]
"""Whether prompts begin with BOS; auto: as the dictionaries were trained."""


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    """Something asked of the engine; `id` returns in every event that answers it."""

    id: int


class Open(Request, frozen=True, kw_only=True, tag="open"):
    """Open a model and dictionaries; None and () mean the default set."""

    model: str | None = None
    dictionaries: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    bos: BosOption = "auto"
    fold: bool = False
    """Activations are f·‖W_dec‖, as Neuronpedia shows them, in place of raw f."""
    download: bool = False
    """Fetch what is not on this machine from the Hugging Face hub."""
    residency: Literal["auto", "device", "host", "disk"] = "auto"
    """Where dictionaries' weights are kept between uses; auto: as near the model as there is room."""


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


class SearchLabels(Request, frozen=True, kw_only=True, tag="labels"):
    """Find labels of the open dictionaries by their words, or those like a feature's own."""

    query: str = ""
    like: FeatureRef | None = None
    """With it, `query` is left aside: labels whose embedding is near this feature's."""
    sources: tuple[str, ...] = ()
    """Dictionaries to look in; () means all."""
    top: int = 50


class SetLabel(Request, frozen=True, kw_only=True, tag="label"):
    """Keep the user's own label of a feature; "" takes it away."""

    feature: FeatureRef
    text: str


class Prepare(Request, frozen=True, kw_only=True, tag="prepare"):
    """Read a prompt for steering, so that the first text comes sooner; nothing is answered but `Done`."""

    prompt: str
    chat: bool = False


class Steer(Request, frozen=True, kw_only=True, tag="steer"):
    """Continue a prompt plain and steered, side by side, from the same random numbers."""

    prompt: str
    interventions: tuple[Intervention, ...]
    chat: bool = False
    tokens: int = 40
    seed: int = 0
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Draw from so many of the likeliest tokens; 0: from all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that stand in prompt or text are divided by it where positive, else multiplied (as CTRL)."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; they are left out of it."""
    keep_error: bool = True
    """False: where an intervention acts, the dictionary's reconstruction stands for the activation."""
    watch: tuple[str, ...] = ()
    """Tokens whose probabilities are reported at every step."""
    top: int = 5
    """Likeliest tokens kept per step and arm."""


class Adjust(Request, frozen=True, kw_only=True, tag="adjust"):
    """Change the interventions of the `Steer` under way: they act from the next token on."""

    target: int
    interventions: tuple[Intervention, ...]


class MeasureControl(Request, frozen=True, kw_only=True, tag="control"):
    """Steer along random directions of the same norm too: is the effect that of the feature?"""

    steer: Steer
    directions: int = 5


class MeasureSweep(Request, frozen=True, kw_only=True, tag="sweep"):
    """Vary the strength of one intervention: dose and response, and the strength that flips an answer."""

    steer: Steer
    strengths: tuple[float, ...] = ()
    """In the unit of the varied intervention; () means 17 of them between −4 and 4 times the feature's maximum."""
    varied: int = 0
    controls: int = 0
    """Random directions at every strength."""
    answer: str | None = None
    """Seek the smallest strength at which the next token is rather this one than `against`."""
    against: str | None = None
    """None: the plain model's likeliest token."""


class MeasureImpact(Request, frozen=True, kw_only=True, tag="impact"):
    """What interventions do to all other features of a prompt, beside a random direction of the same norm."""

    prompt: str
    interventions: tuple[Intervention, ...]
    chat: bool = False
    keep_error: bool = True
    top: int = 20
    seed: int = 0
    """Of the random direction."""


class RankAblations(Request, frozen=True, kw_only=True, tag="ablations"):
    """Which features of a prompt matter most: by activation, by attribution, by measured ablation."""

    prompt: str
    chat: bool = False
    target: tuple[str, ...] = ()
    """Tokens whose logit is the metric; (): the likeliest next token."""
    against: tuple[str, ...] = ()
    """Compared with: the metric is a difference of logits."""
    top: int = 10
    candidates: int = 100
    """Take out so many of the strongest by activation and as many by attribution."""
    sources: tuple[str, ...] = ()
    keep_sinks: bool = False
    """Take features out of the first token and other attention sinks too."""


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


class MeasureStudy(Request, frozen=True, kw_only=True, tag="study"):
    """Carry out a study; `StudyGrown` answers, perhaps several times."""

    settings: AnyStudy


class TryText(Request, frozen=True, kw_only=True, tag="try"):
    """One feature on a text that is being edited; the last prompt and its readings stay what they are."""

    feature: FeatureRef
    text: str
    chat: bool = False


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """Stop request `target`."""

    target: int
