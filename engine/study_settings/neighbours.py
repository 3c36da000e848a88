"""Settings of neighbourhoods."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Seed, Sources, StudySettings, Top


class Neighbours(StudySettings, frozen=True, kw_only=True, tag="neighbours"):
    """The features nearest to one, a map of all of them, and how those of a small dictionary split in a large one.

    Nearest is by cosine of decoder rows (Anthropic's neighbourhoods) or, labelled so, of encoder rows; dictionaries
    that share a space are searched together. Without a feature there are the map and the closest pairs.
    """

    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX.", extra={POSITIONAL: True})] = ()
    by: Annotated[Literal["decoder", "encoder"], Meta(description="Which rows are compared.")] = "decoder"
    map: Annotated[Literal["pca", "umap", "none"], Meta(description="How a map is drawn (umap needs an extra).")] = (
        "pca"
    )
    dimensions: Annotated[
        int, Meta(ge=2, le=3, description="Of the map, 2 or 3; with 3 its picture can be turned.")
    ] = 3
    points: Annotated[int, Meta(ge=2, le=20_000, description="Draw so many features on the map, at random.")] = 4096
    splitting: Annotated[
        bool, Meta(description="Match the features of the smallest dictionary to those of the largest.")
    ] = False
    similar: Annotated[float, Meta(ge=-1, le=1, description="A split feature's parts have at least this cosine.")] = 0.5
    seed: Seed = 0
    top: Top = 20
    sources: Sources = ()
