"""What `saescope doctor --dictionary` finds out, as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["agrees", "differs", "wrong hook", "doubtful hook", "poor", "nothing to compare"]
Fit = Literal["same", "near", "other", "nothing"]
"""How stored activations compare with those here; nothing where there were none."""


class Figure(msgspec.Struct, frozen=True):
    """One figure as measured here, beside the published one where there is one."""

    name: str
    """`l0`, `explained_variance`, `loss_recovered_zero` or `loss_recovered_mean`."""
    measured: float
    published: float | None = None
    origin: str = ""
    """Who published it."""
    agrees: bool | None = None
    """None where there is nothing to compare with."""
    far: bool = False
    """So far from the published one that the hook is in doubt."""
    sentence: str = ""
    """What a difference means."""


class HookReading(msgspec.Struct, frozen=True):
    """What the dictionary makes of a place: its own, or a neighbour of the same width."""

    hook: str
    hook_out: str
    """Of a transcoder, where it writes; else the same."""
    explained_variance: float
    l0: float


class Losses(msgspec.Struct, frozen=True):
    """Cross-entropy in nats per token, with what the dictionary reconstructs left, replaced or taken away."""

    clean: float
    spliced: float
    mean_ablated: float
    zero_ablated: float
    tokens: int


class Convention(msgspec.Struct, frozen=True):
    """How activations here compare with stored ones under one convention; deviations are shares of a row's maximum."""

    folded: bool
    """f·‖W_dec‖ in place of raw f."""
    bos: bool
    """With a BOS token before the text."""
    median_deviation: float
    largest_deviation: float
    correlation: float


class StoredComparison(msgspec.Struct, frozen=True):
    """This dictionary's activations here beside stored ones."""

    origin: str
    """The file or the server that has them."""
    rows: int
    """Texts compared; 0 where there were none."""
    features: int
    """Features that these rows are of."""
    skipped: int
    """Rows of this dictionary whose tokens are not the tokenizer's."""
    fit: Fit
    conventions: tuple[Convention, ...]
    """The one that fits best first."""
    sentence: str
    notes: tuple[str, ...] = ()
    """What could not be had."""


class CheckUp(msgspec.Struct, frozen=True):
    """One dictionary examined against the model it is open with."""

    source: str
    model: str
    hook: str
    hook_out: str
    form: str
    formula: str
    features: int
    sample: str
    """What text it was measured on."""
    tokens: int
    bos: bool
    """Whether every stretch of the sample began with BOS."""
    figures: tuple[Figure, ...]
    losses: Losses
    silent: float
    """The share of features that fired nowhere in the sample."""
    decoder_norms: tuple[float, float, float]
    """Smallest, median and largest ‖W_dec‖."""
    readings: tuple[HookReading, ...]
    """Its own place first, then the neighbours, best first."""
    verdict: Verdict
    belongs: bool
    """Nothing speaks against it: not a better hook, not a figure or stored activations far from what was published."""
    sentences: tuple[str, ...]
    """What to know, the most important first."""
    notes: tuple[str, ...] = ()
    stored: StoredComparison | None = None
