"""Stored activations from a file: one JSON object a line, also gzipped, as Neuronpedia exports them.

Rows have `layer` (the source), `index`, `tokens` and `values`; they are streamed and never trusted to be in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.checkup.stored_rows import RowReader, StoredRows, source_of
from engine.errors import BadRequest
from engine.job import Job
from engine.labels.lines import lines, read_row
from engine.opening import OpenSet
from engine.text import visible
from engine.training.corpus import Context

_MOST_LINES = 2_000_000
_NAMED = 5
_NO_ROWS = 20


@dataclass(frozen=True)
class StoredFile:
    """A file of activations, of one source or of several."""

    file: Path

    def check(self) -> None:
        """Refuse what is no file before anything is opened."""
        if not self.file.is_file():
            raise BadRequest(
                f"There is no file {self.file}.",
                "Give an activations/batch-N.jsonl.gz of an export, or the word neuronpedia.",
            )

    def rows(self, opened: OpenSet, _: list[Context], job: Job) -> dict[str, StoredRows]:
        """The rows of every open dictionary, by its name here.

        Raises:
            BadRequest: it cannot be read, is no such file, or holds nothing that can be used of any dictionary.
        """
        dictionaries = list(opened.dictionaries.values())
        reader = RowReader(opened.model.tokenizer, opened.model.context)
        found = {d.source: StoredRows(self.file.name) for d in dictionaries}
        by_source = {source_of(d): d for d in dictionaries}
        others: list[str] = []
        wrong = 0
        for number, line in enumerate(lines(self.file, job.progress)):
            if number % 1000 == 0:
                job.check()
            record = read_row(line) if line is not None else None
            if record is None:
                wrong += 1
                if number + 1 == wrong == _NO_ROWS:
                    break
                continue
            layer = record.get("layer")
            # A row that names no source can only be of the one dictionary that is open.
            dictionary = dictionaries[0] if layer is None and len(dictionaries) == 1 else by_source.get(str(layer))
            if dictionary is not None:
                found[dictionary.source].add(reader.read(record, dictionary))
            elif len(others) < _NAMED and (name := str(layer)[:80]) not in others:
                others.append(name)
            if all(rows.full for rows in found.values()) or number >= _MOST_LINES:
                break
        self._tell(found, others, wrong)
        return found

    def _tell(self, found: dict[str, StoredRows], others: list[str], wrong: int) -> None:
        """Note what is missing; refuse a file in which nothing can be used."""
        held = f"It holds {', '.join(map(visible, sorted(others)))}." if others else "It holds no rows at all."
        for source, rows in found.items():
            if wrong:
                rows.notes = (f"{wrong} lines of {self.file.name} are no rows",)
            if not rows.rows and rows.skipped:
                rows.why = f"the tokens of {rows.skipped} rows of {source} are not those of this model, or damaged"
            elif not rows.rows:
                rows.why = f"{self.file.name} holds no activations of {source}"
        if any(rows.rows for rows in found.values()):
            return
        if wrong and not others and not any(rows.skipped for rows in found.values()):
            raise BadRequest(
                f"{self.file.name} is damaged or no file of JSON lines.",
                "Give an activations/batch-N.jsonl.gz of an export.",
            )
        for source, rows in found.items():
            if rows.skipped:
                raise BadRequest(
                    f"The tokens of {rows.skipped} rows of {source} in {self.file.name} are not those of this model, "
                    "or its rows are damaged.",
                    "Is it a file of the model that is open?",
                )
        raise BadRequest(f"{self.file.name} holds no activations of {', '.join(found)}.", held)
