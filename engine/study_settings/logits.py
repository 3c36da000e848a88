"""Settings of logit effects."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, StudySettings, Text, Top


class Logits(StudySettings, frozen=True, kw_only=True, tag="logits"):
    """Which output tokens a feature promotes and suppresses, by its weights, the final norm's gain included.

    After the last block the effect is that through the rest of the network; before it, it is the logit lens: what later
    layers do is left out. Shifted so that the median over the vocabulary is zero. The final norm divides by the size of
    each token's stream: weights alone leave that out, text measures it.
    """

    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX.", extra={POSITIONAL: True})] = ()
    tokens: Annotated[
        int,
        Meta(ge=0, description="Measure the size the final norm divides by on so many tokens of text; 0: not at all."),
    ] = 0
    text: Text = ()
    context: Context = 128
    top: Annotated[Top, Meta(le=1000)] = 20
