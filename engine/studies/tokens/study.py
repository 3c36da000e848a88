"""The token table of the 1L notebook: where a feature is strongest, in words, and on which tokens it fires at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.corpus.blocks import CONTEXTS_AHEAD, ahead
from engine.corpus.index import Index, open_index
from engine.corpus.reading import Batch, Read, read_batches
from engine.corpus.text import LeftOut, contexts_of, documents_of, name_of_text
from engine.errors import BadRequest
from engine.opening import OpenSet, bos_option
from engine.results import FeatureRef
from engine.studies.measure import Growing
from engine.studies.parts import features_of, plain_cell, result_of, table
from engine.study_results import Bars, Cell, Column, StudyResult, Table
from engine.study_settings.tokens import TokenTable

BEFORE, AFTER = 5, 1
"""Tokens shown around each, as in the notebook."""

_NOT_COUNTED = "First tokens of contexts and attention sinks (norm over four medians) do not count."
_PLACES = (
    Column("feature", "feature"),
    Column("rank", "count"),
    Column("before", "token", "The five tokens before it, as far as the model saw them."),
    Column("token", "token"),
    Column("after", "token", "The token after it, as far as the model saw one."),
    Column("activation", "number", "The feature's activation there."),
    Column("share of maximum", "share", "The same as a share of the strongest in this table."),
    Column("source", "text", "What the text calls itself."),
    Column("document", "count", "Its number in reading order, from 0."),
)


@dataclass(frozen=True)
class Peak:
    """A token on which a feature fires, with the tokens around it."""

    value: float
    before: tuple[int, ...]
    token: int
    after: tuple[int, ...]
    origin: str
    document: int


@dataclass
class Firings:
    """What is known so far of one feature.

    Attributes:
        occurrences, fired, total: of every token id, [V]: how often it counted, how often the feature fired on it, and
            the sum of its activations, by size where they have a sign.
    """

    ref: FeatureRef
    occurrences: NDArray[np.int64]
    fired: NDArray[np.int64]
    total: NDArray[np.float64]
    maximum: NDArray[np.float64]
    peaks: list[Peak] = field(default_factory=list)

    @classmethod
    def none(cls, ref: FeatureRef, vocabulary: int) -> Firings:
        seen, fired = np.zeros(vocabulary, np.int64), np.zeros(vocabulary, np.int64)
        return cls(ref, seen, fired, np.zeros(vocabulary), np.zeros(vocabulary))

    @property
    def frequency(self) -> float | None:
        """On which share of the tokens that counted it fired; None where none did."""
        counted = int(self.occurrences.sum())
        return int(self.fired.sum()) / counted if counted else None

    def add(self, batch: Batch, read: Read, top: int) -> None:
        """Take a batch; of places, the `top` strongest so far are kept, the earlier where two are equal."""
        here = read.entries.features == self.ref.index
        rows, values = read.entries.rows[here].cpu().numpy(), read.entries.values[here].double().cpu().numpy()
        ids = batch.ids[rows]
        self.occurrences += np.bincount(batch.ids[read.counts.cpu().numpy()], minlength=len(self.occurrences))
        self.fired += np.bincount(ids, minlength=len(self.fired))
        np.add.at(self.total, ids, np.abs(values))
        np.maximum.at(self.maximum, ids, np.abs(values))
        least = abs(self.peaks[-1].value) if len(self.peaks) == top else 0.0
        for place in np.argsort(-np.abs(values), kind="stable")[:top]:
            if abs(values[place]) > least:
                self.peaks.append(_peak(batch, int(rows[place]), float(values[place])))
        self.peaks.sort(key=lambda peak: -abs(peak.value))
        del self.peaks[top:]


def measure(opened: OpenSet, settings: TokenTable, growing: Growing) -> StudyResult:
    """The strongest tokens of every feature named, from text or from a corpus index.

    Raises:
        BadRequest: a feature is not open, the text cannot be read, or the index is not of these dictionaries.
    """
    refs = features_of(opened, settings.features)
    if settings.index is not None:
        if settings.text:
            raise BadRequest("An index was named, and text too.", "Give --index or --text.")
        return _from_index(opened, settings, refs, open_index(Path(settings.index).expanduser()))
    dictionaries = opened.choose(tuple({ref.source for ref in refs}))
    found = [Firings.none(ref, opened.model.unembedding.shape[0]) for ref in refs]
    left_out = LeftOut()
    stream = ahead(
        contexts_of(opened, documents_of(settings.text), settings.context, settings.tokens, left_out),
        growing.job, CONTEXTS_AHEAD,
    )  # fmt: skip
    done = 0
    for batch in read_batches(opened.model, dictionaries, stream, growing.job):
        for firings in found:
            firings.add(batch, batch.reads[firings.ref.source], settings.top)
        done += len(batch.ids)
        growing.rest()
        growing.progress("reading text", done, settings.tokens)
        if growing.is_due:
            growing.grown(_result(opened, settings, found, done, left_out))
    if not done:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")
    return _result(opened, settings, found, done, left_out)


def _peak(batch: Batch, row: int, value: float) -> Peak:
    context = batch.contexts[int(batch.context[row])]
    return _cut(value, context.ids.tolist(), int(batch.inner[row]), context.source, context.document)


def _cut(value: float, ids: Sequence[int], peak: int, origin: str, document: int) -> Peak:
    before, after = ids[max(0, peak - BEFORE) : peak], ids[peak + 1 : peak + 1 + AFTER]
    return Peak(value, tuple(before), ids[peak], tuple(after), origin, document)


# --- from text --------------------------------------------------------------------------------------------------------


def _result(
    opened: OpenSet, settings: TokenTable, found: Sequence[Firings], done: int, left_out: LeftOut
) -> StudyResult:
    extremes = {f.ref: (f.frequency, f.peaks[0].value if f.peaks else None) for f in found}
    figures, meanings = _figures(done, "that was read", extremes, "Its strongest activation.")
    rows: list[tuple[object, ...]] = []
    total = 0
    for firings in found:
        own = _distinct(opened, firings)
        total += len(own)
        rows += own[: settings.top]
    columns = (
        Column("feature", "feature"),
        Column("token", "token"),
        Column("id", "count", "The token's id."),
        Column("mean activation", "number", "Mean over all its occurrences, by size, zero where it does not fire."),
        Column("share that fires", "share", "Share of its occurrences on which the feature fires."),
        Column("occurrences", "count", "How often it counted."),
        Column("share of firing", "share", "Of all tokens on which the feature fires, those that are this one."),
        Column("maximum", "number", "Largest activation on it, by size."),
    )
    distinct = table(
        "distinct", "Distinct tokens, by mean activation", columns, rows, total if total > len(rows) else None
    )
    notes = [_NOT_COUNTED]
    notes += filter(None, [left_out.note()])
    notes += [f"{f.ref} fired on no token of this text." for f in found if not f.peaks]
    if any(opened.dictionaries[f.ref.source].signed for f in found):
        notes.append("Activations that have a sign rank by their size.")
    return result_of(
        opened,
        opened.choose(tuple({f.ref.source for f in found})),
        settings,
        f"Tokens of {_named([f.ref for f in found])} in {name_of_text(settings.text)}",
        figures=figures,
        meanings=meanings,
        tables=(_places(opened, [(f.ref, f.peaks) for f in found]), distinct),
        views=(
            Bars(
                title="Mean activation of distinct tokens", table="distinct", label="token", values=("mean activation",)
            ),
            Bars(title="Share of occurrences that fire", table="distinct", label="token", values=("share that fires",)),
        ),
        notes=tuple(notes),
    )


def _distinct(opened: OpenSet, firings: Firings) -> list[tuple[object, ...]]:
    """A row for every token on which the feature fires, by mean activation."""
    ids = firings.fired.nonzero()[0]
    means = firings.total[ids] / firings.occurrences[ids]
    fired = firings.fired.sum()
    return [
        (
            firings.ref,
            opened.model.tokenizer.token(token).text,
            token,
            mean,
            firings.fired[token] / firings.occurrences[token],
            int(firings.occurrences[token]),
            firings.fired[token] / fired,
            firings.maximum[token],
        )
        for token, mean in ((int(ids[place]), means[place]) for place in np.argsort(-means, kind="stable"))
    ]


# --- from an index ----------------------------------------------------------------------------------------------------


def _from_index(opened: OpenSet, settings: TokenTable, refs: Sequence[FeatureRef], index: Index) -> StudyResult:
    """The same table from what an index has kept: its contexts come from different documents."""
    _check_same(opened, index)
    found = []
    extremes: dict[FeatureRef, tuple[float | None, float | None]] = {}
    for ref in refs:
        contexts = index.contexts(ref.source, ref.index)
        if index.manifest.dictionaries[ref.source].sha256 != opened.dictionaries[ref.source].sha256:
            raise BadRequest(f"The index in {index.folder} is of another {ref.source}.", "Open that one, or read text.")
        found.append((ref, [_cut(c.value, c.ids, c.peak, c.origin, c.document) for c in contexts[: settings.top]]))
        extremes[ref] = index.density(ref.source)[ref.index], index.maximum(ref.source)[ref.index]
    figures, meanings = _figures(index.progress.tokens, "of the index", extremes, "Its largest activation, by size.")
    return result_of(
        opened,
        opened.choose(tuple({ref.source for ref in refs})),
        settings,
        f"Tokens of {_named(refs)} in the index {index.folder.name}",
        figures=figures,
        meanings=meanings,
        tables=(_places(opened, found),),
        notes=(
            *_unfinished(index),
            f"The index keeps {index.manifest.contexts} contexts of a feature, each from another document; read text "
            "for all places and for distinct tokens.",
            _NOT_COUNTED,
        ),
    )


def _check_same(opened: OpenSet, index: Index) -> None:
    """Raises BadRequest: activations in the index are other ones than those of what is open."""
    manifest, info = index.manifest, opened.info()
    if manifest.model_sha256 != opened.sha256:
        raise BadRequest(f"The index in {index.folder} is of another model.", "Open that model, or read text.")
    for same, what, remedy in (
        (manifest.folded == opened.folded, f"{'with' if manifest.folded else 'without'} --fold",
         "Add --fold" if manifest.folded else "Leave out --fold"),
        (manifest.dtype == info.dtype, f"in {manifest.dtype}", f"Add --dtype {manifest.dtype}"),
        (manifest.bos == info.bos, f"with BOS {manifest.bos}", f"Add --bos {bos_option(manifest.bos)}"),
    ):  # fmt: skip
        if not same:
            raise BadRequest(f"The index in {index.folder} was made {what}.", f"{remedy}, or read text.")


def _unfinished(index: Index) -> Iterator[str]:
    progress = index.progress
    if not progress.finished:
        yield (
            f"The index is not finished: it has read {progress.tokens:,} tokens so far. `saescope study index` goes on."
        )


# --- both -------------------------------------------------------------------------------------------------------------


def _figures(
    tokens: int, text: str, found: Mapping[FeatureRef, tuple[float | None, float | None]], maximum: str
) -> tuple[dict[str, Cell], dict[str, str]]:
    """The tokens of a text; of each feature how often it fires and its maximum; and what all of these are."""
    figures: dict[str, Cell] = {"tokens read": tokens}
    meanings = {"tokens read": f"All tokens of the text {text}."}
    for ref, (frequency, largest) in found.items():
        prefix = f"{ref} " if len(found) > 1 else ""
        figures[f"{prefix}frequency"] = plain_cell(frequency)
        meanings[f"{prefix}frequency"] = "Share of counted tokens on which it fires."
        figures[f"{prefix}maximum"] = plain_cell(largest)
        meanings[f"{prefix}maximum"] = maximum
    return figures, meanings


def _places(opened: OpenSet, found: Sequence[tuple[FeatureRef, Sequence[Peak]]]) -> Table:
    tokenizer = opened.model.tokenizer
    rows = [
        (
            ref,
            rank,
            tokenizer.text(list(peak.before)),
            tokenizer.token(peak.token).text,
            "".join(tokenizer.token(token).text for token in peak.after),
            peak.value,
            abs(peak.value) / abs(peaks[0].value),
            peak.origin,
            peak.document,
        )
        for ref, peaks in found
        for rank, peak in enumerate(peaks, 1)
    ]
    return table("tokens", "Strongest tokens, with the five before and the one after", _PLACES, rows)


def _named(refs: Sequence[FeatureRef]) -> str:
    return ", ".join(map(str, refs[:3])) + (" …" if len(refs) > 3 else "")
