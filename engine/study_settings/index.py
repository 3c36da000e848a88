"""Settings of the corpus index."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import Context, EnoughTokens, Positive, Sources, StudySettings, Text, Top


class Index(StudySettings, frozen=True, kw_only=True, tag="index"):
    """Read any text once and keep, for every feature, how often it fires, how strongly, and where.

    The folder can be built on: an interrupted run goes on, and nothing is counted twice. It makes the feature cards.
    """

    text: Text = ()
    folder: Annotated[str | None, Meta(description="Where the index is kept; named after its text otherwise.")] = None
    tokens: Annotated[EnoughTokens | None, Meta(description="Read at most so many tokens; all otherwise.")] = None
    context: Context = 128
    contexts: Annotated[int, Meta(ge=1, le=100, description="Contexts kept for every feature.")] = 20
    rows: Annotated[int, Meta(ge=1, le=4096, description="Contexts the model reads at a time.")] = 16
    cards: Annotated[bool, Meta(description="Make the feature cards of the dictionaries from it.")] = False
    shards: Annotated[Positive | None, Meta(description="Parts that are read independently and then merged.")] = None
    shard: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Read only this part, from 0: others are read elsewhere, at any time."),
    ] = None
    ray: Annotated[
        str | None, Meta(description="Spread over a Ray cluster: its address, auto, or local for this machine.")
    ] = None
    workers: Annotated[
        Positive | None, Meta(description="Of Ray, each with the model; one for each GPU otherwise.")
    ] = None
    sources: Sources = ()
    top: Top = 50
