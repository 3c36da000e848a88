"""Settings of concept coverage."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, Sources, StudySettings, Text, Tokens


class Concepts(StudySettings, frozen=True, kw_only=True, tag="concepts"):
    """Which concepts of a list have a feature of their own, against how often they occur in text.

    A concept has a feature where one fires on it in every sentence, and much more strongly than on any other concept of
    the list. (Scaling Monosemanticity calls this completeness; feature-circuits uses that word for something else.)
    """

    concepts: Annotated[
        tuple[str, ...],
        Meta(description="cities, elements, boroughs, or a file with a concept a line.", extra={POSITIONAL: True}),
    ] = ("cities",)
    templates: Annotated[tuple[str, ...], Meta(description="Sentences with {} for the concept.")] = ()
    margin: Annotated[
        float,
        Meta(gt=0, description="A concept's feature fires so many times as strongly on it as on others of the list."),
    ] = 2.0
    elsewhere: Annotated[
        float, Meta(ge=0, le=1, description="… and fires half as strongly on at most this share of other tokens.")
    ] = 1e-4
    text: Text = ()
    tokens: Tokens = 50_000
    context: Context = 128
    sources: Sources = ()
