"""What the settings of all studies share.

A study is declared once, as a struct of settings: its docstring is the help of its command and of its page, its fields
are the command's options and the lines of its form, checked alike. A field's type is str, int, float, bool, a Literal,
one of these or None, or a tuple of str; `Meta(description=…)` says in one line what it is.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta


class StudySettings(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="study", forbid_unknown_fields=True, omit_defaults=False
):
    """What is to be studied, and how."""


POSITIONAL = "positional"
"""Key of `Meta(extra=…)`: the field is an argument of the command, not an option."""

Positive: TypeAlias = Annotated[int, Meta(ge=1)]
EnoughTokens: TypeAlias = Annotated[int, Meta(ge=16)]
Sources: TypeAlias = Annotated[
    tuple[str, ...], Meta(description="Only these dictionaries, by source or hook; all that are open otherwise.")
]
Text: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="Text to read: .txt or .jsonl with `text`, also .xz and .gz; or hf://OWNER/NAME for a data set. "
        "The sample that comes with the program otherwise."
    ),
]
Tokens: TypeAlias = Annotated[int, Meta(ge=16, description="Read about so many tokens of text, in whole contexts.")]
Context: TypeAlias = Annotated[int, Meta(ge=16, description="Tokens the model sees at a time.")]
Seed: TypeAlias = Annotated[int, Meta(ge=0, description="Of the random numbers.")]
Examples: TypeAlias = Annotated[
    Positive | None, Meta(description="Use at most so many prompts or pairs of each data set.")
]
Top: TypeAlias = Annotated[int, Meta(ge=1, description="List so many.")]
Pairs: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="Data sets of prompts: files of pairs, or a built-in one by its name (`saescope prompts list`). "
        "NAME=FILE gives it a name."
    ),
]
