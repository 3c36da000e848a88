"""What an ablation study tells: a row per group and kind of ablation, the best combinations, and their plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.opening import OpenSet
from engine.studies.ablation.groups import KINDS, By, Group
from engine.studies.ablation.runs import To
from engine.studies.cutting import cut_table
from engine.studies.given import set_of
from engine.studies.parts import plain_cell, table
from engine.study_results import AnyView, Bars, Cell, Column, ColumnKind, FeatureSet, Table

_TITLES: dict[By, str] = {
    "one": "One feature at a time", "layer": "By layer", "kind": "By kind of site", "set": "By set",
    "combinations": "Combinations",
}  # fmt: skip
_PICTURED: tuple[By, ...] = ("one", "layer", "kind", "set")


@dataclass(frozen=True)
class Whole:
    """A data set under one kind of ablation: m(M) and m(∅)."""

    pairs: str
    to: To
    examples: int
    model: float
    empty: float


@dataclass(frozen=True)
class Measured:
    """One group: m(C) with only it kept, m(rest) with only it ablated."""

    whole: Whole
    group: Group
    kept: float
    rest: float

    @property
    def faithfulness(self) -> float | None:
        return self._share(self.kept)

    @property
    def completeness(self) -> float | None:
        return self._share(self.rest)

    @property
    def bias(self) -> float | None:
        """The share of m(M) that goes with the group: 1 takes the answer's lead away, more turns it round."""
        return (self.whole.model - self.rest) / self.whole.model if self.whole.model else None

    def _share(self, value: float) -> float | None:
        span = self.whole.model - self.whole.empty
        return (value - self.whole.empty) / span if span else None


_SCORES = (
    Column("m(C)", "signed", "The metric with every feature but the group's ablated, in logits."),
    Column("m(rest)", "signed", "The metric with only the group ablated, in logits."),
    Column(
        "faithfulness", "number", "(m(C) − m(∅)) / (m(M) − m(∅)): 1 where the group alone does what the model does."
    ),
    Column("completeness", "number", "(m(rest) − m(∅)) / (m(M) − m(∅)): 0 where nothing is left without the group."),
    Column("bias", "number", "Bias score (m(M) − m(rest)) / m(M): the share of the metric that goes with the group."),
)
_PAIRS = Column("pairs", help="The data set.")
_TO = Column("to", help="What ablated features become: zero, or resample: their value on the patch prompt.")
_FEATURES = Column("features", "count", "How many are in the group.")


def told(opened: OpenSet, wholes: Sequence[Whole], found: Sequence[Measured], names: Sequence[str]) -> dict[str, Any]:
    """Figures, tables, views and sets of what was measured so far, as fields of a result."""
    tables = [_wholes(wholes)]
    views: list[AnyView] = []
    for by in KINDS:
        if not (mine := [one for one in found if one.group.by == by]):
            continue
        tables.append(_scores(by, mine))
        if by in _PICTURED:
            tables.append(_side_by_side(by, mine, wholes, many=len(names) > 1))
            title = f"Bias score: {_TITLES[by][:1].lower()}{_TITLES[by][1:]}"
            views.append(Bars(title=title, table=tables[-1].name, label="group", values=_kinds_of(wholes)))
    if best := _best(found):
        tables += [_best_table(best), _evaluation(best, many=len(names) > 1)]
        views.append(
            Bars(
                title="Evaluation scores of the best combination of every size", table="evaluation", label="group",
                values=("faithfulness", "completeness", "bias"),
            )
        )  # fmt: skip
    figures, meanings = _figures(wholes, best, many=len(names) > 1)
    return {
        "figures": figures,
        "meanings": meanings,
        "tables": tuple(tables),
        "views": tuple(views),
        "sets": tuple(_sets(opened, best, many=len(names) > 1)),
    }


def _wholes(wholes: Sequence[Whole]) -> Table:
    columns = (
        _PAIRS,
        _TO,
        Column("examples", "count", "Prompts that the means are over."),
        Column("m(M)", "signed", "The metric of the model as it is, in logits."),
        Column("m(∅)", "signed", "The metric with every feature ablated, in logits."),
    )
    rows = [(one.pairs, one.to, one.examples, one.model, one.empty) for one in wholes]
    return table("whole", "The model and nothing", columns, rows)


def _scores(by: By, found: Sequence[Measured]) -> Table:
    kind: ColumnKind = "feature" if by == "one" else "text"
    rows = [
        (m.whole.pairs, m.group.name, m.whole.to, len(m.group.features), *_cells(m))
        for m in sorted(found, key=lambda m: (m.whole.pairs, m.group.of))
    ]
    return cut_table(by, _TITLES[by], (_PAIRS, Column("group", kind), _TO, _FEATURES, *_SCORES), rows)


def _cells(m: Measured) -> tuple[float | None, ...]:
    return m.kept, m.rest, m.faithfulness, m.completeness, m.bias


def _kinds_of(wholes: Sequence[Whole]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.to for one in wholes))


def _side_by_side(by: By, found: Sequence[Measured], wholes: Sequence[Whole], *, many: bool) -> Table:
    """Bias scores with the kinds of ablation beside one another, as bars need them."""
    kinds = _kinds_of(wholes)
    scores: dict[str, dict[str, float | None]] = {}
    for m in found:
        scores.setdefault(_label(m.whole.pairs, m.group.name, many=many), {})[m.whole.to] = m.bias
    kind: ColumnKind = "feature" if by == "one" and not many else "text"
    columns = (Column("group", kind), *(Column(to, "number", f"Bias score, ablated to {to}.") for to in kinds))
    rows = [(label, *(cells.get(to) for to in kinds)) for label, cells in scores.items()]
    return cut_table(f"bias-{by}", f"Bias scores: {_TITLES[by]}", columns, rows)


def _label(pairs: str, name: str, *, many: bool) -> str:
    return f"{pairs}: {name}" if many else name


# --- which combination is best ----------------------------------------------------------------------------------------


def _best(found: Sequence[Measured]) -> list[Measured]:
    """Of every data set, kind of ablation and size, the one of the largest bias score; single features too."""
    best: dict[tuple[str, To, int], Measured] = {}
    candidates = [m for m in found if m.group.by in {"one", "combinations"} and m.bias is not None]
    if not any(m.group.by == "combinations" for m in candidates):
        return []
    for m in candidates:
        key = (m.whole.pairs, m.whole.to, len(m.group.features))
        if key not in best or (m.bias or 0.0) > (best[key].bias or 0.0):
            best[key] = m
    return [best[key] for key in sorted(best, key=lambda key: (key[0], key[1] != "zero", key[2]))]


def _best_table(best: Sequence[Measured]) -> Table:
    columns = (
        _PAIRS, _TO, Column("size", "count", "How many features."),
        Column("combination", help="Of this size the one with the largest bias score."), *_SCORES,
    )  # fmt: skip
    rows = [(m.whole.pairs, m.whole.to, len(m.group.features), m.group.name, *_cells(m)) for m in best]
    return table("best", "Best combinations by bias score", columns, rows)


def _evaluation(best: Sequence[Measured], *, many: bool) -> Table:
    columns = (Column("group", help="How many features, and what the others become."), *_SCORES[2:])
    rows = [
        (_label(m.whole.pairs, f"best {len(m.group.features)}, {m.whole.to}", many=many), *_cells(m)[2:]) for m in best
    ]
    return table("evaluation", "Evaluation scores", columns, rows)


def _strongest(best: Sequence[Measured]) -> dict[tuple[str, To], Measured]:
    found: dict[tuple[str, To], Measured] = {}
    for m in best:
        key = (m.whole.pairs, m.whole.to)
        if key not in found or (m.bias or 0.0) > (found[key].bias or 0.0):
            found[key] = m
    return found


def _figures(
    wholes: Sequence[Whole], best: Sequence[Measured], *, many: bool
) -> tuple[dict[str, Cell], dict[str, str]]:
    figures: dict[str, Cell] = {}
    meanings: dict[str, str] = {}
    strongest = _strongest(best)

    def say(pairs: str, name: str, value: float | None, meaning: str) -> None:
        label = _label(pairs, name, many=many)
        figures[label], meanings[label] = plain_cell(value), meaning

    for one in wholes:
        say(one.pairs, "m(M)", one.model, "The metric of the model as it is, in logits.")
        say(one.pairs, f"m(∅), {one.to}", one.empty, f"The metric with every feature ablated ({one.to}), in logits.")
        if (m := strongest.get((one.pairs, one.to))) is not None:
            say(one.pairs, f"best bias score, {one.to}", m.bias, f"Of {m.group.name}.")
    return figures, meanings


def _sets(opened: OpenSet, best: Sequence[Measured], *, many: bool) -> list[FeatureSet]:
    return [
        set_of(
            opened, _label(pairs, f"best, {to}", many=many), m.group.features,
            f"The combination with the largest bias score, {plain_cell(m.bias)}, ablated to {to} over {pairs}.",
        )
        for (pairs, to), m in _strongest(best).items()
    ]  # fmt: skip
