"""Dictionary health as figures, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.results import FeatureRef
from engine.studies.health.state import State
from engine.studies.health.tally import Firing
from engine.studies.health.weights import Weights, rare_cosines
from engine.studies.parts import bin_columns, table
from engine.study_results import AnyView, Cell, Column, FeatureSet, Histogram, Scatter, SetMember, Table

LOG_FLOOR = 10**-6.5
"""Added to a frequency before its logarithm is taken, as in the 1L notebook: what never fires stands at −6.5."""
_MOST_ROWS = 20_000
_MOST_VIEWS = 6
_FREQUENCY_BIN = 0.25
_COSINE_BINS = 40


@dataclass
class Found:
    """All that is known of one dictionary; losses in nats per token, None where not measured (yet)."""

    firing: Firing
    weights: Weights
    threshold: float
    """Features that fire on a smaller share of tokens are rare."""
    plain: float | None
    spliced: float | None
    mean_ablated: float | None
    zero_ablated: float | None

    @classmethod
    def of(cls, firing: Firing, weights: Weights, threshold: float, state: State) -> Found:
        """What a state holds of a dictionary."""

        def loss(name: str) -> float | None:
            return state.losses[name][0] if name in state.losses else None

        source = firing.dictionary.source
        how = (loss(f"{source} {name}") for name in ("spliced", "mean-ablated", "zero-ablated"))
        return cls(firing, weights, threshold, loss("plain"), *how)

    @property
    def dictionary(self) -> Dictionary:
        return self.firing.dictionary

    @cached_property
    def frequency(self) -> Tensor:
        return self.firing.frequency

    @cached_property
    def dead(self) -> Tensor:
        """bool [d_sae]: never fired."""
        return self.frequency == 0

    @cached_property
    def rare(self) -> Tensor:
        """bool [d_sae]: fires on less than the threshold, dead ones too."""
        return self.frequency < self.threshold

    @cached_property
    def rare_cosine(self) -> Tensor | None:
        return rare_cosines(self.dictionary, self.rare)

    def score(self, ablated: float | None) -> float | None:
        """(ablated − reconstructed) / (ablated − plain)."""
        if ablated is None or self.spliced is None or self.plain is None or ablated == self.plain:
            return None
        return (ablated - self.spliced) / (ablated - self.plain)


# --- one row a dictionary ---------------------------------------------------------------------------------------------

_Value = Callable[[Found], "Cell"]


def _median(values: Tensor | None) -> float | None:
    return None if values is None or not len(values) else float(values.nanmedian())


def _mean(values: Tensor | None, where: Tensor) -> float | None:
    return None if values is None or not bool(where.any()) else float(values[where].mean())


_ROW: tuple[tuple[Column, _Value], ...] = (
    (Column("score", "number", "(zero-ablated − reconstructed) / (zero-ablated − plain) of the model's loss."),
     lambda f: f.score(f.zero_ablated)),
    (Column("plain loss", "number", "The model's loss, nats per token."), lambda f: f.plain),
    (Column("reconstructed", "number", "Loss with the reconstruction in place, nats per token."), lambda f: f.spliced),
    (Column("zero-ablated", "number", "Loss with zeros in place, nats per token."), lambda f: f.zero_ablated),
    (Column("mean-ablated", "number", "Loss with the mean of the text in place, nats per token."),
     lambda f: f.mean_ablated),
    (Column("score against mean", "number", "The score with the mean-ablated loss instead of the zero-ablated."),
     lambda f: f.score(f.mean_ablated)),
    (Column("explained variance", "number", "1 − Σ‖x−x̂‖² / Σ‖x−mean x‖² over counted tokens."),
     lambda f: f.firing.variance.explained),
    (Column("L0", "number", "Features active per counted token."), lambda f: f.firing.l0),
    (Column("features", "count", "How many there are."), lambda f: f.dictionary.d_sae),
    (Column("dead", "count", "Features that fired on no counted token."), lambda f: int(f.dead.sum())),
    (Column("rare", "count", "Features below the threshold of frequency, dead ones too."), lambda f: int(f.rare.sum())),
    (Column("median frequency", "share", "Median over features of the share of counted tokens on which one fires."),
     lambda f: _median(f.frequency)),
    (Column("rare alike", "signed", "Mean cosine of the rare features' encoder rows with the mean of those rows."),
     lambda f: _mean(f.rare_cosine, f.rare)),
    (Column("others alike", "signed", "Mean cosine of all other features' encoder rows with that same mean."),
     lambda f: _mean(f.rare_cosine, ~f.rare)),
    (Column("encoder–decoder", "signed", "Median cosine of a feature's encoder and decoder row."),
     lambda f: _median(f.weights.encoder_decoder)),
    (Column("tokens", "count", "Tokens that count: all but first ones and attention sinks."),
     lambda f: f.firing.counted),
)  # fmt: skip


def dictionaries_table(found: Sequence[Found]) -> Table:
    """A row for each dictionary."""
    columns = (Column("source", "source"), *(column for column, _ in _ROW))
    rows = ((f.dictionary.source, *(value(f) for _, value in _ROW)) for f in found)
    return table("dictionaries", "Dictionaries", columns, rows)


def figures_of(found: Sequence[Found], state: State) -> tuple[dict[str, Cell], dict[str, str]]:
    """The figures of a single dictionary, or sums over several, and what they mean."""
    figures: dict[str, Cell] = {}
    meanings: dict[str, str] = {}

    def say(name: str, value: Cell, meaning: str) -> None:
        figures[name] = float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value
        meanings[name] = meaning

    if len(found) == 1:
        for column, value in _ROW:
            cell = value(found[0])
            say(column.name, None if isinstance(cell, float) and not math.isfinite(cell) else cell, column.help)
    else:
        say("dictionaries", len(found), "How many there are; the table has a row for each.")
        say("features", sum(f.dictionary.d_sae for f in found), "Of all dictionaries.")
        say("dead", sum(int(f.dead.sum()) for f in found), "Features that fired on no counted token.")
        say("rare", sum(int(f.rare.sum()) for f in found), "Features below the threshold of frequency, dead ones too.")
        say("plain loss", found[0].plain, "The model's loss, nats per token.")
        scores = [score for f in found if (score := f.score(f.zero_ablated)) is not None]
        if scores:
            say(
                "lowest score",
                min(scores),
                "Of all dictionaries; (zero-ablated − reconstructed) / (zero-ablated − plain).",
            )
    say("tokens read", state.tokens, "All tokens of the text that was read.")
    if "plain" in state.losses:
        say("tokens for losses", state.losses["plain"][1], "Tokens predicted when losses were measured.")
    return figures, meanings


# --- histograms ---------------------------------------------------------------------------------------------------


def histogram_tables(found: Sequence[Found]) -> tuple[list[Table], list[AnyView]]:
    """Of log frequency, and of the cosine with the mean rare encoder row; the plots of the first few dictionaries."""
    sources = [f.dictionary.source for f in found]
    tables = [
        table(
            "frequencies",
            "Features by how often they fire",
            (
                *bin_columns("log10(frequency + 10^-6.5)"),
                *(
                    Column(source, "count", "Features of this dictionary; the dead ones stand at −6.5.")
                    for source in sources
                ),
            ),
            zip(*_binned([_log(f.frequency) for f in found], -6.5, 0.0, round(6.5 / _FREQUENCY_BIN)), strict=True),
        )
    ]
    views: list[AnyView] = [
        Histogram(
            title=f"Log frequency, {source}", table="frequencies", low="low", high="high", counts=(source,), log=True
        )
        for source in sources[:_MOST_VIEWS]
    ]
    if len(sources) > 1:
        views.insert(0, Histogram(title="Log frequency, all dictionaries", table="frequencies", low="low", high="high",
                                  counts=tuple(sources), log=True))  # fmt: skip
    cosines = [(f.dictionary.source, f.rare_cosine, f.rare) for f in found if f.rare_cosine is not None]
    if cosines:
        parts = [(f"{source} {name}", cosine[where]) for source, cosine, rare in cosines if cosine is not None
                 for name, where in (("rare", rare), ("others", ~rare))]  # fmt: skip
        tables.append(
            table(
                "rare-cosine",
                "Features by cosine of their encoder row with the mean rare one",
                (
                    *bin_columns("Cosine"),
                    *(Column(name, "count", "Features of this dictionary.") for name, _ in parts),
                ),
                zip(*_binned([values for _, values in parts], -1.0, 1.0, _COSINE_BINS), strict=True),
            )
        )
        views += [
            Histogram(title=f"Cosine with the mean rare encoder row, {source}", table="rare-cosine",
                      low="low", high="high", counts=(f"{source} rare", f"{source} others"), log=True)
            for source, *_ in cosines[:_MOST_VIEWS]
        ]  # fmt: skip
    return tables, views


def _log(frequency: Tensor) -> Tensor:
    return (frequency.double() + LOG_FLOOR).log10()


def _binned(groups: Sequence[Tensor], low: float, high: float, bins: int) -> Iterator[list[float] | list[int]]:
    """Lower edges, upper edges, then counts of each group; the ends take what lies beyond them by rounding."""
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    shown = [round(edge, 6) + 0.0 for edge in edges.tolist()]  # without −0
    yield shown[:-1]
    yield shown[1:]
    for values in groups:
        place = torch.bucketize(values.double(), edges, right=True) - 1
        yield torch.bincount(place.clamp(0, bins - 1), minlength=bins).int().tolist()


# --- features -----------------------------------------------------------------------------------------------------

_FEATURE = (
    Column("feature", "feature"),
    Column("group", "text", "dead: never fired; rare: below the threshold; other."),
    Column("frequency", "share", "Share of counted tokens on which it fires."),
    Column("log frequency", "number", "log10(frequency + 10^-6.5)."),
    Column("mean", "number", "Mean activation where it fires, by size where it has a sign."),
    Column("maximum", "number", "Largest activation, by size where it has a sign."),
    Column("rare cosine", "signed", "Cosine of its encoder row with the mean encoder row of rare features."),
    Column("encoder–decoder", "signed", "Cosine of its encoder and decoder row."),
    Column(
        "encoder kurtosis", "number", "Excess kurtosis of the entries of its encoder row; 0 for a normal distribution."
    ),
    Column("decoder kurtosis", "number", "The same of its decoder row."),
)


def feature_tables(found: Sequence[Found], top: int) -> tuple[list[Table], list[AnyView], list[FeatureSet]]:
    """Every feature, or evenly many of each dictionary; the most and the least frequent; and the latter as sets."""
    each = max(1, _MOST_ROWS // len(found))
    rows: list[tuple[object, ...]] = []
    ends: list[tuple[object, ...]] = []
    sets = []
    for f in found:
        width = f.dictionary.d_sae
        sampled = torch.arange(width) if width <= each else torch.arange(each) * width // each
        rows += _rows(f, sampled)
        order = f.frequency.argsort(descending=True, stable=True)
        fires = order[~f.dead[order]]
        rarest = fires.flip(0)[:top]
        ends += [("most frequent", *row) for row in _rows(f, fires[:top])]
        ends += [("rarest", *row) for row in _rows(f, rarest)]
        members = [(int(i), float(f.frequency[i])) for i in rarest if f.rare[i]]
        if members:
            source = f.dictionary.source
            sets.append(
                FeatureSet(
                    f"rare of {source}",
                    tuple(SetMember(FeatureRef(source, i), effect=share) for i, share in members),
                    f"The rarest features that fire at all, on less than {f.threshold:g} of tokens; by frequency.",
                )
            )
    total = sum(f.dictionary.d_sae for f in found)
    tables = [
        table("ends", "The most and the least frequent features", (Column("which"), *_FEATURE), ends),
        table("features", "Features" if len(rows) == total else "Features, evenly sampled", _FEATURE, rows,
              None if len(rows) == total else total),
    ]  # fmt: skip
    views: list[AnyView] = []
    for column, wanted in (("encoder–decoder", [f.weights.encoder_decoder for f in found]),
                           ("rare cosine", [f.rare_cosine for f in found]),
                           ("decoder kurtosis", [f.weights.decoder_kurtosis for f in found])):  # fmt: skip
        if any(values is not None for values in wanted):
            views.append(Scatter(title=f"Log frequency against {column}", table="features", x="log frequency", y=column,
                                 label="feature", group="group"))  # fmt: skip
    return tables, views, sets


def _rows(found: Found, which: Tensor) -> list[tuple[object, ...]]:
    source, weights = found.dictionary.source, found.weights
    groups = ["dead" if dead else "rare" if rare else "other"
              for dead, rare in zip(found.dead[which].tolist(), found.rare[which].tolist(), strict=True)]  # fmt: skip
    numbers = (
        found.frequency,
        _log(found.frequency),
        found.firing.mean,
        found.firing.maximum.cpu(),
        found.rare_cosine,
        weights.encoder_decoder,
        weights.encoder_kurtosis,
        weights.decoder_kurtosis,
    )
    columns = [[None] * len(which) if values is None else values[which].tolist() for values in numbers]
    names = [FeatureRef(source, index) for index in which.tolist()]
    return list(zip(names, groups, *columns, strict=True))
