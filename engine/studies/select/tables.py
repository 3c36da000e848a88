"""What a selection shows: figures, tables of features, counts, cumulative curve and overlap, and their plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from engine.dictionary import Dictionary
from engine.knowledge import hint
from engine.labels.answers import best_labels
from engine.labels.database import LabelsUnusable
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.selection import Effect, ranked
from engine.studies.parts import plain_cell, table
from engine.study_results import AnyView, Bars, Cell, Column, Curve, Table
from engine.study_settings.select import Select

if TYPE_CHECKING:
    from engine.studies.select.study import Selected

_ROWS = 2_000
"""Features of one data set in a table."""
_HINTS = 300
"""Features of one data set for which cards are read."""
_POINTS = 200
"""Of a cumulative curve."""


# --- figures ------------------------------------------------------------------------------------------------------


def figures_of(done: Sequence[Selected], settings: Select) -> tuple[dict[str, Cell], dict[str, str]]:
    """The numbers one would quote of every data set, and what they are."""
    figures: dict[str, Cell] = {}
    meanings: dict[str, str] = {}
    over = f"over {settings.threshold:g}"
    for one in done:
        mean = one.mean
        size = sum(abs(e.effect) for e in one.effects)
        rows: list[tuple[str, Cell, str]] = [
            ("pairs", mean.examples, "pairs the effects are means over"),
            ("left out", len(mean.skipped), "pairs that the model cannot be asked"),
            ("clean", mean.clean, "mean metric of the clean prompts, in logits"),
            ("patch", mean.patch, "mean metric of the patch prompts, in logits"),
            ("total effect", mean.effect, "clean − patch, in logits"),
            ("with an effect", len(one.effects), "features whose mean effect is not zero"),
            (
                over,
                sum(abs(e.effect) > settings.threshold for e in one.effects),
                f"features with |effect| {over} logits",
            ),
            ("chosen", len(one.choice), "features that the rule chose"),
            (
                "share chosen",
                sum(abs(e.effect) for e in one.choice) / size if size else None,
                "of the sum of all features' |effect|, that of the chosen",
            ),
        ]
        for name, value, meaning in rows:
            name = f"{one.name}: {name}" if len(done) > 1 else name
            figures[name] = plain_cell(value)
            meanings[name] = meaning
    return figures, meanings


# --- tables -------------------------------------------------------------------------------------------------------


def tables_of(opened: OpenSet, dictionaries: Sequence[Dictionary], done: Sequence[Selected]) -> tuple[Table, ...]:
    """All tables of a selection; that of the overlap only where there is more than one data set."""
    found = [_features(opened, done)]
    if len(done) > 1:
        found.append(_overlap(opened, done))
    found.append(_layers(dictionaries, done))
    if len({d.write_site.kind for d in dictionaries}) > 1:
        found.append(_kinds(dictionaries, done))
    return (*found, _sources(dictionaries, done), _cumulative(done))


def _features(opened: OpenSet, done: Sequence[Selected]) -> Table:
    """What was chosen, strongest first."""
    rows: list[tuple[Any, ...]] = []
    for one in done:
        strongest = ranked(one.choice)[:_ROWS]
        words = _words(opened, [_ref(e) for e in strongest])
        for rank, effect in enumerate(strongest, 1):
            ref = _ref(effect)
            site = opened.dictionaries[ref.source].write_site
            rows.append((one.name, rank, ref, effect.effect, site.layer, site.kind, words.get(str(ref))))
    columns = (
        Column("data set"),
        Column("rank", "count", "By |effect|."),
        Column("feature", "feature"),
        Column("effect", "signed", "Mean over the pairs, summed over tokens, in logits."),
        Column("layer", "count"),
        Column("kind", help="Of the site that its dictionary writes."),
        Column("label", help="Its label, or else the tokens on which it fires."),
    )
    return table("features", "Features chosen", columns, rows, _total(sum(len(one.choice) for one in done), rows))


def _overlap(opened: OpenSet, done: Sequence[Selected]) -> Table:
    """Every feature that any data set chose, with its effect in all: shared ones first, then those of each."""
    chosen_by: dict[FeatureRef, list[str]] = {}
    for one in done:
        for effect in one.choice:
            chosen_by.setdefault(_ref(effect), []).append(one.name)

    def effects(ref: FeatureRef) -> list[float]:
        return [one.by_feature.get((ref.source, ref.index), 0.0) for one in done]

    groups = {tuple(names): -len(names) for names in chosen_by.values()}
    order = {names: place for place, names in enumerate(sorted(groups, key=groups.__getitem__))}
    refs = sorted(chosen_by, key=lambda ref: (order[tuple(chosen_by[ref])], -max(map(abs, effects(ref)))))
    shown = refs[:_ROWS]
    words = _words(opened, shown)
    rows = [(ref, _where(chosen_by[ref], len(done)), *effects(ref), words.get(str(ref))) for ref in shown]
    columns = (
        Column("feature", "feature"),
        Column("chosen over", help="The data sets that chose it."),
        *(Column(effect_in(one.name), "signed", f"Mean effect over {one.name}, chosen or not.") for one in done),
        Column("label", help="Its label, or else the tokens on which it fires."),
    )
    return table("overlap", "Shared and not", columns, rows, _total(len(refs), rows))


def _where(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return "both" if total == 2 else "all"
    return f"only {names[0]}" if len(names) == 1 else ", ".join(names)


def _layers(dictionaries: Sequence[Dictionary], done: Sequence[Selected]) -> Table:
    layers = sorted({d.write_site.layer for d in dictionaries})
    counts = [Counter(_site(dictionaries, e).layer for e in one.choice) for one in done]
    columns = (Column("layer", "text"), *(_count_column(one) for one in done))
    rows = [(str(layer), *(c[layer] for c in counts)) for layer in layers]
    return table("layers", "Features chosen by layer", columns, rows)


def _kinds(dictionaries: Sequence[Dictionary], done: Sequence[Selected]) -> Table:
    kinds = list(dict.fromkeys(d.write_site.kind for d in dictionaries))
    counts = [Counter(_site(dictionaries, e).kind for e in one.choice) for one in done]
    columns = (Column("kind", help="Of site."), *(_count_column(one) for one in done))
    return table("kinds", "Features chosen by kind of site", columns, [(k, *(c[k] for c in counts)) for k in kinds])


def _sources(dictionaries: Sequence[Dictionary], done: Sequence[Selected]) -> Table:
    """What each dictionary's features and errors add up to."""
    rows = []
    for one in done:
        chosen = Counter(e.site for e in one.choice)
        for d in dictionaries:
            values = one.mean.features[d.source]
            own = (d.source, d.write_site.layer, d.write_site.kind, chosen[d.source], int(values.count_nonzero()))
            rows.append((one.name, *own, float(values.sum()), float(values.abs().sum()), one.mean.errors[d.source]))
    columns = (
        Column("data set"),
        Column("dictionary", "source"),
        Column("layer", "count"),
        Column("kind"),
        Column("chosen", "count"),
        Column("with an effect", "count"),
        Column("sum", "signed", "Of the effects of all its features, in logits."),
        Column("sum of sizes", "number", "Of |effect| of all its features, in logits."),
        Column("error", "signed", "The effect of what it does not explain, in logits."),
    )
    return table("dictionaries", "Dictionaries", columns, rows)


def _cumulative(done: Sequence[Selected]) -> Table:
    rows = []
    for one in done:
        sums = list(accumulate(abs(e.effect) for e in one.effects))
        rows += [(one.name, n, sums[n - 1], sums[n - 1] / sums[-1]) for n in thinned(len(sums), _POINTS)]
    columns = (
        Column("data set"),
        Column("features", "count", "The strongest so many."),
        Column("cumulative", "number", "Sum of their |effect|, in logits."),
        Column("share", "share", "Of the sum over all features."),
    )
    return table("cumulative", "Cumulative effect", columns, rows)


def thinned(count: int, most: int) -> list[int]:
    """At most so many whole numbers from 1 to `count`, evenly spaced on a logarithmic scale."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({round(count ** (place / (most - 1))) for place in range(most)})


# --- plots --------------------------------------------------------------------------------------------------------


def views_of(dictionaries: Sequence[Dictionary], done: Sequence[Selected]) -> tuple[AnyView, ...]:
    """Effects side by side where there are several data sets, counts, and the cumulative curve."""
    counts = tuple(_chosen_over(one.name) for one in done)
    views: list[AnyView] = []
    if len(done) > 1:
        effects = tuple(effect_in(one.name) for one in done)
        views.append(Bars(title="Effects side by side", table="overlap", label="feature", values=effects))
    else:
        views.append(Bars(title="Effects", table="features", label="feature", values=("effect",)))
    views.append(Bars(title="Features chosen by layer", table="layers", label="layer", values=counts))
    if len({d.write_site.kind for d in dictionaries}) > 1:
        views.append(Bars(title="Features chosen by kind of site", table="kinds", label="kind", values=counts))
    series = "data set" if len(done) > 1 else None
    views.append(
        Curve(
            title="Cumulative |effect|", table="cumulative", x="features", y=("cumulative",), series=series, log_x=True
        )
    )
    return tuple(views)


# --- parts --------------------------------------------------------------------------------------------------------


def effect_in(name: str) -> str:
    """The column of a data set's effects."""
    return f"effect, {name}"


def _chosen_over(name: str) -> str:
    return f"chosen, {name}"


def _count_column(one: Selected) -> Column:
    return Column(_chosen_over(one.name), "count", f"Features chosen over {one.name}.")


def _ref(effect: Effect) -> FeatureRef:
    return FeatureRef(effect.site, int(effect.index))


def _site(dictionaries: Sequence[Dictionary], effect: Effect) -> Any:
    return next(d.write_site for d in dictionaries if d.source == effect.site)


def _total(count: int, rows: Sequence[Any]) -> int | None:
    return count if count > len(rows) else None


def _words(opened: OpenSet, refs: Sequence[FeatureRef]) -> dict[str, str]:
    """Labels where there are some, else what features fire on; an unreadable label store is no reason to stop."""
    try:
        labels = best_labels(opened, refs)
    except LabelsUnusable:
        labels = {}
    return dict(_hints(opened, [ref for ref in refs if str(ref) not in labels])) | labels


def _hints(opened: OpenSet, refs: Sequence[FeatureRef]) -> Iterator[tuple[str, str]]:
    for ref in refs[:_HINTS]:
        if words := hint(opened, ref):
            yield str(ref), words
