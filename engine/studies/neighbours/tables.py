"""The tables and plots of neighbourhoods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from engine.errors import SaescopeError
from engine.knowledge import hint
from engine.labels.answers import best_labels
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.studies.cutting import cut_table
from engine.studies.neighbours.nearest import By, Nearest
from engine.studies.parts import table
from engine.studies.projections import Projection
from engine.study_results import Column, Histogram, Scatter, Table

_BINS = 20

Refer = Callable[[int, int], FeatureRef]
"""(number of the dictionary, feature) as a name."""


class Words:
    """What is known of features in words: their labels, and the tokens they peak on."""

    def __init__(self, opened: OpenSet) -> None:
        self._opened = opened
        self.notes: tuple[str, ...] = ()
        """Why there are no labels, where they cannot be read."""

    def of(self, refs: Iterable[FeatureRef]) -> dict[FeatureRef, tuple[str | None, str | None]]:
        """Label and peak tokens of each; None where there is none."""
        wanted = list(dict.fromkeys(refs))
        try:
            labels = best_labels(self._opened, wanted)
        except SaescopeError as error:  # what was measured is worth having without them
            labels = {}
            self.notes = (f"Labels cannot be read: {error.message}",)
        return {ref: (labels.get(str(ref)), hint(self._opened, ref) or None) for ref in wanted}


def neighbour_table(by: By, refs: Sequence[FeatureRef], around: Nearest, refer: Refer, words: Words) -> Table:
    """The neighbours [q, k] of each feature, nearest first."""
    found = [
        (ref, place, refer(source, index), cosine)
        for ref, sources, indices, cosines in zip(
            refs, around.sources.tolist(), around.indices.tolist(), around.cosines.tolist(), strict=True
        )
        for place, (source, index, cosine) in enumerate(zip(sources, indices, cosines, strict=True), 1)
        if source >= 0
    ]
    known = words.of(neighbour for _, _, neighbour, _ in found)
    columns = (
        Column("feature", "feature"),
        Column("rank", "count"),
        Column("neighbour", "feature"),
        _cosine(by),
        Column("label", help="Of the neighbour."),
        Column("peaks on", help="Tokens on which the neighbour is strongest."),
    )
    rows = [(*row, *known[row[2]]) for row in found]
    return table("neighbours", f"Nearest by {by} cosine", columns, rows)


def pair_table(
    by: By, pairs: Sequence[tuple[FeatureRef, FeatureRef, float]], top: int, words: Words, among: str
) -> Table:
    """The closest pairs of features, each once, closest first."""
    shown = pairs[:top]
    known = words.of(ref for a, b, _ in shown for ref in (a, b))
    columns = (
        Column("feature", "feature"),
        Column("neighbour", "feature"),
        _cosine(by),
        Column("feature peaks on"),
        Column("neighbour peaks on"),
    )
    rows = [(a, b, cosine, known[a][1], known[b][1]) for a, b, cosine in shown]
    return cut_table("pairs", f"Closest pairs by {by} cosine {among}", columns, rows, len(pairs))


def closest_pairs(
    refs: Sequence[FeatureRef], closest: Sequence[FeatureRef | None], cosines: Sequence[float]
) -> list[tuple[FeatureRef, FeatureRef, float]]:
    """Features with their nearest, a pair that is mutual once, closest first."""
    found: dict[frozenset[FeatureRef], tuple[FeatureRef, FeatureRef, float]] = {}
    for a, b, cosine in zip(refs, closest, cosines, strict=True):
        if b is not None:
            found.setdefault(frozenset((a, b)), (a, b, cosine))
    return sorted(found.values(), key=lambda pair: -pair[2])


def cosine_table(refs: Sequence[FeatureRef], closest: Sequence[FeatureRef | None], cosines: Sequence[float]) -> Table:
    """How many features have their nearest neighbour at which cosine, in twenty bins over those that occur."""
    same = [c for a, b, c in zip(refs, closest, cosines, strict=True) if b is not None and a.source == b.source]
    other = [c for a, b, c in zip(refs, closest, cosines, strict=True) if b is not None and a.source != b.source]
    values = torch.tensor([*same, *other], dtype=torch.float64)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low < 1e-6:
        low, high = low - 0.5e-6, high + 0.5e-6
    edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)

    def counts(found: list[float]) -> list[int]:
        return torch.histogram(torch.tensor(found, dtype=torch.float64), edges)[0].long().tolist()

    columns = (
        Column("from", "signed", "Cosine with the nearest neighbour, least of the bin."),
        Column("below", "signed"),
        Column("same dictionary", "count", "Features whose nearest is of their own dictionary."),
        Column("another dictionary", "count", "Features whose nearest is of another."),
    )
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts(same), counts(other), strict=True)
    return table("cosines", "Cosine with the nearest neighbour", columns, rows)


def cosine_view() -> Histogram:
    """How near the nearest neighbours are."""
    return Histogram(
        title="Cosine with the nearest neighbour",
        table="cosines",
        low="from",
        high="below",
        counts=("same dictionary", "another dictionary"),
    )


def point_table(
    by: By,
    method: str,
    refs: Sequence[FeatureRef],
    projection: Projection,
    groups: dict[FeatureRef, str],
    closest: Sequence[FeatureRef | None],
    cosines: Sequence[float],
    total: int,
) -> Table:
    """Where each feature lies on the map, what it is coloured by, and its nearest neighbour."""
    names = ("x", "y", "z")[: projection.coordinates.shape[1]]
    columns = (
        Column("feature", "feature"),
        *(Column(name, "signed") for name in names),
        Column("group", help="A feature that was named, whose neighbour it is, or its dictionary."),
        Column("nearest", "feature"),
        _cosine(by),
    )
    rows = [
        (ref, *where, groups.get(ref, ref.source), near, cosine if near is not None else None)
        for ref, where, near, cosine in zip(refs, projection.coordinates.tolist(), closest, cosines, strict=True)
    ]
    return cut_table("points", f"Map of {by} rows by {method}", columns, rows, total)


def scatter(method: str, dimensions: int) -> Scatter:
    """The map."""
    third = "z" if dimensions == 3 else None
    return Scatter(title=f"Map by {method}", table="points", x="x", y="y", z=third, label="feature", group="group")


def _cosine(by: By) -> Column:
    return Column("cosine", "signed", f"Cosine of {by} rows.")
