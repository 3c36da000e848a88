"""Feature splitting: into how many features of a large dictionary each feature of a small one falls apart.

A feature of the large dictionary is a part of the small one's feature that it is nearest to, if their cosine is large
enough (after Towards Monosemanticity, where features of larger dictionaries cluster around those of smaller ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.protocol import FeatureRef
from engine.studies.cutting import MOST_ROWS, cut_table
from engine.studies.neighbours.nearest import By, Tick, blocks, unit_rows
from engine.studies.parts import plain_cell, table
from engine.study_results import Cell, Column, Histogram, Table

_SINGLE = 10
"""Numbers of parts up to here have a bin of their own; from here on bins double."""


@dataclass(frozen=True)
class Splitting:
    """Which small feature each large one is nearest to.

    Attributes:
        best: of every large feature the nearest small one, [n_large].
        cosine: of the two, [n_large].
        nearest: of every small feature the nearest large one, part or not, [n_small].
        nearest_cosine: of the two, [n_small].
        similar: the least cosine of a part.
    """

    small: Dictionary
    large: Dictionary
    best: Tensor
    cosine: Tensor
    nearest: Tensor
    nearest_cosine: Tensor
    similar: float

    @property
    def parts(self) -> Tensor:
        """How many parts every small feature has, [n_small]."""
        return torch.bincount(self.best[self.cosine >= self.similar], minlength=self.small.d_sae)

    def parts_of(self, index: int) -> list[tuple[int, float]]:
        """The parts of a small feature with their cosines, nearest first."""
        found = ((self.best == index) & (self.cosine >= self.similar)).nonzero()[:, 0]
        order = self.cosine[found].argsort(descending=True, stable=True)
        return list(zip(found[order].tolist(), self.cosine[found[order]].tolist(), strict=True))


def pair_of(dictionaries: Sequence[Dictionary]) -> tuple[Dictionary, Dictionary]:
    """The smallest and the largest; of two of one size the first and the second.

    Raises:
        BadRequest: there is only one, or more than two of one size.
    """
    if len(dictionaries) < 2:
        raise BadRequest("Splitting needs two dictionaries in one space.", "Open a small and a large one.")
    small, large = min(dictionaries, key=lambda d: d.d_sae), max(dictionaries, key=lambda d: d.d_sae)
    if small.d_sae < large.d_sae:
        return small, large
    if len(dictionaries) > 2:
        raise BadRequest(
            f"All {len(dictionaries)} dictionaries have {small.d_sae} features: none is the small one.",
            "Choose two with --source; the first that is open counts as the small one.",
        )
    return dictionaries[0], dictionaries[1]


def split(small: Dictionary, large: Dictionary, by: By, similar: float, tick: Tick) -> Splitting:
    """Match every feature of a large dictionary to the nearest of a small one, by cosine."""
    targets = unit_rows(small, by)
    best = torch.zeros(large.d_sae, dtype=torch.long)
    cosine = torch.zeros(large.d_sae, dtype=targets.dtype)
    nearest = torch.zeros(small.d_sae, dtype=torch.long)
    nearest_cosine = torch.full((small.d_sae,), -torch.inf, dtype=targets.dtype)
    for start, rows in blocks(large, by, small.d_sae):
        cosines = rows.to(targets) @ targets.T
        values, indices = cosines.max(1)
        best[start : start + len(rows)], cosine[start : start + len(rows)] = indices.cpu(), values.cpu()
        values, indices = (part.cpu() for part in cosines.max(0))
        better = values > nearest_cosine
        nearest_cosine[better], nearest[better] = values[better], indices[better] + start
        tick(start + len(rows), large.d_sae)
    return Splitting(small, large, best, cosine, nearest, nearest_cosine, similar)


def figures(found: Splitting) -> tuple[dict[str, Cell], dict[str, str]]:
    """What one would quote of it, and what each figure is."""
    parts = found.parts
    n, several = len(parts), parts > 1
    values: dict[str, tuple[Cell, str]] = {
        "small": (found.small.source, f"The small dictionary, {n:,} features."),
        "large": (found.large.source, f"The large dictionary, {found.large.d_sae:,} features."),
        "with one part": (int((parts == 1).sum()) / n, "Share of the small one's features with exactly one part."),
        "split": (int(several.sum()) / n, "Share of the small one's features with two parts or more."),
        "without a part": (int((parts == 0).sum()) / n, "Share of the small one's features with no part."),
        "parts of a split one": (
            float(parts[several].double().mean()) if several.any() else None,
            "Mean number of parts of features that split.",
        ),
        "new in the large": (
            int((found.cosine < found.similar).sum()) / len(found.cosine),
            "Share of the large one's features that are no part of any.",
        ),
    }
    return {k: plain_cell(v) for k, (v, _) in values.items()}, {k: m for k, (_, m) in values.items()}


def tables(found: Splitting, named: Sequence[FeatureRef], top: int) -> tuple[Table, ...]:
    """Parts per small feature; how many have how many; and the parts of those named, or of the `top` most split."""
    parts = found.parts
    order = parts.argsort(descending=True, stable=True).tolist()
    small, large = found.small.source, found.large.source
    rows = [
        (FeatureRef(small, i), int(parts[i]), FeatureRef(large, int(found.nearest[i])), float(found.nearest_cosine[i]))
        for i in order[:MOST_ROWS]
    ]
    shown = [ref.index for ref in named if ref.source == small] or order[:top]
    each = [
        (FeatureRef(small, i), place, FeatureRef(large, part), cosine)
        for i in shown
        for place, (part, cosine) in enumerate(found.parts_of(i), 1)
    ]
    return (
        cut_table("splitting", f"Features of {small} and their parts in {large}", _SPLITTING, rows, len(order)),
        table("numbers of parts", "Features by their number of parts", _NUMBERS, _bins(parts)),
        cut_table("parts", "Parts, nearest first", _PARTS, each),
    )


def view() -> Histogram:
    """The number of parts."""
    return Histogram(
        title="Parts of a feature", table="numbers of parts", low="from", high="below", counts=("features",)
    )


def _bins(parts: Tensor) -> list[tuple[int, int, int]]:
    edges = list(range(min(_SINGLE, int(parts.max())) + 1))
    while edges[-1] <= int(parts.max()):
        edges.append(edges[-1] + 1 if edges[-1] < _SINGLE else edges[-1] * 2)
    return [(low, high, int(((parts >= low) & (parts < high)).sum())) for low, high in pairwise(edges)]


_SPLITTING = (
    Column("feature", "feature", "Of the small dictionary."),
    Column("parts", "count", "Features of the large one that are nearest to it and similar enough."),
    Column("nearest", "feature", "The nearest of the large one, whether a part or not."),
    Column("cosine", "signed", "With the nearest."),
)
_NUMBERS = (
    Column("from", "count", "Least number of parts of the bin."),
    Column("below", "count", "First number beyond it."),
    Column("features", "count", "Features of the small dictionary with so many parts."),
)
_PARTS = (
    Column("feature", "feature", "Of the small dictionary."),
    Column("rank", "count"),
    Column("part", "feature", "Of the large dictionary."),
    Column("cosine", "signed"),
)
