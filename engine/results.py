"""The nouns of the protocol: tokens, features, what a prompt activates.

They are plain structs without tensors: what the headless commands print and what the session stores. Activations are
raw `f` unless a field says otherwise. Positions count tokens from 0.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from engine.errors import BadRequest

Rank = Literal["max", "sum", "mean"]
Arm = Literal["plain", "steered"]
Residency = Literal["device", "host", "disk"]
"""Where a dictionary's weights are between uses: beside the model, in main memory, or only on disk."""


class FeatureRef(msgspec.Struct, frozen=True, order=True):
    """One latent of one dictionary of the open model."""

    source: str
    index: int

    def __str__(self) -> str:
        return f"{self.source}:{self.index}"


_FEATURE = re.compile(r"(?:(?P<model>[^@\s]+)@)?(?P<source>[^@:\s]+):(?P<index>\d+)\Z")


def parse_feature(text: str) -> FeatureRef:
    """`SOURCE:INDEX` or `MODEL@SOURCE:INDEX` as a feature.

    Raises:
        BadRequest: the text has another form.
    """
    if not (match := _FEATURE.match(text.strip())):
        raise BadRequest(f"{text!r} is not a feature.", "Write SOURCE:INDEX, e.g. 9-res-sc:1546.")
    return FeatureRef(match["source"], int(match["index"]))


class Token(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token: its id, its text as the model means it, and whether it is special or an attention sink."""

    id: int
    text: str
    special: bool = False
    sink: bool = False


class DictionaryInfo(msgspec.Struct, frozen=True):
    """A dictionary that is open."""

    source: str
    hook: str
    layer: int
    architecture: str
    formula: str
    """How an activation is computed, e.g. `topk(32)((x − b_dec)·W_enc + b_enc)`."""
    d_in: int
    d_sae: int
    folder: str
    sha256: str
    neuronpedia: str | None = None
    """`model/source` on Neuronpedia, where the source has pages."""
    has_cards: bool = False
    form: str = ""
    """Whose file format it came in, e.g. `SAELens` or `dictionary_learning AutoEncoder`."""
    notes: tuple[str, ...] = ()
    """What sets its numbers apart from those of others, e.g. `decoder rows folded into activations`."""
    residency: Residency = "device"
    release: str | None = None
    """`release/id` of SAELens' registry, where it was opened by that name."""


class ModelInfo(msgspec.Struct, frozen=True):
    """The model that is open."""

    name: str
    folder: str
    architecture: str
    layers: int
    d_model: int
    context: int
    """The longest prompt in tokens."""
    parameters: int
    device: str
    dtype: str
    sha256: str
    bos: str
    """Which BOS rule prompts follow."""
    chat: bool = False
    """Whether there is a chat template."""


class Provenance(msgspec.Struct, frozen=True):
    """What produced a result: enough to produce it again."""

    model: str
    model_sha256: str
    dictionaries: dict[str, str]
    """Source → sha256 of its weights."""
    hooks: dict[str, str]
    """Source → TransformerLens hook name."""
    device: str
    dtype: str
    bos: str
    settings: dict[str, Any]
    versions: dict[str, str]
    formulas: dict[str, str] = {}
    """Source → how its activations are computed: centring, normalisation and folding included."""
    notes: dict[str, tuple[str, ...]] = {}
    """Source → what sets its numbers apart from those of others."""


class NextToken(msgspec.Struct, frozen=True, array_like=True):
    id: int
    text: str
    probability: float


class TokenFeature(msgspec.Struct, frozen=True, array_like=True):
    """A feature active on one token; `site` indexes `FeaturesResult.sites`."""

    site: int
    index: int
    activation: float


class Hit(msgspec.Struct, frozen=True):
    """A feature that ranks among the top ones of a prompt."""

    source: str
    index: int
    activation: float
    """The aggregate the ranking used: maximum, sum or mean over the ranked positions."""
    position: int
    """Where it is strongest."""
    values: tuple[float, ...]
    """The activation on every token, sinks included."""

    @property
    def ref(self) -> FeatureRef:
        return FeatureRef(self.source, self.index)


class SiteFigures(msgspec.Struct, frozen=True):
    """How well one dictionary reconstructs this prompt, sinks left out."""

    source: str
    hook: str
    l0: float
    """Mean number of active features per token."""
    explained_variance: float | None
    """1 − Σ‖x−x̂‖² / Σ‖x−mean x‖²; None for a single token or a transcoder."""
    active: int
    """How many features fire at least once."""
    strongest: float
    """The largest activation, attention sinks left out."""
    sinks: tuple[int, ...] = ()
    """Positions that are attention sinks at this site: their norm is over four times the median."""


class FeaturesResult(msgspec.Struct, frozen=True):
    """What one prompt activates."""

    model: str
    prompt: str
    chat: bool
    rank: Rank
    tokens: tuple[Token, ...]
    features: tuple[Hit, ...]
    """Best first."""
    sites: tuple[SiteFigures, ...]
    per_token: tuple[tuple[TokenFeature, ...], ...]
    """For every token its strongest features, best first."""
    strength: tuple[float, ...]
    """For every token, how strongly anything fires: the largest activation as a share of its site's largest."""
    provenance: Provenance
    seconds: float
    next_tokens: tuple[tuple[NextToken, ...], ...] = ()
    """For every token, the likeliest continuations; empty where logits were not asked for."""


class TokenValue(msgspec.Struct, frozen=True, array_like=True):
    text: str
    value: float


class Context(msgspec.Struct, frozen=True):
    """A stretch of corpus text around a strong activation."""

    origin: str
    tokens: tuple[TokenValue, ...]
    peak: int
    """Index of the strongest token."""


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody or some model says a feature is."""

    text: str
    by: str = ""
    """`you`, the explaining model, or the file it came from."""
    kind: str = ""
    """How it was made, e.g. Neuronpedia's `oai_token-act-pair`."""


class LabelHit(msgspec.Struct, frozen=True):
    """A label that was found, and whose it is."""

    feature: FeatureRef
    label: Label
    score: float
    """Cosine of the embeddings for labels like another; for words, larger fits better."""


class LabelSearch(msgspec.Struct, frozen=True):
    """What was looked for among the labels of the open dictionaries, best first."""

    query: str
    hits: tuple[LabelHit, ...]
    total: int
    """How many there are beyond what is listed."""
    like: FeatureRef | None = None
    """Labels like this feature's were looked for; `query` is its label."""
    labelled: dict[str, int] = {}
    """Source → how many of its features have a label at all."""


class MemoryPlan(msgspec.Struct, frozen=True):
    """What opening was expected to need, what there was, and what was therefore chosen; sizes in bytes."""

    model: int
    dictionaries: int
    """All of them, in the precision they are computed in."""
    working: int
    """Kept free for activations and logits."""
    available: int
    """Free on the device before opening."""
    host: int
    """Free in main memory before opening."""
    device: str
    dtype: str
    residency: Residency
    resident: int
    """Bytes of dictionaries that may lie on the device at one time."""
    reason: str
    """One sentence: what was chosen and why."""


class FeatureCard(msgspec.Struct, frozen=True):
    """What is known about one feature from held-out text."""

    ref: FeatureRef
    density: float | None
    """Share of corpus tokens on which it fires; None where the dictionary came without cards."""
    max_activation: float | None
    contexts: tuple[Context, ...]
    """Strongest first, each from another document."""
    promotes: tuple[TokenValue, ...]
    """Output tokens whose logits W_dec[i] · W_U raises most (weights only, no context)."""
    suppresses: tuple[TokenValue, ...]
    histogram: tuple[int, ...]
    """Counts of positive activations in equal bins from 0 to `max_activation`."""
    corpus_tokens: int
    labels: tuple[Label, ...] = ()
    """The user's own first."""


class EngineFault(msgspec.Struct, frozen=True):
    """An error as data: `SaescopeError` on the other side of the wire."""

    kind: str
    message: str
    remedy: str = ""
    detail: str = ""
