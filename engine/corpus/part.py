"""A part of a corpus index: what some of the text says of every feature of every dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.corpus.reading import Batch
from engine.corpus.tables import NO_DOCUMENT, FeatureTable
from engine.corpus.text import start_of
from engine.dictionary import Dictionary


class IndexPart:
    """One table for each dictionary, by source, and how much was read.

    Attributes:
        tokens, contexts, documents: how many were read; first tokens and sinks are tokens too.
        origins: the names of texts that contexts refer to by number.
    """

    def __init__(self, tables: Mapping[str, FeatureTable]) -> None:
        self.tables = dict(tables)
        self.tokens, self.contexts, self.documents = 0, 0, 0
        self.origins: list[str] = []
        self._numbers: dict[str, int] = {}

    @classmethod
    def empty(cls, dictionaries: Sequence[Dictionary], keep: int, device: torch.device) -> IndexPart:
        """Of no text yet, with room for `keep` contexts of every feature."""
        return cls({d.source: FeatureTable(d.d_sae, keep, device, d.signed) for d in dictionaries})

    def add(self, batch: Batch) -> None:
        """Take what the dictionaries made of a batch."""
        owner = batch.context
        document = np.array([c.document for c in batch.contexts], np.int32)[owner]
        start = np.array([start_of(c) for c in batch.contexts], np.int32)[owner]
        origin = np.array([self._number(c.source) for c in batch.contexts], np.int32)[owner]
        for source, table in self.tables.items():
            table.add(batch.reads[source], batch, document, start, origin)
        self.tokens += len(batch.ids)
        self.contexts += len(batch.contexts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All tables as arrays called SOURCE/NAME; names of texts that no context refers to any more are let go."""
        for table in self.tables.values():
            table.settle()
        self._forget_origins()
        return {
            f"{source}/{name}": array
            for source, table in self.tables.items()
            for name, array in table.arrays().items()
        }  # fmt: skip

    @classmethod
    def of_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        signed: Mapping[str, bool],
        device: torch.device,
        origins: Sequence[str],
    ) -> IndexPart:
        """The part that `arrays` came from; its counts of what was read are left to be set."""
        tables = {}
        for source in signed:
            own = {n.removeprefix(f"{source}/"): a for n, a in arrays.items() if n.startswith(f"{source}/")}
            tables[source] = FeatureTable.of_arrays(own, device, signed[source])
        part = cls(tables)
        for origin in origins:
            part._number(origin)
        return part

    def _number(self, origin: str) -> int:
        if origin not in self._numbers:
            self._numbers[origin] = len(self.origins)
            self.origins.append(origin)
        return self._numbers[origin]

    def _forget_origins(self) -> None:
        """Keep the names in use, in alphabetical order: of any number of texts, few remain."""
        used: set[int] = set()
        for table in self.tables.values():
            used.update(np.unique(table.slots["origin"][table.slots["document"] != NO_DOCUMENT]).tolist())
        names = sorted(self.origins[number] for number in used)
        numbers = np.zeros(len(self.origins) + 1, np.int32)
        for new, name in enumerate(names):
            numbers[self._numbers[name]] = new
        for table in self.tables.values():
            empty = table.slots["document"] == NO_DOCUMENT
            table.slots["origin"] = np.where(empty, 0, numbers[table.slots["origin"]]).astype(np.int32)
        self.origins = names
        self._numbers = {name: number for number, name in enumerate(names)}


def merge(into: IndexPart, other: IndexPart) -> IndexPart:
    """Two parts of different text as the part of both, the first changed in place.

    In any order and grouping the result is the same, but for the last binary places of means, which are sums.
    """
    numbers = np.array([into._number(name) for name in other.origins], np.int32)
    for source, table in into.tables.items():
        table.merge(other.tables[source], numbers)
    into.tokens += other.tokens
    into.contexts += other.contexts
    into.documents += other.documents
    return into
