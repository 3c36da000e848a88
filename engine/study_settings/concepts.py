"""Settings of concept coverage."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, Sources, StudySettings, Text, Tokens


class Concepts(StudySettings, frozen=True, kw_only=True, tag="concepts"):
    """Which concepts of a list have a feature of their own, against how often they occur.

    A concept has a feature where one fires on it much more than on the other concepts of the list. (Scaling
    Monosemanticity calls this completeness; feature-circuits uses that word for something else.)
    """

    concepts: Annotated[
        tuple[str, ...],
        Meta(description="cities, elements, or a file, a concept a line.", extra={POSITIONAL: True}),
    ] = ("cities",)
    templates: Annotated[tuple[str, ...], Meta(description="Sentences with {} for the concept.")] = ()
    margin: Annotated[
        float,
        Meta(gt=0, description="A feature is the concept's where it fires so many times as strongly as on others."),
    ] = 2.0
    text: Text = ()
    tokens: Tokens = 50_000
    context: Context = 128
    sources: Sources = ()
