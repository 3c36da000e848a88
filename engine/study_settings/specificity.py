"""Settings of specificity and sensitivity."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, Sources, StudySettings, Text, Tokens


class Specificity(StudySettings, frozen=True, kw_only=True, tag="specificity"):
    """Whether a feature fires on one kind of text only, and on all of it.

    The proxy of a token is log P(s|kind)/P(s), s the tokens up to it, at its largest over where s begins (Towards
    Monosemanticity). Specificity is how much of a feature's activation is on text of the kind; sensitivity is the
    correlation of activation and proxy. Beside it stands how strongly it fires on sentences of several categories.
    """

    features: Annotated[
        tuple[str, ...],
        Meta(description="SOURCE:INDEX; the most sensitive ones otherwise.", extra={POSITIONAL: True}),
    ] = ()
    found: Annotated[int, Meta(ge=1, le=50, description="Without features named: find so many.")] = 5
    kind: Annotated[
        str,
        Meta(
            description="A script (arabic, hebrew, greek, cyrillic, devanagari, hangul, kana, han, …), base64, dna, "
            "regex:PATTERN, or words:FILE with a word a line."
        ),
    ] = "arabic"
    categories: Annotated[
        tuple[str, ...],
        Meta(description="NAME=FILE, sentences one a line; the built-in sentences of many languages otherwise."),
    ] = ()
    text: Annotated[
        Text, Meta(description="Text that holds the kind and others; the sample and the categories otherwise.")
    ] = ()
    sources: Sources = ()
    tokens: Tokens = 50_000
    context: Context = 128
    intervals: Annotated[int, Meta(ge=2, le=100, description="Intervals of activation in the histograms.")] = 11
