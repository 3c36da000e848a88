"""Settings of dictionary health."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import Context, Sources, StudySettings, Text, Tokens, Top


class Health(StudySettings, frozen=True, kw_only=True, tag="health"):
    """How good dictionaries are on text: what they reconstruct, how often features fire, and which are dead or alike.

    The score is (zero-ablated − reconstructed) / (zero-ablated − plain) of the model's loss. Rare features fire less
    often than the threshold; their mean encoder direction shows whether they are all the same one.
    """

    text: Text = ()
    tokens: Tokens = 200_000
    context: Context = 128
    rare: Annotated[float, Meta(gt=0, lt=1, description="Features that fire on a smaller share are rare.")] = 1e-4
    loss_tokens: Annotated[int, Meta(ge=0, description="Measure losses on so many tokens; 0: not at all.")] = 16_384
    resume: Annotated[str | None, Meta(description="Keep the state in this file, and go on from it.")] = None
    sources: Sources = ()
    top: Top = 50
