"""The tables and plots of random walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.studies.cutting import cut_table
from engine.studies.parts import plain_cell, result_of, table
from engine.studies.projections import pca
from engine.studies.walk.reading import FIGURES
from engine.study_results import Cell, Column, Curve, Scatter, StudyResult, Table
from engine.study_settings.walk import Walk
from engine.text import quoted

_POINTS = 1000
"""Drawn at most, all kinds of walks together."""
_NAMES = ("step length", "feature length", *FIGURES, "kl", "loss", "same")
"""Columns of `Walked.figures`."""
_MEASURES = (
    Column("step length", "number", "Of this step, in activation space."),
    Column("feature length", "number", "Of this step, in the space of the features."),
    Column("distance", "number", "From the start, in activation space."),
    Column("feature distance", "number", "From the start, of the walked features; of those read, in activation space."),
    Column("cosine", "signed", "Of the activation with that at the start."),
    Column("feature cosine", "signed", "Of the features read there with those at the start."),
    Column("kept", "share", "Of the features active at the start, where any are, those still active."),
    Column("l0", "number", "Features read as active."),
    Column("mse", "number", "Mean squared error of encoding and decoding the point again, per number."),
    Column(
        "unexplained", "number", "What the dictionary does not explain of the point, as a share of its squared norm."
    ),
    Column("kl", "number", "KL(plain ‖ walked) of the next token, in nats."),
    Column("loss", "number", "−log p of the token that the plain model finds likeliest, in nats."),
    Column("same", "share", "Of the walks, those after which that token is still the likeliest."),
)


@dataclass(frozen=True)
class Walked:
    """One step of all W walks of a kind; of the D walks that are drawn more is kept.

    Attributes:
        mean: of the figures of all walks, [13].
        figures: of those drawn, [D, 13].
        points: where those are less the start, mean over P: [D, d]; None at steps that are not drawn.
    """

    way: str
    step: int
    mean: Tensor
    figures: Tensor
    points: Tensor | None


@dataclass(frozen=True)
class Drawn:
    """What is drawn of all walks: so many of each kind, at these steps."""

    walks: int
    steps: frozenset[int]


def drawn_of(ways: int, steps: int, walks: int) -> Drawn:
    """At most `_POINTS` points: fewer walks, and of one walk still too long only some steps, its ends among them."""
    each = max(2, _POINTS // ways)
    if steps + 1 <= each:
        return Drawn(min(walks, each // (steps + 1)), frozenset(range(steps + 1)))
    return Drawn(1, frozenset(round(steps * n / (each - 1)) for n in range(each)))


@dataclass(frozen=True)
class Text:
    """What the model continues with after a step of the first walk; `figures` [13] are that step's."""

    way: str
    step: int
    figures: Tensor
    text: str


@dataclass
class Found:
    """What a study of walks has found so far.

    Attributes:
        tokens: the walked ones.
        sink: the walked token is an attention sink.
        norm, active: mean norm of the activations at the start, and how many features are active there.
        likeliest: the plain model's next token.
    """

    prompt: str
    tokens: tuple[str, ...]
    sink: bool
    norm: float
    active: float
    likeliest: str
    ways: Sequence[str]
    notes: Sequence[str]
    drawn: Drawn
    walked: list[Walked] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def result(opened: OpenSet, dictionary: Dictionary, settings: Walk, found: Found) -> StudyResult:
    """All that was found so far as a result."""
    points, shares = _points(found, settings.walks)
    tables = (
        _steps(found),
        table(
            "texts",
            "What the model says on the way: the first walk of each kind",
            (
                Column("way"), Column("step", "count"), _column("distance"), _column("cosine"), _column("kl"),
                Column("text", help="The continuation, the likeliest token each time."),
            ),
            [
                (t.way, t.step, *(_figure(t.figures, name) for name in ("distance", "cosine", "kl")), t.text)
                for t in found.texts
            ],
        ),
        points,
    )  # fmt: skip
    views = (
        Curve(title="KL of the next token", table="steps", x="step", y=("kl",), series="way"),
        Curve(title="Cosine with the start", table="steps", x="step", y=("cosine",), series="way"),
        Curve(title="Reconstruction error", table="steps", x="step", y=("mse",), series="way"),
        Curve(title="Active features kept", table="steps", x="step", y=("kept",), series="way"),
        Scatter(title="Walks, by PCA", table="points", x="x", y="y", group="way", path="walk"),
    )
    figures, meanings = _figures(found, shares)
    return result_of(
        opened,
        [dictionary],
        settings,
        f"Random walks in {dictionary.source} from {quoted(found.prompt)}",
        figures=figures,
        meanings=meanings,
        tables=tables,
        views=views,
        notes=tuple(_notes(dictionary, settings, found)),
    )


def _column(name: str) -> Column:
    return next(column for column in _MEASURES if column.name == name)


def _figure(figures: Tensor, name: str) -> float:
    return float(figures[_NAMES.index(name)])


def _steps(found: Found) -> Table:
    rows = [(w.way, w.step, *w.mean.tolist()) for w in found.walked]
    columns = (Column("way"), Column("step", "count"), *map(_column, _NAMES))
    return table("steps", "Along the way: means over the walks of each kind", columns, rows)


def _points(found: Found, walks: int) -> tuple[Table, tuple[float, ...]]:
    """Where the walks go, in the plane that shows most of it; only the first walks where there are many."""
    columns = (
        Column("walk"), Column("way"), Column("step", "count"), Column("x", "signed"), Column("y", "signed"),
        _column("distance"), _column("cosine"), _column("mse"), _column("kl"),
    )  # fmt: skip
    title = "Where the walks go: mean over the walked tokens, on the first two principal components"
    if not found.walked:
        return table("points", title, columns, []), ()
    order = [
        (w, walk, w.points[walk])
        for way in dict.fromkeys(w.way for w in found.walked)
        for walk in range(found.drawn.walks)
        for w in found.walked
        if w.way == way and w.points is not None
    ]
    map_ = pca(torch.stack([point for _, _, point in order]), 2)
    rows = [
        (f"{w.way} {walk + 1}", w.way, w.step, *place,
         *(_figure(w.figures[walk], name) for name in ("distance", "cosine", "mse", "kl")))
        for (w, walk, _), place in zip(order, map_.coordinates.tolist(), strict=True)
    ]  # fmt: skip
    return cut_table("points", title, columns, rows, len(found.walked) * walks), map_.explained


def _figures(found: Found, shares: Sequence[float]) -> tuple[dict[str, Cell], dict[str, str]]:
    """What is so after the last step that was taken, for each kind."""
    figures: dict[str, Cell] = {
        "norm at the start": plain_cell(found.norm),
        "features at the start": plain_cell(found.active),
    }
    meanings = {
        "norm at the start": "Mean norm of the activations at the walked tokens.",
        "features at the start": "Mean number of features active there.",
    }
    for last in {w.way: w for w in found.walked}.values():
        for name in ("cosine", "unexplained", "kl"):
            key = f"{name}, {last.way}"
            figures[key] = plain_cell(_figure(last.mean, name))
            meanings[key] = f"After {last.step} steps. {_column(name).help}"
    if shares:
        figures["variance drawn"] = plain_cell(sum(shares))
        meanings["variance drawn"] = "Share of the variance of all drawn points that the two axes show."
    return figures, meanings


def _notes(dictionary: Dictionary, settings: Walk, found: Found) -> list[str]:
    where = "the last token" if settings.positions == "last" else f"{len(found.tokens)} tokens, each by itself"
    unit = "activation" if settings.measured == "activations" else "feature"
    notes = [
        f"Walks go at {where}; a step's length is {settings.length:g} of the norm at the start in {unit} space, and in "
        "activation space always of that of the activations.",
        "What the dictionary does not explain is kept." if settings.errors == "keep"
        else "What the dictionary does not explain is left out, at the walked tokens; elsewhere nothing changes.",
        "Distances, cosines and errors are of the point that stands in the model, encoded again by the dictionary.",
    ]  # fmt: skip
    notes += found.notes
    if settings.positions == "all":
        notes.append("The first token and other attention sinks stay as they are.")
    if found.sink:
        notes.append("The walked token is an attention sink: its norm is far above that of other tokens.")
    if not dictionary.signed and set(found.ways) & {"plain", "sparse"}:
        turns = " A plain walk so turns more and more features on." if "plain" in found.ways else ""
        notes.append(
            f"Activations cannot be negative: they stop at zero, and the rest of the step is made longer.{turns}"
        )
    if not dictionary.signed and "decoder" in found.ways:
        notes.append("A step along a decoder row goes up where its feature would end below zero.")
    if dictionary.selects:
        notes.append(f"{dictionary.source} reads at most {dictionary.k} features at any point, however many were walked on.")  # fmt: skip  # noqa: E501
    return notes
