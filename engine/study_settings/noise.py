"""Settings of ablation and noise on reconstructions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Seed, Sources, StudySettings, Top


class Noise(StudySettings, frozen=True, kw_only=True, tag="noise"):
    """What clamping features to zero, or noise on them, does to reconstructions and to all other features.

    Shows relative changes, mean squared error, cosine and the share of features that changed, and beside the ranking by
    activation the ranking by measured ablation.
    """

    prompt: Annotated[str, Meta(description="The prompt.", extra={POSITIONAL: True})] = ""
    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX; the strongest of the prompt otherwise.")] = ()
    count: Annotated[int, Meta(ge=1, description="Without features named: so many of the strongest.")] = 10
    noise: Annotated[
        tuple[str, ...], Meta(description="Standard deviations of the noise, as shares of the feature's activation.")
    ] = ("0.1", "0.5", "1")
    changed: Annotated[float, Meta(ge=0, description="A feature has changed by more than this share.")] = 0.01
    target: Annotated[tuple[str, ...], Meta(description="Tokens of the ranking's metric.")] = ()
    against: Annotated[tuple[str, ...], Meta(description="Tokens the metric compares with.")] = ()
    seed: Seed = 0
    top: Top = 20
    sources: Sources = ()
