"""A corpus index on disk, opened for reading: what `saescope study index` keeps, a feature at a time.

Only the rows that are asked for are read from the file, so a large index opens at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.corpus.stored import STATE, Manifest, Progress, StateFile, read_manifest
from engine.corpus.tables import NO_DOCUMENT, bin_edges
from engine.errors import BadRequest


@dataclass(frozen=True)
class TopContext:
    """A stretch of text around a token on which a feature was strong.

    Attributes:
        origin: what the text calls itself: the `source` of its record, or its file's name.
        document: its number in the text, from 0.
        position: of the peak, in tokens from the beginning of the document; BOS does not count.
        ids: up to 14 tokens before the peak, the peak, up to 7 after it, never beyond what the model saw at once.
        values: the feature's activation on each of them, 0 where the token does not count.
        peak: which of `ids` the peak is.
    """

    origin: str
    document: int
    position: int
    ids: tuple[int, ...]
    values: tuple[float, ...]
    peak: int

    @property
    def value(self) -> float:
        """The activation at the peak."""
        return self.values[self.peak]


class Index:
    """What an index holds. Arrays have one entry per feature, [d_sae]; of a source that is not in it: BadRequest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        if not (folder / STATE).is_file():
            raise BadRequest(f"The index in {folder} is not whole yet.", "Run the same command again: it goes on.")
        self._file = StateFile(folder / STATE)

    @property
    def sources(self) -> tuple[str, ...]:
        """The dictionaries it is of, by source."""
        return tuple(self.manifest.dictionaries)

    @property
    def progress(self) -> Progress:
        """How far it is: tokens, contexts, documents read, and whether that is all."""
        return self._file.progress

    def counted(self, source: str) -> int:
        """The tokens that count for a dictionary: all but first ones and attention sinks."""
        return int(self._array(source, "counted")[0])

    def fired(self, source: str) -> NDArray[np.int64]:
        """On how many of them each feature is not zero."""
        return self._array(source, "fired")

    def density(self, source: str) -> NDArray[np.float64]:
        """On which share of them each feature is not zero."""
        return np.asarray(self.fired(source) / max(self.counted(source), 1))

    def maximum(self, source: str) -> NDArray[np.float32]:
        """The largest activation of each feature, by size where activations have a sign; 0 for one that never fired."""
        return self._array(source, "maximum")

    def mean(self, source: str) -> NDArray[np.float64]:
        """The mean activation of each feature over the tokens on which it is not zero; 0 for one that never fired."""
        return np.asarray(self._array(source, "total") / np.maximum(self.fired(source), 1))

    def histogram(self, source: str, feature: int) -> NDArray[np.int64]:
        """Counts [256] of a feature's activations, by size, in the bins between `edges`."""
        return np.asarray(self._rows(source, "histogram", feature)[0])

    @property
    def edges(self) -> NDArray[np.float64]:
        """[257] where the bins of every histogram begin and end: eight to a doubling, from 2⁻¹⁶ to 2¹⁶."""
        return bin_edges()

    def contexts(self, source: str, feature: int) -> list[TopContext]:
        """The strongest contexts of a feature, strongest first, each from another document."""
        names = ("document", "start", "inner", "origin", "window_ids", "window_values")
        document, start, inner, origin, ids, values = (self._rows(source, name, feature)[0] for name in names)
        found = []
        for slot in np.flatnonzero(document != NO_DOCUMENT):
            there = np.flatnonzero(ids[slot] >= 0)
            found.append(
                TopContext(
                    origin=self.progress.origins[origin[slot]],
                    document=int(document[slot]),
                    position=int(start[slot] + inner[slot]),
                    ids=tuple(ids[slot][there].tolist()),
                    values=tuple(values[slot][there].tolist()),
                    peak=int(np.flatnonzero(there == self._before)[0]),
                )
            )
        return found

    def peak_tokens(self, source: str, feature: int, top: int = 3) -> list[int]:
        """The commonest tokens at the peaks of a feature's contexts, the stronger peak first where equally common."""
        ids = self._rows(source, "window_ids", feature)[0][:, self._before]
        return [token for token, _ in Counter(ids[ids >= 0].tolist()).most_common(top)]

    @cached_property
    def _before(self) -> int:
        from engine.cards import BEFORE

        return BEFORE

    def _array(self, source: str, name: str) -> NDArray[Any]:
        return self._file.array(self._known(source), name)

    def _rows(self, source: str, name: str, feature: int) -> NDArray[Any]:
        size = self.manifest.dictionaries[self._known(source)].features
        if not 0 <= feature < size:
            raise BadRequest(f"{source} has no feature {feature}.", f"Its features are 0 to {size - 1}.")
        return self._file.rows(source, name, feature, feature + 1)

    def _known(self, source: str) -> str:
        if source not in self.manifest.dictionaries:
            raise BadRequest(f"The index in {self.folder} is not of {source}.", f"It is of {', '.join(self.sources)}.")
        return source


def open_index(folder: Path) -> Index:
    """The index in a folder, whole or as far as it has come.

    Raises:
        BadRequest: there is none, it is damaged, or nothing of it is there yet.
    """
    return Index(folder)
