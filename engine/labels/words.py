"""Words as typed, turned into a query of SQLite's full-text search that cannot be malformed."""

from __future__ import annotations

import re
import unicodedata

_PIECE = re.compile(r'"([^"]*)("?)|([^\s"]+)')
_MOST_PIECES = 32  # FTS5 refuses expressions that are nested too deep


def match_expression(typed: str) -> str | None:
    """The FTS5 expression for labels with all of these words; None where there is no word.

    Quotes hold words together; the last word may be the beginning of one, unless it was quoted. Every piece is
    handed on in quotes, so that operators and brackets are nothing but text.
    """
    text = typed.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    pieces: list[tuple[str, bool]] = []
    for match in _PIECE.finditer(text):
        phrase, closed, word = match.groups()
        if _has_word(piece := word if phrase is None else phrase):
            pieces.append((piece, bool(closed)))
    if not pieces:
        return None
    kept = pieces[:_MOST_PIECES]
    expression = " ".join(f'"{piece}"' for piece, _ in kept)
    return expression if kept[-1][1] else f"{expression} *"


def _has_word(piece: str) -> bool:
    """Whether the tokenizer of the index (unicode61) finds anything in it."""
    return any(unicodedata.category(character)[0] in "LN" for character in piece)
