"""Settings of the steering study."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.study_settings.base import Examples, Pairs, StudySettings


class Steering(StudySettings, frozen=True, kw_only=True, tag="steering"):
    """The smallest strength of each feature that flips an answer, over a set of prompts.

    An answer is flipped where the patch prompt's answer is preferred to the clean one's as the next token, or is the
    first of the two that greedy text says. A feature that cannot act is told apart from one that never flips.
    """

    pairs: Pairs = ()
    features: Annotated[
        tuple[str, ...],
        Meta(
            description="SOURCE:INDEX; or a file with sets: a study's JSON, a session (of each name the newest set), "
            "or a feature a line; FILE#NAME is one set of it."
        ),
    ] = ()
    sign: Annotated[Literal["positive", "negative", "both"], Meta(description="Directions of steering tried.")] = "both"
    strongest: Annotated[float, Meta(gt=0, description="Seek up to this strength, in the unit.")] = 10.0
    unit: Annotated[Literal["max", "raw"], Meta(description="Strengths in multiples of the maximum, or raw.")] = "max"
    positions: Annotated[str, Meta(description="Where steering acts: all, prompt, generated, 7 or 2:9.")] = "all"
    tokens: Annotated[int, Meta(ge=1, description="Generate so many tokens and look for the answer in them.")] = 1
    control: Annotated[bool, Meta(description="Seek the same along a random direction of the same length.")] = True
    examples: Examples = None
