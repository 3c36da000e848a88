"""Specificity and sensitivity: activation against a log-likelihood proxy, and over sentences of several categories."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from engine.corpus.reading import Batch, read_batches
from engine.corpus.text import contexts_of, documents_of, name_of_text
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.studies.categories import sentences
from engine.studies.measure import Growing
from engine.studies.parts import features_of, pieces_of, result_of, table
from engine.studies.proxies import Kind, kind_of
from engine.studies.specificity.sensitivity import most_sensitive
from engine.study_results import AnyView, Bars, Column, Curve, Heat, Histogram, StudyResult, Table
from engine.study_settings.specificity import Specificity
from engine.training.corpus import Context, Document

_FEW = 30
"""Below so many tokens of a kind its figures are shaky."""


def measure(opened: OpenSet, settings: Specificity, growing: Growing) -> StudyResult:
    """Pearson correlation of activation and proxy, the activation on and off the kind, and by category.

    First tokens and attention sinks do not count. Activations are f; proxies are in nats.
    """
    named = features_of(opened, settings.features) if settings.features else []
    kind = kind_of(settings.kind)
    categories = sentences(settings.categories)
    documents = documents_of(settings.text)
    if not settings.text:
        own = (Document(name, "\n".join(lines)) for name, lines in categories.items())
        documents = itertools.chain(own, documents)
    contexts = list(contexts_of(opened, documents, settings.context, settings.tokens))
    if not contexts:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")
    pieces = [pieces_of(opened, context.ids.tolist()) for context in contexts]
    kind.learn(pieces)
    refs = named or most_sensitive(opened, settings, contexts, list(map(kind.proxy, pieces)), growing)
    tallies = {ref: _Tally() for ref in refs}
    by_category = _by_category(opened, refs, categories, growing)
    done = 0
    for batch in read_batches(opened.model, opened.choose(_sources(refs)), contexts, growing.job):
        part = pieces[batch.start : batch.start + len(batch.contexts)]
        proxies = np.concatenate([kind.proxy(context) for context in part])
        for ref, tally in tallies.items():
            counts, values = _on_tokens(batch, ref)
            tally.add(values[counts], proxies[counts])
        done += len(batch.contexts)
        growing.progress("reading text", done, len(contexts))
        growing.rest()
        if growing.is_due:
            growing.grown(_result(opened, settings, kind, tallies, by_category))
    return _result(opened, settings, kind, tallies, by_category)


@dataclass
class _Tally:
    """Activations and proxies of one feature on every token that counts."""

    activations: list[NDArray[np.float64]] = field(default_factory=list)
    proxies: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, activations: NDArray[np.float64], proxies: NDArray[np.float64]) -> None:
        self.activations.append(activations)
        self.proxies.append(proxies)

    def both(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.concatenate(self.activations), np.concatenate(self.proxies)


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN where one of them does not vary."""
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _sources(refs: Sequence[FeatureRef]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ref.source for ref in refs))


def _on_tokens(batch: Batch, ref: FeatureRef) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which tokens of a batch count, and one feature's activation on all of them, [n] each."""
    read = batch.reads[ref.source]
    values = torch.zeros(len(read.x), dtype=torch.float64)
    mine = read.entries.features == ref.index
    values[read.entries.rows[mine].cpu()] = read.entries.values[mine].double().cpu()
    return read.counts.cpu().numpy(), values.numpy()


# --- categories -------------------------------------------------------------------------------------------------------


@dataclass
class _OnCategory:
    values: list[NDArray[np.float64]] = field(default_factory=list)
    fired: int = 0
    """Sentences with a token it fires on."""
    sentences: int = 0


def _by_category(
    opened: OpenSet, refs: Sequence[FeatureRef], categories: Mapping[str, tuple[str, ...]], growing: Growing
) -> dict[tuple[FeatureRef, str], _OnCategory]:
    """Every feature on every sentence, each read by itself."""
    found: defaultdict[tuple[FeatureRef, str], _OnCategory] = defaultdict(_OnCategory)
    contexts = [
        Context(name, number, np.array(opened.ids(line, False)[: opened.model.context], dtype=np.int32))
        for name, lines in categories.items()
        for number, line in enumerate(lines)
    ]
    done = 0
    for batch in read_batches(opened.model, opened.choose(_sources(refs)), contexts, growing.job):
        for ref in refs:
            counts, values = _on_tokens(batch, ref)
            for number, context in enumerate(batch.contexts):
                mine = values[(batch.context == number) & counts]
                entry = found[ref, context.source]
                entry.values.append(mine)
                entry.fired += bool((mine > 0).any())
                entry.sentences += 1
        done += len(batch.contexts)
        growing.progress("reading sentences", done, len(contexts))
        growing.rest()
    return dict(found)


# --- the result -------------------------------------------------------------------------------------------------------


def _result(
    opened: OpenSet,
    settings: Specificity,
    kind: Kind,
    tallies: Mapping[FeatureRef, _Tally],
    by_category: Mapping[tuple[FeatureRef, str], _OnCategory],
) -> StudyResult:
    figures = {ref: _figures(kind, *tally.both()) for ref, tally in tallies.items()}
    tokens, of_kind = next(iter(figures.values()))[:2]
    tables = [_feature_table(kind, figures), _category_table(by_category)]
    views: list[AnyView] = [
        Heat(title="Mean activation by category", table="categories", row="category", column="feature", value="mean"),
    ]
    if len(tallies) > 1:
        views.insert(0, Bars(title="Sensitivity", table="features", label="feature", values=("sensitivity",)))
    for number, (ref, tally) in enumerate(tallies.items()):
        name = "intervals" if len(tallies) == 1 else f"intervals_{number + 1}"
        tables.append(_interval_table(name, ref, kind, *tally.both(), settings.intervals))
        groups = kind.groups
        views += [
            Histogram(
                title=f"{ref}: tokens by activation", table=name, low="low", high="high", counts=groups, log=True
            ),
            Curve(
                title=f"{ref}: expected value (share of tokens × activation)", table=name, x="low",
                y=tuple(f"expected {group}" for group in groups),
            ),
        ]  # fmt: skip
    notes = [
        f"The text ({_text_name(settings)}) has {tokens:,} tokens that count, {of_kind:,} of them of the kind.",
        "First tokens and attention sinks do not count.",
    ]
    if not settings.features:
        notes.append("The features were chosen by their sensitivity on this text; on another it will be lower.")
    if of_kind < _FEW:
        notes.append(f"So few tokens of the kind {kind.name} say little; give text that holds more (--text).")
    first = next(iter(figures.values()))
    own = {} if len(figures) > 1 else dict(zip(_FIGURES, first[2:], strict=True))
    return result_of(
        opened,
        opened.choose(_sources(list(tallies))),
        settings,
        f"Specificity of {', '.join(map(str, list(tallies)[:3]))}{' …' if len(tallies) > 3 else ''} for {kind.name}",
        figures={"tokens": tokens, "of_kind": of_kind, **{k: _rounded(v) for k, v in own.items()}},
        meanings={"tokens": "Tokens that count.", "of_kind": "Tokens of the kind (of the last group)", **_FIGURES},
        tables=tuple(tables),
        views=tuple(views),
        notes=tuple(notes),
    )


_FIGURES = {
    "sensitivity": "Pearson's correlation of activation and proxy over all tokens.",
    "firing_of_kind": "Share of the kind among the tokens the feature fires on.",
    "strong_of_kind": "The same where it fires with more than half its maximum.",
    "activation_of_kind": "Share of all its activation that is on the kind.",
    "kind_fired_on": "Share of the kind's tokens that it fires on.",
    "density": "Share of all tokens that it fires on.",
    "maximum": "Its largest activation in the text.",
}


def _figures(kind: Kind, activations: NDArray[np.float64], proxies: NDArray[np.float64]) -> tuple[float, ...]:
    """Tokens, those of the kind, and then as `_FIGURES` says."""
    of_kind = kind.group(proxies) == len(kind.groups) - 1
    fires = activations > 0
    maximum = float(activations.max(initial=0.0))
    strong = activations > maximum / 2
    return (
        len(activations),
        int(of_kind.sum()),
        pearson(activations, proxies),
        _share(of_kind, fires),
        _share(of_kind, strong) if maximum else math.nan,
        float(activations[of_kind].sum() / activations.sum()) if activations.sum() else math.nan,
        _share(fires, of_kind),
        float(fires.mean()),
        maximum,
    )


def _share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(what[among].mean()) if among.any() else math.nan


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _feature_table(kind: Kind, figures: Mapping[FeatureRef, tuple[float, ...]]) -> Table:
    columns = [
        Column("feature", "feature"),
        *(
            Column(name, "signed" if name == "sensitivity" else "number" if name == "maximum" else "share", help=text)
            for name, text in _FIGURES.items()
        ),
    ]
    return table("features", f"For {kind.name}", columns, ((ref, *found[2:]) for ref, found in figures.items()))


def _category_table(by_category: Mapping[tuple[FeatureRef, str], _OnCategory]) -> Table:
    columns = (
        Column("feature", "feature"),
        Column("category"),
        Column("mean", "number", "Mean activation over the tokens of its sentences."),
        Column("maximum", "number"),
        Column("fires", "share", "Share of tokens on which it fires."),
        Column("sentences", "share", "Share of sentences in which it fires."),
        Column("tokens", "count"),
    )
    return table(
        "categories", "On sentences of several categories, each read by itself", columns, _category_rows(by_category)
    )


def _category_rows(by_category: Mapping[tuple[FeatureRef, str], _OnCategory]) -> Iterator[tuple[object, ...]]:
    order = list(dict.fromkeys(ref for ref, _ in by_category))
    for (ref, name), entry in sorted(by_category.items(), key=lambda item: order.index(item[0][0])):
        values = np.concatenate(entry.values)
        some = len(values) > 0
        yield (
            ref,
            name,
            values.mean() if some else None,
            values.max(initial=0.0),
            (values > 0).mean() if some else None,
            entry.fired / entry.sentences,
            len(values),
        )


def _interval_table(
    name: str, ref: FeatureRef, kind: Kind, activations: NDArray[np.float64], proxies: NDArray[np.float64], count: int
) -> Table:
    """Tokens the feature fires on, in equal intervals of activation, by group, and their part of the expected value."""
    groups = kind.group(proxies)
    maximum = activations.max(initial=0.0) or 1.0
    place = np.minimum((activations / maximum * count).astype(np.int64), count - 1)
    rows = []
    for number in range(count):
        here = (place == number) & (activations > 0)
        counts = [int((here & (groups == g)).sum()) for g in range(len(kind.groups))]
        expected = [float(activations[here & (groups == g)].sum() / len(activations)) for g in range(len(kind.groups))]
        rows.append((number * maximum / count, (number + 1) * maximum / count, *counts, *expected))
    columns = (
        Column("low", "number", "Activation from …"),
        Column("high", "number", "… to."),
        *(Column(group, "count", _GROUP_HELP.format(group)) for group in kind.groups),
        *(Column(f"expected {g}", "number", "Its part of the mean activation of a token.") for g in kind.groups),
    )
    return table(name, f"{ref} by activation", columns, rows)


_GROUP_HELP = "Tokens it fires on whose group is {}: for base64 and dna by the proxy in nats."


def _text_name(settings: Specificity) -> str:
    return name_of_text(settings.text) + ("" if settings.text else " and the sentences of the categories")
