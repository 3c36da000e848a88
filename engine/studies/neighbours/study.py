"""Neighbourhoods: the rows nearest to a feature's, a map of many, and splitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.studies.measure import Growing
from engine.studies.neighbours import splitting, tables
from engine.studies.neighbours.nearest import Nearest, Space, Tick, nearest, space_of, unit_rows
from engine.studies.parts import chosen, features_of, plain_cell, result_of
from engine.studies.projections import check_umap, pca, umap
from engine.study_results import AnyView, Bars, Cell, StudyResult, Table
from engine.study_settings.neighbours import Neighbours


def measure(opened: OpenSet, settings: Neighbours, growing: Growing) -> StudyResult:
    """Cosines between rows W_dec[i] (or W_enc[i]) at length 1, of all dictionaries that share the features' space.

    Raises:
        BadRequest: a feature is not open, features lie in different spaces, there is nothing to match, UMAP is not
            installed.
    """
    if settings.map == "umap":
        check_umap()
    study = _Study(opened, settings, growing)
    pair = splitting.pair_of(study.together) if settings.splitting else None
    around = study.search() if study.refs else None
    study.survey(around)
    if pair is not None:
        study.split(*pair)
    return study.result()


class _Study:
    """What there is so far, and how more is found."""

    def __init__(self, opened: OpenSet, settings: Neighbours, growing: Growing) -> None:
        self.opened, self.settings, self.growing = opened, settings, growing
        self.refs = features_of(opened, settings.features) if settings.features else []
        self.figures: dict[str, Cell] = {}
        self.meanings: dict[str, str] = {}
        self.tables: dict[str, Table] = {}
        self.views: list[AnyView] = []
        self.notes: list[str] = []
        self.words = tables.Words(opened)
        self.together = self._in_one_space()
        self.sources = [d.source for d in self.together]
        self.figure("features", sum(d.d_sae for d in self.together), "Features that were searched.")

    def figure(self, name: str, value: Cell, meaning: str) -> None:
        self.figures[name], self.meanings[name] = plain_cell(value), meaning

    def refer(self, number: int, index: int) -> FeatureRef:
        return FeatureRef(self.sources[number], index)

    def result(self) -> StudyResult:
        about = list(map(str, self.refs)) or self.sources
        more: dict[str, Any] = {
            "figures": dict(self.figures),
            "meanings": dict(self.meanings),
            "tables": tuple(self.tables.values()),
            "views": tuple(self.views),
            "notes": (*self.notes, *self.words.notes),
        }
        title = f"Neighbourhoods of {', '.join(about[:3])}{' …' if len(about) > 3 else ''} by {self.settings.by} cosine"
        return result_of(self.opened, self.together, self.settings, title, **more)

    def show(self) -> None:
        """What is there so far, where it is time."""
        self.growing.rest()
        if self.growing.is_due and self.tables:
            self.growing.grown(self.result())

    def tick(self, text: str) -> Tick:
        def told(done: int, total: int) -> None:
            self.growing.progress(text, done, total)
            self.show()

        return told

    def _in_one_space(self) -> list[Dictionary]:
        """The dictionaries that share a space with the features, or with most others where none was named."""
        by, opened = self.settings.by, self.opened
        wanted = {d.source for d in chosen(opened, self.settings.sources)}
        named = {ref.source for ref in self.refs}
        spaces: dict[Space, list[Dictionary]] = {}
        for dictionary in opened.dictionaries.values():
            if dictionary.source in wanted | named:
                spaces.setdefault(space_of(dictionary, by), []).append(dictionary)
        theirs = [space for space, found in spaces.items() if named & {d.source for d in found}]
        if len(theirs) > 1:
            raise BadRequest(
                f"The features lie in different spaces: {'; '.join(map(str, theirs))}.",
                "Name features of dictionaries that share one.",
            )
        space = theirs[0] if theirs else max(spaces, key=lambda space: len(spaces[space]))
        together = spaces[space]
        sites = [d.write_site if by == "decoder" else d.site for d in together]
        layers = sorted({site.layer for site in sites})
        self.notes.append(
            f"Compared are {by} rows at length 1 of {', '.join(d.source for d in together)}: "
            f"{'written into' if by == 'decoder' else 'read from'} {space}"
            + (f"; this crosses layers {', '.join(map(str, layers))}." if len(layers) > 1 else ".")
        )
        left = [f"{d.source} ({other})" for other, found in spaces.items() if other != space for d in found]
        if left:
            self.notes.append(f"Left out, since their rows lie in another space: {', '.join(left)}.")
        return together

    def search(self) -> Nearest:
        """The neighbours of every feature that was named."""
        own = [(self.sources.index(ref.source), ref.index) for ref in self.refs]
        tick = self.tick("comparing rows")
        found = nearest(self._rows(own), own, self.together, self.settings.by, self.settings.top, tick)
        made = tables.neighbour_table(self.settings.by, self.refs, found, self.refer, self.words)
        self.tables[made.name] = made
        if len(self.refs) == 1:
            title = f"Nearest to {self.refs[0]}"
            self.views.append(Bars(title=title, table=made.name, label="neighbour", values=("cosine",)))
        return found

    def survey(self, around: Nearest | None) -> None:
        """A sample of all features: the nearest of each, the closest pairs, and where they lie on a map."""
        by, total = self.settings.by, sum(d.d_sae for d in self.together)
        groups = self._groups(around)
        places = self._sample(total, groups)
        refs = [self.refer(*place) for place in places]
        rows = self._rows(places)
        found = nearest(rows, places, self.together, by, 1, self.tick("nearest of every feature"))
        closest = [
            self.refer(s, i) if s >= 0 else None
            for s, i in zip(found.sources[:, 0].tolist(), found.indices[:, 0].tolist(), strict=True)
        ]
        cosines = found.cosines[:, 0].tolist()
        among = "" if len(refs) == total else f"of {len(refs):,} features at random"
        pairs = tables.closest_pairs(refs, closest, cosines)
        shown = tables.pair_table(by, pairs, self.settings.top, self.words, among)
        for made in (shown, tables.cosine_table(refs, closest, cosines)):
            self.tables[made.name] = made
        if among:
            self.notes.append(
                f"Map, pairs and cosines are those of {len(refs):,} of the {total:,} features, drawn at random; "
                "the nearest of each is sought among all."
            )
        self.figure("median cosine", float(found.cosines.quantile(0.5)), "Cosine with the nearest neighbour, median.")
        if len(self.together) > 1:
            crossing = sum(b is not None and a.source != b.source for a, b in zip(refs, closest, strict=True))
            meaning = "Share of features whose nearest neighbour is of another dictionary."
            self.figure("nearest elsewhere", crossing / len(refs), meaning)
        if self.settings.map != "none":
            self._draw(rows, lambda projection, method: tables.point_table(
                by, method, refs, projection, groups, closest, cosines, total))  # fmt: skip
        self.views.append(tables.cosine_view())
        self.show()

    def _draw(self, rows: Tensor, made: Any) -> None:
        dimensions = self.settings.dimensions
        self.growing.progress("drawing the map")
        projection = pca(rows, dimensions, self.growing.rest)
        self.tables["points"] = made(projection, "PCA")
        if self.settings.map == "umap":
            self.growing.progress("drawing the map by UMAP, which cannot be stopped")
            self.growing.rest()
            projection = umap(rows, dimensions, self.settings.seed)
            self.tables["points"] = made(projection, "UMAP")
            self.notes.append("UMAP keeps neighbourhoods; distances and directions across its map mean little.")
        for axis, share in zip("xyz", projection.explained, strict=False):
            self.figure(f"{axis} explains", share, f"Share of the rows' variance along {axis}.")
        self.views.append(tables.scatter(self.settings.map.upper(), dimensions))

    def split(self, small: Dictionary, large: Dictionary) -> None:
        """Into how many features of the large one those of the small one fall apart."""
        found = splitting.split(small, large, self.settings.by, self.settings.similar, self.tick("matching features"))
        values, meanings = splitting.figures(found)
        self.figures |= values
        self.meanings |= meanings
        self.tables |= {made.name: made for made in splitting.tables(found, self.refs, self.settings.top)}
        self.views.append(splitting.view())
        if small.site != large.site:
            self.notes.append(f"{small.source} reads {small.site.hook}, {large.source} reads {large.site.hook}.")
        if small.d_sae == large.d_sae:
            self.notes.append("Both dictionaries have one size: parts are matches here, no splitting by size.")

    def _groups(self, around: Nearest | None) -> dict[FeatureRef, str]:
        """What the features that were named, and their neighbours, are coloured by."""
        groups = {ref: str(ref) for ref in self.refs}
        if around is not None:
            for ref, sources, indices in zip(self.refs, around.sources.tolist(), around.indices.tolist(), strict=True):
                for source, index in zip(sources, indices, strict=True):
                    if source >= 0:
                        groups.setdefault(self.refer(source, index), f"neighbour of {ref}")
        return groups

    def _sample(self, total: int, always: dict[FeatureRef, str]) -> list[tuple[int, int]]:
        """Places of `points` features, or of all if there are no more: those in `always` first, others at random."""
        starts = torch.tensor([0] + [d.d_sae for d in self.together]).cumsum(0)
        first = [int(starts[self.sources.index(ref.source)]) + ref.index for ref in always]
        generator = torch.Generator().manual_seed(self.settings.seed)
        drawn = torch.randperm(total, generator=generator)
        drawn = drawn[~torch.isin(drawn, torch.tensor(first))][: max(0, self.settings.points - len(first))]
        flat = torch.cat([torch.tensor(first, dtype=torch.long), drawn.sort().values])
        numbers = torch.bucketize(flat, starts[1:], right=True)
        return list(zip(numbers.tolist(), (flat - starts[numbers]).tolist(), strict=True))

    def _rows(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """Rows of length 1 of (dictionary, feature), [n, d]."""
        out: Tensor | None = None
        for number, dictionary in enumerate(self.together):
            at = [n for n, (which, _) in enumerate(places) if which == number]
            if not at:
                continue
            indices = torch.tensor([places[n][1] for n in at], device=dictionary.device)
            rows = unit_rows(dictionary, self.settings.by, indices)
            if out is None:
                out = rows.new_zeros(len(places), rows.shape[1])
            out[torch.tensor(at, device=out.device)] = rows.to(out)
        assert out is not None
        return out
