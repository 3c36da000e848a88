"""Texts with one feature's stored activation on every token, as Neuronpedia has them; nothing in them is trusted.

Tokens are text there and are matched to ids one by one: re-encoding the joined text could cut it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.dictionary import Dictionary
from engine.opening import page_of
from engine.tokenizer import TextTokenizer

MOST_ROWS = 24
"""Each costs two passes; a row has a hundred tokens or so."""
_OF_ONE_FEATURE = 3
_LONGEST = 1024


@dataclass(frozen=True)
class Row:
    """One stored text with one feature's activation on every token."""

    index: int
    ids: tuple[int, ...]
    values: tuple[float, ...]


@dataclass
class StoredRows:
    """Rows of one dictionary, of many features rather than many of one; `why` says why there are none."""

    origin: str
    skipped: int = 0
    """Rows whose tokens are not the tokenizer's, or that are damaged."""
    notes: tuple[str, ...] = ()
    why: str = ""
    _kept: list[Row] = field(default_factory=list)
    _spare: list[Row] = field(default_factory=list)
    _counts: dict[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """At most 24; more than three of a feature only where there are few features."""
        return [*self._kept, *self._spare][:MOST_ROWS]

    @property
    def full(self) -> bool:
        """Nothing more is needed."""
        return len(self._kept) >= MOST_ROWS

    def add(self, row: Row | None) -> None:
        """Take a row, or count one that cannot be used."""
        if row is None:
            self.skipped += 1
            return
        count = self._counts.get(row.index, 0)
        self._counts[row.index] = count + 1
        target = self._kept if count < _OF_ONE_FEATURE else self._spare
        if len(target) < MOST_ROWS:
            target.append(row)


class RowReader:
    """Reads rows with one tokenizer."""

    def __init__(self, tokenizer: TextTokenizer, context: int) -> None:
        self._spellings = Spellings(tokenizer)
        self._longest = min(context - 1, _LONGEST)

    def read(self, record: Mapping[str, Any], dictionary: Dictionary) -> Row | None:
        """A row whose every token is one of the tokenizer's and whose every value is finite; None for any other."""
        tokens, values, index = record.get("tokens"), record.get("values"), _index(record.get("index"))
        if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
            return None
        if not 1 < len(tokens) <= self._longest or index is None or not index < dictionary.d_sae:
            return None
        ids = [self._spellings.id_of(token) if isinstance(token, str) else None for token in tokens]
        numbers = [number for value in values if (number := _finite(value)) is not None]
        if None in ids or len(numbers) != len(values):
            return None
        return Row(index, tuple(i for i in ids if i is not None), tuple(numbers))


class Spellings:
    """From a token's text, however Neuronpedia spells it, to its id."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._ids: dict[str, int] = {}
        for token_id in range(tokenizer.size):
            stored = tokenizer.stored_token(token_id)
            if stored is None:
                continue
            shown = tokenizer.token(token_id)
            # The bytes as text come first; the vocabulary's own spelling is used where they are no whole character.
            readable = stored.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").replace("ĉ", "\t")
            for text in (shown.text, stored, readable, shown.text.replace("\n", "↵")):
                self._ids.setdefault(text, token_id)

    def id_of(self, text: str) -> int | None:
        return self._ids.get(text)


def source_of(dictionary: Dictionary) -> str:
    """What Neuronpedia calls it where its files say so, else its own name."""
    page = page_of(dictionary)
    return page.partition("/")[2] if page else dictionary.source


def _index(value: object) -> int | None:
    """A feature's number, which is text in exports."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _finite(value: object) -> float | None:
    """A number that float32 holds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        return None
    return float(value)
