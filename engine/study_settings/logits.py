"""Settings of logit effects."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, StudySettings, Top


class Logits(StudySettings, frozen=True, kw_only=True, tag="logits"):
    """Which output tokens a feature promotes and suppresses, by its weights alone.

    After the last block the effect is that through the rest of the network; before it, it is the logit lens: what later
    layers do is left out. Shifted so that the median over the vocabulary is zero.
    """

    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX.", extra={POSITIONAL: True})] = ()
    top: Top = 20
