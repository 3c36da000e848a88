"""Settings of specificity and sensitivity."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, StudySettings, Text, Tokens


class Specificity(StudySettings, frozen=True, kw_only=True, tag="specificity"):
    """Whether a feature fires on one kind of text only, and on all of it.

    The proxy of a context is log P(s | kind) / P(s), s the tokens up to the current one, at its best over where s
    begins (Towards Monosemanticity). Specificity is how much of what the feature fires on is of the kind; sensitivity
    is the correlation of activation and proxy.
    """

    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX.", extra={POSITIONAL: True})] = ()
    kind: Annotated[
        str,
        Meta(description="A script (arabic, hebrew, cyrillic, han, …), base64, dna, regex:PATTERN or words:FILE."),
    ] = "arabic"
    categories: Annotated[
        tuple[str, ...],
        Meta(description="NAME=FILE, sentences one a line; the built-in sentences of several languages otherwise."),
    ] = ()
    text: Text = ()
    tokens: Tokens = 50_000
    context: Context = 128
    intervals: Annotated[int, Meta(ge=2, le=100, description="Intervals of activation in the histograms.")] = 11
