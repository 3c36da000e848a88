"""What is kept of every feature while text goes by: counts, and the strongest contexts with what stood around them.

Everything is additive: two tables of different text merge into the table of both, in any order. Contexts are ranked by
strength, then by the number of their document, then by their place in it, and of a document only its first counts;
with this rule the best of the whole are among the best of its parts, and ties cannot depend on who read what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.cards import BEFORE, WINDOW
from engine.corpus.reading import Batch, Entries, Read

BINS = 256
_PER_OCTAVE, _LOWEST = 8, -16
NO_DOCUMENT = np.iinfo(np.int32).max
_FOLD_AT = 1 << 16
"""Candidates that wait until they are sorted in together."""
_SUMS = ("fired", "maximum", "total", "histogram")


def bin_edges() -> NDArray[np.float64]:
    """[257] borders of the histogram's bins: 2⁻¹⁶ to 2¹⁶, eight equal steps to a doubling; the outer ones are open."""
    at = np.arange(BINS + 1)
    return np.asarray(2.0 ** (_LOWEST + at // _PER_OCTAVE) * (1 + at % _PER_OCTAVE / _PER_OCTAVE))


def bins_of(strength: Tensor) -> Tensor:
    """The bin of positive float32 numbers, read off their exponent and first three binary places."""
    first = (127 + _LOWEST) * _PER_OCTAVE
    return (strength.float().contiguous().view(torch.int32).bitwise_right_shift(20) - first).clamp_(0, BINS - 1).long()


@dataclass
class Contexts:
    """Contexts of features, m of them; `feature` says whose each is."""

    feature: NDArray[np.int64]
    strength: NDArray[np.float32]
    document: NDArray[np.int32]
    start: NDArray[np.int32]
    inner: NDArray[np.int32]
    origin: NDArray[np.int32]
    window_ids: NDArray[np.int32]
    window_values: NDArray[np.float32]

    def at(self, which: NDArray[Any]) -> Contexts:
        """Some of them."""
        return Contexts(**{name: getattr(self, name)[which] for name in _CONTEXT_FIELDS})

    @classmethod
    def joined(cls, parts: list[Contexts]) -> Contexts:
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _CONTEXT_FIELDS})


_CONTEXT_FIELDS = tuple(Contexts.__dataclass_fields__)
_SLOT_FIELDS = _CONTEXT_FIELDS[1:]


def best(found: Contexts, keep: int) -> tuple[Contexts, NDArray[np.int64]]:
    """The `keep` strongest of each feature, of each document one, and the rank of each; ordered by feature and rank."""
    order = np.lexsort((found.start + found.inner, -found.strength, found.document, found.feature))
    feature, document = found.feature[order], found.document[order]
    first = np.ones(len(order), bool)
    first[1:] = (feature[1:] != feature[:-1]) | (document[1:] != document[:-1])
    order = order[first]
    order = order[np.lexsort((found.document[order], -found.strength[order], found.feature[order]))]
    feature = found.feature[order]
    rank = np.arange(len(order)) - np.searchsorted(feature, feature)
    order, rank = order[rank < keep], rank[rank < keep]
    return found.at(order), rank


class FeatureTable:
    """The features of one dictionary, d_sae of them, with `keep` contexts each."""

    def __init__(self, features: int, keep: int, device: torch.device, signed: bool = False) -> None:
        self.features, self.keep, self.signed = features, keep, signed
        self.counted = 0
        self.fired = torch.zeros(features, dtype=torch.int64, device=device)
        self.maximum = torch.zeros(features, dtype=torch.float32, device=device)
        self.total = torch.zeros(features, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(features * BINS, dtype=torch.int64, device=device)
        shape = (features, keep)
        self.slots: dict[str, NDArray[Any]] = {
            "strength": np.zeros(shape, np.float32),
            "document": np.full(shape, NO_DOCUMENT, np.int32),
            "start": np.zeros(shape, np.int32),
            "inner": np.zeros(shape, np.int32),
            "origin": np.zeros(shape, np.int32),
            "window_ids": np.full((*shape, WINDOW), -1, np.int32),
            "window_values": np.zeros((*shape, WINDOW), np.float32),
        }
        self._floor = torch.zeros(features, dtype=torch.float32, device=device)
        self._waiting: list[Contexts] = []

    # --- adding ---------------------------------------------------------------------------------------------------

    def add(self, read: Read, batch: Batch, document: NDArray[np.int32], start: NDArray[np.int32], origin: NDArray[np.int32]) -> None:  # fmt: skip  # noqa: E501
        """Take what a dictionary made of a batch; the arrays [n] say where each token of it is from."""
        found = read.entries
        strength = (found.values.abs() if self.signed else found.values).float()
        self.counted += read.counted
        one = torch.ones_like(found.features)
        self.fired.scatter_add_(0, found.features, one)
        self.maximum.scatter_reduce_(0, found.features, strength, "amax")
        self.total.scatter_add_(0, found.features, strength.double())
        self.histogram.scatter_add_(0, found.features * BINS + bins_of(strength), one)
        near = strength >= self._floor[found.features]
        rows, features = found.rows[near].cpu().numpy(), found.features[near].cpu().numpy()
        if not len(rows):
            return
        strengths = strength[near].cpu().numpy()
        order = np.lexsort((rows, -strengths, document[rows], features))
        rows, features, strengths = rows[order], features[order], strengths[order]
        first = np.ones(len(rows), bool)
        first[1:] = (features[1:] != features[:-1]) | (document[rows][1:] != document[rows][:-1])
        rows, features, strengths = rows[first], features[first], strengths[first]
        ids, values = _windows(found, self.features, batch, rows, features)
        self._waiting.append(
            Contexts(
                features, strengths, document[rows], start[rows], batch.inner[rows], origin[rows], ids, values
            )
        )  # fmt: skip
        if sum(len(c.feature) for c in self._waiting) >= _FOLD_AT:
            self.settle()

    def settle(self) -> None:
        """Sort in the contexts that wait."""
        if not self._waiting:
            return
        waiting = Contexts.joined(self._waiting)
        self._waiting = []
        touched = np.unique(waiting.feature)
        found, rank = best(Contexts.joined([self._kept(touched), waiting]), self.keep)
        for name in _SLOT_FIELDS:
            self.slots[name][found.feature, rank] = getattr(found, name)
        floor = torch.from_numpy(self.slots["strength"][touched, -1])
        self._floor[torch.from_numpy(touched).to(self._floor.device)] = floor.to(self._floor.device)

    def _kept(self, features: NDArray[np.int64]) -> Contexts:
        """The contexts of some features as a list."""
        place, slot = np.nonzero(self.slots["document"][features] != NO_DOCUMENT)
        at = features[place]
        return Contexts(at, **{name: self.slots[name][at, slot] for name in _SLOT_FIELDS})

    # --- merging and keeping --------------------------------------------------------------------------------------

    def merge(self, other: FeatureTable, origins: NDArray[np.int32]) -> None:
        """Take what another table of other text holds; `origins` [names of the other] are its names' numbers here."""
        other.settle()
        self.counted += other.counted
        self.fired += other.fired.to(self.fired.device)
        self.maximum = torch.maximum(self.maximum, other.maximum.to(self.maximum.device))
        self.total += other.total.to(self.total.device)
        self.histogram += other.histogram.to(self.histogram.device)
        theirs = other._kept(np.arange(other.features))
        theirs.origin = origins[theirs.origin] if len(theirs.origin) else theirs.origin
        self._waiting.append(theirs)
        self.settle()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, by name."""
        self.settle()
        sums = {name: getattr(self, name).cpu().numpy() for name in _SUMS}
        sums["histogram"] = sums["histogram"].reshape(self.features, BINS)
        return {"counted": np.array([self.counted]), **sums, **self.slots}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]], device: torch.device, signed: bool) -> FeatureTable:
        """The table of what `arrays` gave."""
        features, keep = arrays["document"].shape
        table = cls(features, keep, device, signed)
        table.counted = int(arrays["counted"][0])
        for name in _SUMS:
            setattr(table, name, torch.from_numpy(arrays[name].reshape(-1).copy()).to(device))
        table.slots = {name: arrays[name].copy() for name in table.slots}
        table._floor = torch.from_numpy(table.slots["strength"][:, -1].copy()).to(device)
        return table


def _windows(
    found: Entries, width: int, batch: Batch, rows: NDArray[np.int64], features: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Token ids and activations around tokens `rows` [m] → [m, 22] each; -1 and 0 beyond the context."""
    at = rows[:, None] + np.arange(-BEFORE, WINDOW - BEFORE)
    inside = (at >= 0) & (at < len(batch.ids))
    at = at.clip(0, len(batch.ids) - 1)
    inside &= batch.context[at] == batch.context[rows][:, None]
    ids = np.where(inside, batch.ids[at], -1).astype(np.int32)
    keys = found.rows * width + found.features
    values = found.values
    if len(keys) > 1 and not bool((keys[1:] > keys[:-1]).all()):
        keys, order = keys.sort()
        values = values[order]
    wanted = torch.from_numpy(at * width + features[:, None]).to(keys.device)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    there = torch.where(keys[place] == wanted, values[place].float(), 0).cpu().numpy()
    return ids, np.where(inside, there, 0).astype(np.float32)
