"""Settings of random walks."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Seed, StudySettings


class Walk(StudySettings, frozen=True, kw_only=True, tag="walk"):
    """Random walks from a prompt's features, and what the model says on the way.

    Every step has one length, in what the dictionary writes or in its features: along any features (plain), along those
    active at the start (sparse), along one decoder direction (decoder), or anywhere in activation space (activation).
    """

    prompt: Annotated[str, Meta(description="The prompt.", extra={POSITIONAL: True})] = ""
    source: Annotated[str | None, Meta(description="The dictionary; the middle one that is open otherwise.")] = None
    ways: Annotated[
        tuple[str, ...], Meta(description="plain, sparse, decoder or activation; all that are possible otherwise.")
    ] = ()
    steps: Annotated[int, Meta(ge=1, le=1000, description="Steps of a walk.")] = 20
    length: Annotated[float, Meta(gt=0, le=1000, description="Of a step, as a share of the norm at the start.")] = 0.2
    measured: Annotated[
        Literal["activations", "features"],
        Meta(description="A step has its length in activation space, or in that of the features."),
    ] = "activations"
    walks: Annotated[int, Meta(ge=1, le=1000, description="Walks of each kind.")] = 8
    positions: Annotated[Literal["last", "all"], Meta(description="Walk at the last token, or at every one.")] = "last"
    errors: Annotated[
        Literal["keep", "remove"], Meta(description="What the dictionary does not explain is kept or removed.")
    ] = "keep"
    tokens: Annotated[int, Meta(ge=0, le=200, description="Let the model continue so far; 0: not at all.")] = 12
    texts: Annotated[
        int, Meta(ge=1, le=200, description="Generate at so many steps of the first walk of each kind.")
    ] = 5
    seed: Seed = 0
