"""Settings of the ablation study."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import Examples, Pairs, Sources, StudySettings


class Ablation(StudySettings, frozen=True, kw_only=True, tag="ablation"):
    """What taking features out, or keeping nothing else, does to an answer over a data set of prompts.

    Faithfulness is (m(C) − m(∅)) / (m(M) − m(∅)) with only the set kept, completeness the same with only the set taken
    out, and the bias score (m(M) − m(rest)) / m(M). What a dictionary does not explain stays as it is unless said.
    """

    pairs: Pairs = ()
    features: Annotated[
        tuple[str, ...],
        Meta(
            description="SOURCE:INDEX; or a file with sets: a study's JSON, a session (of each name the newest set), "
            "or a feature a line; FILE#NAME is one set of it. The strongest by mean effect otherwise."
        ),
    ] = ()
    by: Annotated[
        tuple[str, ...],
        Meta(description="What is ablated together: one, layer, kind, set, or combinations; all of them otherwise."),
    ] = ()
    to: Annotated[
        Literal["zero", "resample", "both"],
        Meta(description="Ablated features become zero, or have their value on the patch prompt."),
    ] = "both"
    errors: Annotated[
        Literal["keep", "remove"],
        Meta(description="What the dictionaries do not explain is kept, or ablated like the features."),
    ] = "keep"
    largest: Annotated[int, Meta(ge=1, description="Combinations of at most so many features.")] = 3
    count: Annotated[int, Meta(ge=1, description="Without --feature: take so many of the strongest.")] = 6
    examples: Examples = None
    sources: Sources = ()
