"""Neuronpedia's explanation exports: JSON lines of {modelId, layer, index, description, embedding, …}.

`layer` is the source and `index` a decimal as text. The order of rows and the names of files mean nothing: some
exports are sorted by index as text, others are cut by ranges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from engine.errors import BadRequest
from engine.labels.lines import Report, lines, read_row
from engine.labels.rows import LARGEST_INDEX, Row, packed

NEURONPEDIA = "Neuronpedia"
_INDEX = re.compile(r"\d{1,10}\Z")
_LISTED = 5


class _Explanation(msgspec.Struct):
    modelId: Any = None
    layer: Any = None
    index: Any = None
    description: Any = None
    id: Any = None
    typeName: Any = None
    explanationModelName: Any = None
    embedding: Any = None


_DECODER = msgspec.json.Decoder(_Explanation)


@dataclass
class Tally:
    """What was read, and what of it was not as it should be."""

    rows: int = 0
    embeddings: int = 0
    damaged: list[int] = field(default_factory=list)
    """The first lines that are no explanation."""
    damaged_rows: int = 0
    without_text: int = 0
    bad_embeddings: int = 0
    elsewhere: int = 0
    """Rows of other sources than the wanted one."""

    def notes(self, kept: int) -> list[str]:
        """What a user should know of it, where so many labels were kept."""
        first = ", ".join(map(str, self.damaged)) + (", …" if self.damaged_rows > len(self.damaged) else "")
        found = (
            (self.damaged_rows, f"{_some(self.damaged_rows, 'damaged line')} left out (line {first})"),
            (self.without_text, f"{_some(self.without_text, 'explanation')} without text left out"),
            (self.bad_embeddings, f"{_some(self.bad_embeddings, 'damaged embedding')} left out, the label kept"),
            (self.elsewhere, f"{_some(self.elsewhere, 'explanation')} of other sources left out"),
            (self.rows - kept, f"{_some(self.rows - kept, 'duplicate')}, of which the last counts"),
        )
        return [note for count, note in found if count]


def explanations(
    file: Path,
    tally: Tally,
    model: str | None = None,
    source: str | None = None,
    only: tuple[str, str] | None = None,
    report: Report | None = None,
) -> Iterator[Row]:
    """The labels of one file, as a stream; what is damaged goes into `tally`.

    `model` and `source` stand for what the rows say; `only` leaves out the rows of all other places.

    Raises:
        BadRequest: the file cannot be read or is cut off, or `source` stands for several.
    """
    seen: set[str] = set()
    for number, line in enumerate(lines(file, report), 1):
        row = None if line is None else _row(line, tally)
        if row is None:
            tally.damaged_rows += 1
            if len(tally.damaged) < _LISTED:
                tally.damaged.append(number)
            continue
        if only is not None and (row.model, row.source) != only:
            tally.elsewhere += 1
            continue
        if source is not None:
            seen.add(row.source)
            if len(seen) > 1:
                raise BadRequest(
                    f"{file} has labels of several sources: {', '.join(sorted(seen))}.", "Import it without --source."
                )
        if not row.text.strip():
            tally.without_text += 1
            continue
        tally.rows += 1
        tally.embeddings += row.vector is not None
        yield replace(row, model=model or row.model, source=source or row.source)


def _row(line: bytes, tally: Tally) -> Row | None:
    """An explanation as a label; None for what is none. Its text may be empty."""
    try:
        given = _DECODER.decode(line)
    except (msgspec.DecodeError, RecursionError):
        if (found := read_row(line)) is None:  # halves of characters, NaN: the standard library reads them
            return None
        given = _Explanation(**{key: found.get(key) for key in _Explanation.__struct_fields__})
    index = str(given.index) if isinstance(given.index, str | int) and not isinstance(given.index, bool) else ""
    model, source, text = given.modelId, given.layer, given.description
    if not (isinstance(model, str) and model and isinstance(source, str) and source and _INDEX.match(index)):
        return None
    if int(index) > LARGEST_INDEX or not isinstance(text, str | None):
        return None
    vector = _vector(given.embedding)
    tally.bad_embeddings += vector is None and given.embedding not in (None, "", [])
    by, kind, key = (v if isinstance(v, str) else "" for v in (given.explanationModelName, given.typeName, given.id))
    return Row(model, source, int(index), text or "", by or NEURONPEDIA, kind, key, vector)


def _vector(given: Any) -> bytes | None:
    """An embedding that is a list, or a list as text."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
    if not isinstance(given, list) or not all(type(value) in (int, float) for value in given):
        return None
    try:
        return packed(given)
    except OverflowError:  # an integer no float can hold
        return None


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
