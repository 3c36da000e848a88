"""The tables and plots of matched features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.knowledge import hint
from engine.protocol import FeatureRef
from engine.studies.cutting import MOST_ROWS, cut_table
from engine.studies.neighbours.nearest import space_of, unit_rows
from engine.studies.parts import plain_cell, table
from engine.studies.universality.matching import Matches
from engine.studies.universality.reading import Pairing
from engine.studies.universality.sides import Side
from engine.study_results import AnyView, Cell, Column, Histogram, Scatter, Table

_BLOCK = 1024
_BINS = 20
_WELL = 0.5
"""A correlation beyond which a feature counts as there on the other side."""


@dataclass(frozen=True)
class Matched:
    """Matches of two dictionaries. Where both write into one space of one model, `cosine` [a] is that of the decoder
    rows of each match, and `agrees` [a] says whether the match has the largest cosine of all that were compared."""

    pairing: Pairing
    matches: Matches
    cosine: Tensor | None
    agrees: Tensor | None


def matched(first: Side, second: Side, pairing: Pairing, matches: Matches) -> Matched:
    """Matches with the cosines of their decoder rows, where these can be compared."""
    a, b = pairing
    comparable = first.opened.model is second.opened.model and space_of(a, "decoder") == space_of(b, "decoder")
    if not comparable or not len(matches.first):
        return Matched(pairing, matches, None, None)
    mine = unit_rows(a, "decoder", matches.first.to(a.device))
    theirs = unit_rows(b, "decoder", matches.second.to(b.device))
    cosine = (mine * theirs[matches.best.to(b.device)].to(mine)).sum(1).cpu()
    best = torch.cat([(rows @ theirs.T.to(rows)).argmax(1) for rows in torch.split(mine, _BLOCK)]).cpu()
    return Matched(pairing, matches, cosine, best == matches.best)


def figures(found: Sequence[Matched]) -> tuple[dict[str, Cell], dict[str, str]]:
    """What one would quote of all matches, and what each figure is."""
    r = torch.cat([one.matches.r for one in found])
    if not len(r):
        return {"matched": 0}, {"matched": "Features that were compared."}
    chance = torch.cat([one.matches.chance for one in found])
    mutual = torch.cat([one.matches.mutual for one in found])
    back = torch.cat([one.matches.back_r for one in found])
    cosines = [one.cosine for one in found if one.cosine is not None]
    agrees = [one.agrees for one in found if one.agrees is not None]
    rows: list[tuple[str, Cell, str]] = [
        ("matched", len(r), "Features of the first side that were compared."),
        ("median correlation", float(r.quantile(0.5)), "Pearson's r with the best match on the other side, median."),
        ("mean correlation", float(r.mean()), "The same, mean."),
        ("median by chance", float(chance.quantile(0.5)), "The same where the other side's tokens are others."),
        ("with a match", float((r > _WELL).double().mean()), f"Share with a match of r over {_WELL}."),
        (
            "with a match, backwards",
            float((back > _WELL).double().mean()),
            "The same for the other side's features in this.",
        ),
        ("mutual", float(mutual.double().mean()), "Share that are the best match of their best match."),
    ]
    if cosines:
        rows += [
            ("median cosine", float(torch.cat(cosines).quantile(0.5)), "Decoder cosine with the best match, median."),
            ("cosine agrees", float(torch.cat(agrees).double().mean()),
             "Share whose best match has the largest decoder cosine too."),
        ]  # fmt: skip
    return {name: plain_cell(value) for name, value, _ in rows}, {name: meaning for name, _, meaning in rows}


def tables(
    first: Side, second: Side, found: Sequence[Matched], named: Sequence[FeatureRef], top: int
) -> tuple[Table, ...]:
    """Every match; the best, the worst and those named with what they peak on; correlations counted; the pairings."""
    places = [(one, n) for one in found for n in range(len(one.matches.first))]
    places.sort(key=lambda place: -float(place[0].matches.r[place[1]]))
    theirs = Column("match", "feature" if not second.prefix else "text", f"The best match in {second.name}.")
    columns = (
        Column("feature", "feature", f"Of {first.name}."),
        theirs,
        Column("r", "signed", "Pearson's correlation of their activations."),
        Column("cosine", "signed", "Of their decoder rows, where these share a space."),
        Column("fires", "count", "Tokens on which the feature is active."),
        Column("match fires", "count"),
        Column("mutual", help="Whether each is the best match of the other."),
    )
    worded = (*columns, Column("peaks on"), Column("match peaks on"))

    def row(one: Matched, n: int) -> tuple[Cell, ...]:
        at = int(one.matches.best[n])
        return (
            first.refer(one.pairing[0].source, int(one.matches.first[n])),
            second.refer(one.pairing[1].source, int(one.matches.second[at])),
            float(one.matches.r[n]),
            float(one.cosine[n]) if one.cosine is not None else None,
            int(one.matches.first_fires[n]),
            int(one.matches.second_fires[at]),
            "yes" if one.matches.mutual[n] else "no",
        )

    def in_words(one: Matched, n: int) -> tuple[Cell, ...]:
        a = FeatureRef(one.pairing[0].source, int(one.matches.first[n]))
        b = FeatureRef(one.pairing[1].source, int(one.matches.second[int(one.matches.best[n])]))
        return (*row(one, n), hint(first.opened, a) or None, hint(second.opened, b) or None)

    wanted = {str(ref) for ref in named}
    those = [p for p in places if f"{p[0].pairing[0].source}:{int(p[0].matches.first[p[1]])}" in wanted]
    made = (
        [table("named", "Features named and their best matches", worded, [in_words(*p) for p in those])]
        if named
        else []
    )
    made += [
        cut_table("best", "Best matched", worded, [in_words(*p) for p in places[:top]], len(places)),
        cut_table("own", "Worst matched: what only this side has", worded, [in_words(*p) for p in places[::-1][:top]],
                  len(places)),
        _correlations(found),
        _pairings(found),
        cut_table("matches", "Every feature and its best match", columns, [row(*p) for p in places[:MOST_ROWS]],
                  len(places)),
    ]  # fmt: skip
    return tuple(made)


def views(found: Sequence[Matched]) -> tuple[AnyView, ...]:
    """Correlations counted, those by chance, and against cosines."""
    shown: list[AnyView] = [
        Histogram(title=title, table="correlations", low="from", high="below", counts=(column,))
        for title, column in (("Correlation with the best match", "features"), ("The same by chance", "by chance"))
    ]
    if any(one.cosine is not None for one in found):
        shown.append(Scatter(title="Correlation and cosine", table="matches", x="r", y="cosine", label="feature", group="mutual"))  # fmt: skip  # noqa: E501
    return tuple(shown)


def _correlations(found: Sequence[Matched]) -> Table:
    columns = (
        Column("from", "signed", "Correlation with the best match, least of the bin; lower ones are in the first."),
        Column("below", "signed"),
        Column("features", "count"),
        Column("by chance", "count", "Features whose best match has this correlation on other tokens."),
    )

    def counts(values: list[Tensor]) -> list[int]:
        bins = (torch.cat(values) * _BINS).floor().long().clamp(0, _BINS - 1)
        return torch.bincount(bins, minlength=_BINS).tolist()

    seen, lucky = counts([one.matches.r for one in found]), counts([one.matches.chance for one in found])
    rows = [(n / _BINS, (n + 1) / _BINS, seen[n], lucky[n]) for n in range(_BINS)]
    return table("correlations", "Correlation with the best match", columns, rows)


def _pairings(found: Sequence[Matched]) -> Table:
    columns = (
        Column("dictionary", "source"),
        Column("other", "source"),
        Column("features", "count", "Of the first that fire often enough."),
        Column("other features", "count"),
        Column("median r", "signed", "Correlation with the best match, median."),
        Column("with a match", "share", f"Features with a match of r over {_WELL}."),
        Column("mutual", "share", "Features that are the best match of their best match."),
        Column("median cosine", "signed", "Decoder cosine with the best match, median."),
    )
    rows = []
    for one in found:
        matches, some = one.matches, len(one.matches.first) > 0
        rows.append(
            (
                one.pairing[0].source,
                one.pairing[1].source,
                len(matches.first),
                len(matches.second),
                float(matches.r.quantile(0.5)) if some else None,
                float((matches.r > _WELL).double().mean()) if some else None,
                float(matches.mutual.double().mean()) if some else None,
                float(one.cosine.quantile(0.5)) if one.cosine is not None else None,
            )
        )
    return table("dictionaries", "Dictionaries side by side", columns, rows)
