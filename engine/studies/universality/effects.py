"""The same selection on both sides: how large effects are, how deep they lie, and how many features carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine import selection
from engine.knowledge import hint
from engine.opening import OpenSet
from engine.prompts.datasets import PromptSet
from engine.protocol import FeatureRef
from engine.selection import Effect
from engine.studies.effects import MeanEffects, mean_effects, metric_notes, pairs_notes
from engine.studies.given import set_of
from engine.studies.measure import Growing
from engine.studies.parts import plain_cell, table
from engine.studies.select.study import effects_of
from engine.studies.select.tables import thinned
from engine.studies.universality.sides import Side
from engine.study_results import AnyView, Bars, Cell, Column, Curve, FeatureSet, Table
from engine.study_settings.universality import Universality

THRESHOLD = 0.1
"""A large effect, in logits: the thesis' threshold."""
_DEPTHS = 10
_POINTS = 60


@dataclass(frozen=True)
class Chosen:
    """What one data set selects on one side; `effects` are all that are not zero, strongest first."""

    prompts: PromptSet
    side: Side
    mean: MeanEffects
    effects: list[Effect]
    chosen: list[Effect]

    @property
    def series(self) -> str:
        return f"{self.prompts.name}, {self.side.name}"

    @property
    def size(self) -> float:
        """Σ|effect|, in logits."""
        return sum(abs(e.effect) for e in self.effects)

    @property
    def share(self) -> float | None:
        """Of Σ|effect|, what the chosen have."""
        return sum(abs(e.effect) for e in self.chosen) / self.size if self.size else None


def choose(prompts: PromptSet, side: Side, settings: Universality, growing: Growing) -> Chosen:
    """The features with the largest |effect|, averaged over a data set.

    Raises:
        BadRequest: this side's model cannot be asked any of the prompts.
    """
    what = f"effects of {prompts.name} in {side.name}"
    mean = mean_effects(side.opened, prompts.pairs, settings.method, side.dictionaries, growing, what=what)
    effects = effects_of(mean)
    return Chosen(prompts, side, mean, effects, selection.ranked(selection.top(effects, settings.count)))


def figures(found: Sequence[Chosen]) -> tuple[dict[str, Cell], dict[str, str]]:
    """Total effects side by side, and what each figure is."""
    values: dict[str, Cell] = {}
    meanings: dict[str, str] = {}
    for one in found:
        values[f"total effect: {one.series}"] = plain_cell(one.mean.effect)
        meanings[f"total effect: {one.series}"] = "Mean metric(clean) − metric(patch), in logits."
    return values, meanings


def tables(found: Sequence[Chosen], sides: Sequence[Side]) -> tuple[Table, ...]:
    """Totals, counts by relative depth, cumulative effects, and what was chosen."""
    return (_totals(found), _depths(found, sides), _cumulative(found), _chosen(found))


def views(sides: Sequence[Side]) -> tuple[AnyView, ...]:
    """Depths side by side, and the cumulative curves."""
    names = tuple(side.name for side in sides)
    return (
        Bars(title="Chosen features by relative depth", table="depths", label="depth", values=names),
        Curve(
            title="Cumulative effect", table="cumulative", x="features", y=("share",), series="series", log_x=True
        ),
    )  # fmt: skip


def sets(opened: OpenSet, found: Sequence[Chosen]) -> tuple[FeatureSet, ...]:
    """What was chosen from dictionaries that are open, as sets: of others other studies could not take them."""
    made = []
    for one in found:
        here = [e for e in selection.published(one.chosen) if not one.side.prefix and e.site in opened.dictionaries]
        effects = {FeatureRef(e.site, int(e.index)): e.effect for e in here}
        rule = f"The {len(one.chosen)} with the largest |effect| over {one.prompts.name}"
        rule += "." if len(here) == len(one.chosen) else f"; {len(here)} of them, whose dictionaries are open."
        if here:
            made.append(set_of(opened, one.series, effects, rule, effects))
    return tuple(made)


def notes(found: Sequence[Chosen]) -> tuple[str, ...]:
    """What has to be known of them."""
    told = metric_notes([one.mean for one in found])
    told += [note for one in found for note in pairs_notes(one.series, one.mean)]
    pairs = {
        one.prompts.name: {other.mean.examples for other in found if other.prompts == one.prompts} for one in found
    }
    told += [
        f"{name}: the sides could use different numbers of pairs." for name, sizes in pairs.items() if len(sizes) > 1
    ]
    return tuple(told)


def _totals(found: Sequence[Chosen]) -> Table:
    columns = (
        Column("data set"),
        Column("side"),
        Column("pairs", "count", "Pairs the effects are means over."),
        Column("clean", "signed", "Mean metric of the clean prompts, in logits."),
        Column("patch", "signed", "Mean metric of the patch prompts, in logits."),
        Column("effect", "signed", "Clean − patch, in logits."),
        Column("with an effect", "count", "Features whose mean effect is not zero."),
        Column("large", "count", f"Features with |effect| over {THRESHOLD} logits."),
        Column("chosen", "count"),
        Column("share", "share", "Of Σ|effect| over all features, that of the chosen."),
        Column("for half", "count", "Features that hold half of Σ|effect|."),
    )
    rows = []
    for one in found:
        large = sum(abs(e.effect) > THRESHOLD for e in one.effects)
        mean = one.mean
        rows.append(
            (one.prompts.name, one.side.name, mean.examples, mean.clean, mean.patch, mean.effect,
             len(one.effects), large, len(one.chosen), one.share, _for_half(one))
        )  # fmt: skip
    return table("effects", "Effects side by side", columns, rows)


def _for_half(one: Chosen) -> int:
    return next((n for n, share in enumerate(_shares(one), 1) if share >= 0.5), 0)


def _shares(one: Chosen) -> list[float]:
    """Of Σ|effect|, what the strongest n have, for every n."""
    size = one.size
    return [part / size for part in accumulate(abs(e.effect) for e in one.effects)] if size else []


def _depths(found: Sequence[Chosen], sides: Sequence[Side]) -> Table:
    columns = (
        Column("depth", help="Share of the model's blocks before the feature."),
        *(Column(side.name, "count", "Features chosen there.") for side in sides),
    )
    names = list(dict.fromkeys(one.prompts.name for one in found))
    rows = []
    for name in names:
        counts = [[0] * _DEPTHS for _ in sides]
        for one in found:
            if one.prompts.name == name:
                for effect in one.chosen:
                    depth = one.side.depth(one.side.opened.dictionaries[effect.site].site)
                    counts[sides.index(one.side)][min(_DEPTHS - 1, int(depth * _DEPTHS))] += 1
        prefix = f"{name}: " if len(names) > 1 else ""
        rows += [
            (f"{prefix}{100 * n // _DEPTHS}–{100 * (n + 1) // _DEPTHS} %", *(side[n] for side in counts))
            for n in range(_DEPTHS)
        ]
    return table("depths", "Chosen features by relative depth", columns, rows)


def _cumulative(found: Sequence[Chosen]) -> Table:
    columns = (
        Column("series", help="Data set and side."),
        Column("features", "count", "The strongest so many."),
        Column("share", "share", "Of Σ|effect| over all features, theirs."),
    )
    rows = []
    for one in found:
        shares = _shares(one)
        rows += [(one.series, place, shares[place - 1]) for place in thinned(len(shares), _POINTS)]
    return table("cumulative", "Cumulative effect", columns, rows)


def _chosen(found: Sequence[Chosen]) -> Table:
    columns = (
        Column("data set"),
        Column("side"),
        Column("rank", "count"),
        Column("feature", "text" if any(one.side.prefix for one in found) else "feature"),
        Column("effect", "signed", "In logits."),
        Column("peaks on"),
    )
    rows = []
    for one in found:
        for place, effect in enumerate(one.chosen, 1):
            ref = FeatureRef(effect.site, int(effect.index))
            name = one.side.refer(effect.site, ref.index)
            rows.append(
                (one.prompts.name, one.side.name, place, name, effect.effect, hint(one.side.opened, ref) or None)
            )
    return table("chosen", "Chosen features", columns, rows)
