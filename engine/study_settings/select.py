"""Settings of feature selection."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import Examples, Pairs, Seed, Sources, StudySettings


class Select(StudySettings, frozen=True, kw_only=True, tag="select"):
    """Which features cause an answer over a data set of prompts, and where two data sets differ.

    Effects are those of circuits, summed over tokens and averaged over the pairs. With several data sets each is
    selected from alike; what only one has and what all share are sets too.
    """

    pairs: Pairs = ()
    rule: Annotated[
        Literal["threshold", "top", "per-site", "stratified", "random"],
        Meta(description="How features are chosen from those with an effect."),
    ] = "top"
    threshold: Annotated[float, Meta(ge=0, description="For the rule threshold: a larger |effect|.")] = 0.1
    count: Annotated[int, Meta(ge=1, description="How many: in all, or for the rule per-site of every site.")] = 30
    method: Annotated[Literal["attrib", "ig", "exact"], Meta(description="How effects are computed.")] = "ig"
    examples: Examples = None
    seed: Seed = 12
    sources: Sources = ()
