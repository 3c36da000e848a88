"""Settings of the universality study."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import (
    POSITIONAL,
    Context,
    Examples,
    Pairs,
    Sources,
    StudySettings,
    Text,
    Tokens,
    Top,
)


class Universality(StudySettings, frozen=True, kw_only=True, tag="universality"):
    """Two models or two dictionaries side by side: the same selection in both, and which features of one the other has.

    Features are matched by the correlation of their activations on the same text, and where both write into the same
    space by the cosine of their decoder rows.
    """

    features: Annotated[
        tuple[str, ...], Meta(description="SOURCE:INDEX, told of by name.", extra={POSITIONAL: True})
    ] = ()
    other: Annotated[
        tuple[str, ...],
        Meta(description="The dictionaries compared with: sources that are open, or as --dictionary; may be repeated."),
    ] = ()
    other_model: Annotated[str | None, Meta(description="Their model; the open one otherwise.")] = None
    pairs: Pairs = ()
    count: Annotated[int, Meta(ge=1, description="Features selected in each.")] = 30
    method: Annotated[Literal["attrib", "ig", "exact"], Meta(description="How effects are computed.")] = "ig"
    examples: Examples = None
    text: Text = ()
    tokens: Tokens = 20_000
    context: Context = 128
    fires: Annotated[int, Meta(ge=2, description="Match only features that fire on at least so many tokens.")] = 10
    most: Annotated[
        int, Meta(ge=2, le=32_768, description="Of each dictionary match at most so many, those that fire most.")
    ] = 4096
    top: Top = 30
    sources: Sources = ()
