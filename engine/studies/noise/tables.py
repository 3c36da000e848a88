"""The tables and plots of ablation and noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.steering_results import AblationResult
from engine.studies.noise.changes import Change
from engine.studies.noise.others import OTHERS, Others
from engine.studies.parts import plain_cell, result_of, table
from engine.study_results import AnyView, Bars, Cell, Column, Curve, Heat, StudyResult, Table
from engine.study_settings.noise import Noise
from engine.text import quoted

Key = tuple[FeatureRef, str, float | None]
_REBUILT = (
    Column("cosine", "signed", "Of the reconstruction with the change and the one without, where the feature fires."),
    Column("mse", "number", "Mean squared difference of the two, per number."),
    Column("relative error", "number", "Their squared difference as a share of the squared norm without."),
    Column("kl", "number", "KL(without ‖ with the change) of the next token, in nats."),
)
_OTHERS = (
    Column("active", "number", "Other features that fire with or without the change, per token."),
    Column("changed", "share", "Of these, those whose activation changes by more than the share asked for."),
    Column("new", "share", "Those that fire only with the change."),
    Column("vanished", "share", "Those that fire only without it."),
    Column("small", "share", "Of the changed ones, those that change by less than 1."),
    Column("mean change", "number", "Mean size of the change of an activation."),
    Column("relative change", "number", "Mean of |Δf| / |f| over those that fire without the change."),
    Column("others cosine", "signed", "Of all other activations with and without, mean over tokens."),
    Column("rebuilt cosine", "signed", "Of what the dictionary makes of its site with and without the change."),
    Column("rebuilt mse", "number", "Mean squared difference of these."),
)


@dataclass(frozen=True)
class Rebuilt:
    """What a change does to its own dictionary's reconstruction and to the next token."""

    cosine: float
    mse: float
    relative: float
    kl: float


@dataclass
class Found:
    """What a study of changes has found so far; lists have one entry for each draw.

    Attributes:
        activations: on how many tokens a feature fires, and its mean there.
        affected: under zero, by changed feature and source, the other features that fire and their means.
    """

    prompt: str
    tokens: tuple[str, ...]
    features: tuple[FeatureRef, ...] = ()
    silent: tuple[str, ...] = ()
    activations: dict[FeatureRef, tuple[int, float]] = field(default_factory=dict)
    rebuilt: defaultdict[Key, list[Rebuilt]] = field(default_factory=lambda: defaultdict(list))
    others: defaultdict[tuple[Key, str], list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    affected: dict[tuple[FeatureRef, str], Others] = field(default_factory=dict)
    ranking: AblationResult | None = None

    def add(self, change: Change, rebuilt: Rebuilt, others: dict[str, Others]) -> None:
        """What one row of a batch gave."""
        key = (change.feature, change.kind, change.size)
        self.rebuilt[key].append(rebuilt)
        for source, found in others.items():
            self.others[key, source].append(found.figures)
            if change.kind == "zero":
                self.affected[change.feature, source] = found

    def rebuilt_means(self, key: Key) -> list[float]:
        return torch.tensor([astuple(one) for one in self.rebuilt[key]], dtype=torch.float64).mean(0).tolist()

    def others_means(self, key: Key, source: str) -> list[float]:
        """Means over draws; nan where there is nothing to compare."""
        rows = self.others.get((key, source))
        return torch.stack(rows).nanmean(0).tolist() if rows else [float("nan")] * len(OTHERS)


def result(opened: OpenSet, dictionaries: Sequence[Dictionary], settings: Noise, found: Found) -> StudyResult:
    """All that was found so far as a result."""
    affected, views = _affected(found, settings.top), list[AnyView]()
    tables = [_reconstructions(found), _sites(found), affected, _sizes(found)]
    views += [
        Heat(title="Relative change of others", table="affected", row="feature", column="other", value="balance",
             diverging=True),
        Heat(title="Share changed, by dictionary", table="sites", row="feature", column="source", value="changed"),
        Curve(title="Cosine of reconstructions over noise", table="sizes", x="noise", y=("cosine", "others cosine")),
        Curve(title="Mean squared error over noise", table="sizes", x="noise", y=("mse",)),
        Curve(title="Others changed over noise", table="sizes", x="noise", y=("changed", "vanished")),
    ]  # fmt: skip
    if found.ranking is not None:
        tables.append(_ranking(found.ranking, settings.top))
        views.append(
            Bars(title="By ablation, beside the linear guess", table="ranking", label="feature",
                 values=("ablation", "attribution"))
        )  # fmt: skip
    figures, meanings = _figures(found)
    return result_of(
        opened,
        dictionaries,
        settings,
        f"Ablation and noise on {_features(len(found.features))} of {quoted(found.prompt)}",
        figures=figures,
        meanings=meanings,
        tables=tuple(tables),
        views=tuple(views),
        notes=tuple(_notes(settings, found)),
    )


def _reconstructions(found: Found) -> Table:
    columns = (
        Column("feature", "feature"), Column("change", help="zero; noise; or a random direction of the norm of zero."),
        Column("noise", "number", "Standard deviation, as a share of the activation."),
        Column("tokens", "count", "On which the feature fires; only these change."),
        Column("activation", "signed", "Mean there."), *_REBUILT,
    )  # fmt: skip
    rows = [(ref, kind, size, *found.activations[ref], *found.rebuilt_means((ref, kind, size))) for ref, kind, size in found.rebuilt]  # fmt: skip  # noqa: E501
    return table("reconstructions", "Reconstructions with each change beside those without", columns, rows)


def _sites(found: Found) -> Table:
    columns = (
        Column("feature", "feature"), Column("source", "source"), *_OTHERS,
        Column("random changed", "share", "Changed by a random direction of the same norm instead."),
        Column("random cosine", "signed", "Of all other activations, with the random direction instead."),
    )  # fmt: skip
    rows = []
    for (ref, kind, size), source in found.others:
        if kind == "zero":
            own = found.others_means((ref, kind, size), source)
            random = found.others_means((ref, "random", None), source)
            rows.append((ref, source, *own, _of(random, "changed"), _of(random, "cosine")))
    return table("sites", "What clamping a feature to zero does to all others", columns, rows)


def _sizes(found: Found) -> Table:
    """By size of noise, means over the features, of the dictionary whose feature is changed."""
    sizes = sorted({size for _, _, size in found.rebuilt if size is not None})
    rows = []
    for kind, size in [("zero", None), *(("noise", size) for size in sizes)]:
        keys = [key for key in found.rebuilt if key[1:] == (kind, size)]
        if keys:
            rebuilt = torch.tensor([found.rebuilt_means(key) for key in keys]).mean(0).tolist()
            others = torch.tensor([found.others_means(key, key[0].source) for key in keys]).nanmean(0).tolist()
            random = torch.tensor([found.others_means((key[0], "random", None), key[0].source) for key in keys])
            control = _of(random.nanmean(0).tolist(), "changed") if kind == "zero" else None
            rows.append((kind, size, *rebuilt, *others[:-2], control))
    columns = (
        Column("change"), Column("noise", "number", "Standard deviation, as a share of the activation."),
        *_REBUILT, *_OTHERS[:-2], Column("random changed", "share", "With a random direction of the norm of zero."),
    )  # fmt: skip
    return table("sizes", "Over the size of the noise: means over the features, in their own dictionary", columns, rows)


def _affected(found: Found, top: int) -> Table:
    """The grid of changed features and the others they change most, in activations as shares of their largest."""
    grid: dict[FeatureRef, dict[FeatureRef, tuple[float, float]]] = {}
    scores: defaultdict[FeatureRef, float] = defaultdict(float)
    largest: defaultdict[str, float] = defaultdict(float)
    for (_, source), others in found.affected.items():
        if len(others.before):
            largest[source] = max(largest[source], float(others.before.abs().max()))
    for (ref, source), others in found.affected.items():
        row = grid.setdefault(ref, {})
        lists = (others.indices.tolist(), others.before.tolist(), others.after.tolist())
        for index, before, after in zip(*lists, strict=True):
            other = FeatureRef(source, index)
            row[other] = (before, after)
            if largest[source]:
                scores[other] = max(scores[other], abs(after - before) / largest[source])
    chosen = sorted((other for other in scores if scores[other] > 0), key=lambda other: -scores[other])[:top]
    rows = []
    for ref, row in grid.items():
        for other in chosen:
            before, after = row.get(other, (0.0, 0.0))
            size = max(abs(before), abs(after))
            rows.append((
                ref, other, before, after, (after - before) / abs(before) if before else None,
                (after - before) / size if size else 0.0,
            ))  # fmt: skip
    columns = (
        Column("feature", "feature", "Clamped to zero."), Column("other", "feature"),
        Column("before", "signed", "Mean activation of the other, over the tokens compared."),
        Column("after", "signed", "The same with the feature clamped to zero."),
        Column("relative change", "signed", "Δf / |f|; none where it does not fire before."),
        Column("balance", "signed", "Δf over the larger of both: −1 vanished, 1 new, 0 as it was or not reached."),
    )  # fmt: skip
    total = len(grid) * len(scores)
    return table("affected", "Features that change most where one is clamped to zero", columns, rows, total=total)


def _ranking(ranking: AblationResult, top: int) -> Table:
    columns = (
        Column("feature", "feature"), Column("activation", "signed", "The largest on the prompt."),
        Column("attribution", "signed", "The linear guess of what clamping it to zero everywhere does to the metric."),
        Column("ablation", "signed", "Measured: metric with the feature − without it."),
        Column("kl", "number", "KL(with ‖ without) of the next token, in nats."),
        Column("by activation", "count", "Rank."), Column("by attribution", "count", "Rank, by size."),
        Column("by ablation", "count", "Rank, by size."),
    )  # fmt: skip
    rows = [(r.feature, r.activation, r.attribution, r.ablation, r.kl, r.by_activation, r.by_attribution, r.by_ablation)
            for r in ranking.rows[:top]]  # fmt: skip
    title = "The features that matter most by ablation, and their ranks by other measures"
    return table("ranking", title, columns, rows, total=len(ranking.rows))


def _of(means: Sequence[float], name: str) -> float:
    return means[OTHERS.index(name)]


def _figures(found: Found) -> tuple[dict[str, Cell], dict[str, str]]:
    given: list[tuple[str, Cell, str]] = []
    sizes = _sizes(found)
    if sizes.rows:
        for column, value in zip(sizes.columns, sizes.rows[0], strict=True):
            if column.name in {"cosine", "mse", "kl", "changed", "small", "random changed"}:
                text = f"Clamped to zero, mean over features, in their own dictionary. {column.help}"
                given.append((column.name, value, text))
    if (ranking := found.ranking) is not None:
        top = f"Of the {ranking.top} features first by ablation, how many are so by"
        given += [
            ("metric", ranking.metric.clean, "The ranking's metric on the plain prompt, in logits."),
            ("shared with activation", ranking.shared_activation, f"{top} activation."),
            ("shared with attribution", ranking.shared_attribution, f"{top} attribution."),
            ("correlation activation", ranking.correlation_activation, "Pearson, of activation with |ablation|."),
            ("correlation attribution", ranking.correlation_attribution, "Pearson, of attribution with ablation."),
        ]
    return {name: value if isinstance(value, str) else plain_cell(value) for name, value, _ in given}, {
        name: text for name, _, text in given
    }


def _notes(settings: Noise, found: Found) -> list[str]:
    notes = [
        "The first token and other attention sinks are neither changed nor counted.",
        "What the dictionary does not explain is kept." if settings.errors == "keep"
        else "What the dictionary does not explain is left out with the change and without, at the tokens that count; "
        "the ranking keeps it.",
        "Where the change is made the tokens are compared on which the feature fires; in later dictionaries all from "
        "the first of them on.",
    ]  # fmt: skip
    if settings.noise:
        notes.append(f"Each size of noise is drawn {settings.draws} times; activations that cannot be negative end at zero.")  # fmt: skip  # noqa: E501
    if not settings.features:
        notes.append("The features are the strongest of each dictionary in turn.")
    if found.silent:
        notes.append(f"Left out, since they do not fire on the prompt: {', '.join(found.silent)}.")
    if found.ranking is not None:
        targets = " ".join(repr(t.text) for t in found.ranking.metric.targets)
        against = " ".join(repr(t.text) for t in found.ranking.metric.against)
        notes.append(f"The ranking's metric is the logit of {targets}{f' less that of {against}' if against else ''}.")
    return notes


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count} features"
