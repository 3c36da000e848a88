"""Concept coverage as figures, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from engine.corpus.text import name_of_text
from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.studies.concepts.text import Candidates, OnText
from engine.studies.parts import result_of, table
from engine.study_results import AnyView, Bars, Column, Curve, FeatureSet, Scatter, SetMember, StudyResult, Table
from engine.study_settings.concepts import Concepts

_MANY = 20_000
"""With fewer tokens of text nothing can be said of how rarely a feature fires elsewhere."""


@dataclass(frozen=True)
class _Owner:
    """A feature that stands out on a concept."""

    feature: FeatureRef
    activation: float
    ratio: float
    rival: str
    elsewhere: float
    """Share of other tokens on which it fires at least half as strongly."""
    hits: int


def concept_result(
    opened: OpenSet,
    dictionaries: Sequence[Dictionary],
    settings: Concepts,
    concepts: Sequence[str],
    mean: Mapping[str, Tensor],
    candidates: Mapping[str, Candidates],
    text: OnText,
) -> StudyResult:
    """The result, from the mean activations [concepts, d_sae] by source and what the text showed."""
    owners = {
        (d.source, number): _rarest(d.source, number, concepts, mean[d.source], candidates[d.source], text)
        for d in dictionaries
        for number in range(len(concepts))
    }
    best: list[_Owner | None] = []
    for number in range(len(concepts)):
        known = [owner for d in dictionaries if (owner := owners[d.source, number]) is not None]
        best.append(min(known, key=lambda o: (o.elsewhere, -o.hits, -o.ratio), default=None))
    has = [owner is not None and owner.elsewhere <= settings.elsewhere for owner in best]
    views: list[AnyView] = [
        Bars(title="Share of concepts with a feature", table="dictionaries", label="source", values=("share",)),
        Scatter(
            title="Firing elsewhere against frequency of the concept (log10)", table="concepts", x="log frequency",
            y="log elsewhere", label="feature", group="has",
        ),
    ]  # fmt: skip
    tables = [
        _dictionary_table(dictionaries, len(concepts), owners, settings.elsewhere, text.tokens >= _MANY),
        _concept_table(concepts, best, has, text),
    ]
    if (frequencies := _frequency_table(has, text)) is not None:
        tables.append(frequencies)
        views.append(Curve(title="Share with a feature, by frequency", table="frequencies", x="middle", y=("share",)))
    members = [
        SetMember(o.feature, float(f"{o.activation:.6g}")) for o, own in zip(best, has, strict=True) if o and own
    ]
    notes = [
        "A feature is a concept's own where it fires on it in every template, so many times as strongly as on any "
        "other concept of the list, and half as strongly on hardly any other token of the text.",
        f"The text is {name_of_text(settings.text)}, {text.tokens:,} tokens; first tokens and sinks do not count.",
    ]
    if text.tokens < _MANY:
        notes.append(
            "So little text does not show where else features fire: too many concepts seem to have one (--text)."
        )
    return result_of(
        opened,
        dictionaries,
        settings,
        f"Coverage of {len(concepts)} concepts ({', '.join(settings.concepts)[:60]})",
        figures={
            "concepts": len(concepts),
            "covered": sum(has),
            "share": round(sum(has) / len(has), 4) if text.tokens >= _MANY else None,
            "tokens": text.tokens,
        },
        meanings={
            "covered": "Concepts with a feature of their own in some dictionary.",
            "share": f"The share of concepts that have one; none where fewer than {_MANY:,} tokens were read.",
            "tokens": "Tokens of text read.",
        },
        tables=tuple(tables),
        views=tuple(views),
        sets=(FeatureSet("concepts", tuple(members), "The feature of every concept that has one."),),
        notes=tuple(notes),
    )


def _rarest(
    source: str, number: int, concepts: Sequence[str], mean: Tensor, candidates: Candidates, text: OnText
) -> _Owner | None:
    """Of the features that stand out on a concept the one that fires least elsewhere; None where none stands out."""
    mine = (candidates.owner == number).nonzero().flatten().tolist()
    if not mine:
        return None
    elsewhere, hits = text.elsewhere[source], text.hits[source]
    best = min(
        mine, key=lambda f: (int(elsewhere[f]), -int(hits[f]), -float(candidates.ratio[f]), -float(mean[number, f]))
    )
    rival = int(candidates.rival[best])
    return _Owner(
        feature=FeatureRef(source, best),
        activation=float(mean[number, best]),
        ratio=float(candidates.ratio[best]) if rival >= 0 else math.inf,
        rival=concepts[rival] if rival >= 0 else "",
        elsewhere=int(elsewhere[best]) / max(text.counted[source] - int(text.own[source][number]), 1),
        hits=int(hits[best]),
    )


def _dictionary_table(
    dictionaries: Sequence[Dictionary],
    count: int,
    owners: Mapping[tuple[str, int], _Owner | None],
    limit: float,
    enough: bool,
) -> Table:
    columns = (
        Column("source", "source"),
        Column("covered", "count", "Concepts with a feature of their own in it."),
        Column("share", "share"),
        Column("stand out", "count", "Concepts with a feature that stands out in the list, wherever else it fires."),
        Column("features", "count", "Features of the dictionary."),
    )
    rows = []
    for d in dictionaries:
        known = [owner for number in range(count) if (owner := owners[d.source, number]) is not None]
        covered = sum(owner.elsewhere <= limit for owner in known)
        rows.append((d.source, covered, covered / count if enough else None, len(known), d.d_sae))
    return table("dictionaries", "By dictionary", columns, rows)


def _concept_table(concepts: Sequence[str], best: Sequence[_Owner | None], has: Sequence[bool], text: OnText) -> Table:
    columns = (
        Column("concept"),
        Column("has", help="yes where a feature is its own"),
        Column("feature", "feature", "The one that stands out and fires least elsewhere."),
        Column("activation", "number", "Mean over the templates."),
        Column("ratio", "number", "That over the largest on another concept; none where it fires on no other."),
        Column("rival", help="That other concept."),
        Column("elsewhere", "number", "Of a million other tokens, on how many it fires at least half as strongly."),
        Column("occurrences", "count", "In the text."),
        Column("fires on", "count", "On how many of them it fires."),
        Column("log frequency", "signed", "log10 of occurrences per token, one added."),
        Column("log elsewhere", "signed", "log10 of the share of other tokens, one token added."),
    )
    rows: list[tuple[object, ...]] = []
    for number, (concept, owner, own) in enumerate(zip(concepts, best, has, strict=True)):
        count = text.occurrences[number]
        frequency = math.log10((count + 1) / max(text.tokens, 1))
        if owner is None:
            rows.append((concept, "no", None, None, None, "", None, count, None, frequency, None))
            continue
        rows.append((
            concept, "yes" if own else "no", owner.feature, owner.activation, owner.ratio, owner.rival,
            1e6 * owner.elsewhere, count, owner.hits, frequency, math.log10(owner.elsewhere + 1 / max(text.tokens, 1)),
        ))  # fmt: skip
    return table("concepts", "By concept", columns, rows)


def _frequency_table(has: Sequence[bool], text: OnText) -> Table | None:
    """The share that has a feature in five groups of rising frequency; None where there is too little to divide."""
    counts = np.array(text.occurrences)
    if len(counts) < 10 or len(np.unique(counts)) < 3:
        return None
    rows = []
    for part in np.array_split(np.argsort(counts, kind="stable"), 5):
        middle = math.log10((counts[part].mean() + 1) / max(text.tokens, 1))
        rows.append((counts[part[0]], counts[part[-1]], middle, np.mean(np.array(has)[part]), len(part)))
    columns = (
        Column("from", "count", "Occurrences from …"),
        Column("to", "count", "… to."),
        Column("middle", "signed", "log10 of the mean occurrences per token, one added."),
        Column("share", "share", "Concepts with a feature."),
        Column("concepts", "count"),
    )
    return table("frequencies", "By frequency", columns, rows)
