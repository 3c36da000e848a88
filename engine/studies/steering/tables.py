"""What a steering study tells: strengths of every feature on every prompt, and a summary per feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.studies.given import set_of
from engine.studies.parts import plain_cell, table
from engine.studies.steering.flips import Flips, Vector
from engine.study_results import AnyView, Bars, Cell, Column, Heat, Table
from engine.study_settings.steering import Steering

_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Case:
    """One prompt of a data set: what it is called in plots, its text, the two answers, and the plain margin."""

    pairs: str
    label: str
    prompt: str
    answer: str
    sought: str
    margin: float


@dataclass(frozen=True)
class Found:
    """One feature on one prompt."""

    case: Case
    vector: Vector
    flips: Flips


@dataclass(frozen=True)
class _Summary:
    vector: Vector
    prompts: int
    already: int
    silent: int
    flipped: tuple[float, ...]
    """Sizes of the strengths that flip."""
    control: tuple[float, ...]

    @property
    def open(self) -> int:
        """Prompts on which there is something to flip."""
        return self.prompts - self.already

    def share(self, strengths: Sequence[float]) -> float | None:
        return len(strengths) / self.open if self.open else None


def told(opened: OpenSet, settings: Steering, found: Sequence[Found]) -> dict[str, Any]:
    """Figures, tables, views and sets of what was found so far, as fields of a result."""
    summaries = _summaries(found)
    views: list[AnyView] = [
        Heat(title="Smallest strength that flips", table="strengths", row="feature", column="label", value="strength",
             diverging=True),
        Bars(title="Median strength that flips", table="features", label="feature",
             values=("median", "random median") if settings.control else ("median",)),
    ]  # fmt: skip
    flipping = {s.vector.feature: s.share(s.flipped) or 0.0 for s in summaries if s.flipped}
    rule = "Features that flip an answer, those that flip more prompts first; the number is the share of prompts."
    figures, meanings = _figures(settings, found)
    return {
        "figures": figures,
        "meanings": meanings,
        "tables": (_features(settings, summaries), _strengths(settings, found)),
        "views": tuple(views),
        "sets": (set_of(opened, "flip", flipping, rule, flipping),) if flipping else (),
    }


def _unit(settings: Steering) -> str:
    return "in multiples of the feature's maximum" if settings.unit == "max" else "in units of activation"


def _strengths(settings: Steering, found: Sequence[Found]) -> Table:
    unit = _unit(settings)
    columns = [
        Column("feature", "feature"),
        Column("label", help="The prompt's data set and number."),
        Column("prompt"),
        Column("answer", "token", "What the clean prompt is answered with."),
        Column("sought", "token", "What it is to be flipped to."),
        Column("margin", "signed", _margin_help(settings)),
        Column("status", help="flips; flips already without steering; never, up to the strongest; or cannot act."),
        Column("strength", "signed", f"The smallest strength that flips, {unit}."),
    ]
    if settings.sign == "both":
        columns += [
            Column(sign, "signed", f"The smallest {sign} strength, {unit}.") for sign in ("positive", "negative")
        ]
    if settings.control:
        columns.append(Column("random", "number", f"Its size along a random direction of the same length, {unit}."))
    rows = []
    for one in found[:_MOST_ROWS]:
        case, flips = one.case, one.flips
        row: list[Cell | FeatureRef] = [
            one.vector.feature, case.label, case.prompt, case.answer, case.sought, case.margin, flips.status,
            flips.smallest,
        ]  # fmt: skip
        if settings.sign == "both":
            row += [flips.positive, flips.negative]
        if settings.control:
            row.append(flips.control)
        rows.append(row)
    total = len(found) if len(found) > _MOST_ROWS else None
    return table("strengths", "Smallest strength on every prompt", columns, rows, total)


def _margin_help(settings: Steering) -> str:
    if settings.tokens == 1:
        return "logit(sought) − logit(answer) without steering; above 0 there is nothing to flip."
    return "1 where the text without steering says the sought answer first, −1 otherwise."


def _features(settings: Steering, summaries: Sequence[_Summary]) -> Table:
    unit = _unit(settings)
    columns = [
        Column("feature", "feature"),
        Column("flips", "count", "Prompts on which it flips the answer."),
        Column("never", "count", f"Prompts on which no strength up to {settings.strongest:g} does."),
        Column("cannot act", "count", "Prompts on which it can have no effect on what is said."),
        Column("already", "count", "Prompts that have the other answer without steering; they are left out of shares."),
        Column("share", "share", "Of the prompts with something to flip, how many it flips."),
        Column("median", "number", f"Median size of the smallest strength, of the prompts that flip, {unit}."),
        Column("largest", "number", f"The strength that flips all that flip, {unit}."),
    ]
    if settings.unit == "max":
        columns.append(Column("maximum", "number", "The feature's maximum, in units of activation."))
    if settings.control:
        columns += [
            Column("random share", "share", "The same along a random direction of the same length."),
            Column("random median", "number", f"The same along a random direction of the same length, {unit}."),
        ]
    rows = []
    for s in summaries:
        flips = len(s.flipped)
        row: list[Cell | FeatureRef] = [
            s.vector.feature, flips, s.open - s.silent - flips, s.silent, s.already, s.share(s.flipped),
            median(s.flipped) if s.flipped else None, max(s.flipped, default=None),
        ]  # fmt: skip
        if settings.unit == "max":
            row.append(s.vector.unit)
        if settings.control:
            row += [s.share(s.control), median(s.control) if s.control else None]
        rows.append(row)
    return table("features", "Features", columns, rows)


def _summaries(found: Sequence[Found]) -> list[_Summary]:
    """Of every feature, those that flip most first and of these the weakest strengths."""
    by_feature: dict[FeatureRef, list[Found]] = {}
    for one in found:
        by_feature.setdefault(one.vector.feature, []).append(one)
    made = [
        _Summary(
            mine[0].vector,
            len(mine),
            sum(one.flips.status == "flips already" for one in mine),
            sum(one.flips.status == "cannot act" for one in mine),
            tuple(abs(s) for one in mine if (s := one.flips.smallest) is not None),
            tuple(s for one in mine if (s := one.flips.control) is not None),
        )
        for mine in by_feature.values()
    ]
    return sorted(made, key=lambda s: (-len(s.flipped), median(s.flipped) if s.flipped else 0.0))


def _figures(settings: Steering, found: Sequence[Found]) -> tuple[dict[str, Cell], dict[str, str]]:
    statuses = [one.flips.status for one in found]
    tries = len(statuses) - statuses.count("flips already") - statuses.count("cannot act")
    prompts = {one.case.label: one.case.margin for one in found}
    figures: dict[str, Cell] = {
        "prompts": len(prompts),
        "flipped already": sum(margin > 0 for margin in prompts.values()),
        "flipped": plain_cell(statuses.count("flips") / tries) if tries else None,
    }
    meanings = {
        "prompts": "Prompts steered on.",
        "flipped already": "Prompts that have the other answer without steering.",
        "flipped": "Of all features and prompts on which there is something to flip and the feature can act, the share "
        "that flips.",
    }
    if settings.control:
        random = sum(one.flips.control is not None for one in found)
        figures["flipped at random"] = plain_cell(random / tries) if tries else None
        meanings["flipped at random"] = "The same share along random directions of the same lengths."
    return figures, meanings
