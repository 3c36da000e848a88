"""Settings of the token table."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from engine.study_settings.base import POSITIONAL, Context, StudySettings, Text, Tokens, Top


class TokenTable(StudySettings, frozen=True, kw_only=True, tag="tokens"):
    """The tokens that activate a feature most, each with the five tokens before it and the one after."""

    features: Annotated[tuple[str, ...], Meta(description="SOURCE:INDEX.", extra={POSITIONAL: True})] = ()
    text: Text = ()
    index: Annotated[str | None, Meta(description="Take them from this corpus index instead of reading text.")] = None
    tokens: Tokens = 50_000
    context: Context = 128
    top: Annotated[Top, Meta(le=1000)] = 50
