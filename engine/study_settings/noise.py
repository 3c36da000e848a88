"""Settings of ablation and noise on reconstructions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Seed, Sources, StudySettings, Top


class Noise(StudySettings, frozen=True, kw_only=True, tag="noise"):
    """What clamping features to zero, or noise on them, does to reconstructions and to all other features.

    Shows mean squared error, cosine, relative changes and the share of features that changed, beside a random direction
    of the same norm; and beside the ranking by activation the ranking by measured ablation.
    """

    prompt: Annotated[str, Meta(description="The prompt.", extra={POSITIONAL: True})] = ""
    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX; the strongest of the prompt otherwise.")] = ()
    count: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Without features named: so many of the strongest, of each dictionary in turn."
        ),
    ] = 10
    noise: Annotated[
        tuple[str, ...], Meta(description="Standard deviations of the noise, as shares of the feature's activation.")
    ] = ("0.1", "0.5", "1")
    draws: Annotated[int, Meta(ge=1, le=1000, description="Draw every noise so often, and take means.")] = 5
    changed: Annotated[float, Meta(ge=0, description="A feature has changed by more than this share.")] = 0.01
    errors: Annotated[
        Literal["keep", "remove"], Meta(description="What the dictionary does not explain is kept or removed.")
    ] = "keep"
    target: Annotated[tuple[str, ...], Meta(description="Tokens of the ranking's metric.")] = ()
    against: Annotated[tuple[str, ...], Meta(description="Tokens the metric compares with.")] = ()
    seed: Seed = 0
    top: Top = 20
    sources: Sources = ()
