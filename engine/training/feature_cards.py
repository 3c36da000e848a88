"""Feature cards from held-out text: two passes over it, one to find where each feature peaks, one to read around.

First tokens and attention sinks count nowhere. The ten contexts of a feature come from ten documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.cards import (
    AFTER,
    BEFORE,
    BINS,
    CONTEXTS,
    PROMOTED,
    WINDOW,
    Columns,
    quantise,
    write_cards,
    write_corpus,
)
from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.reading import SINK_FACTOR
from engine.training.corpus import Context, batches


@dataclass
class _Peaks:
    """Per feature its strongest tokens so far, one per document, as parallel arrays."""

    feature: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    document: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    position: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    value: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def add(self, feature: Tensor, document: NDArray[np.int32], position: NDArray[np.uint32], value: Tensor) -> None:
        """Merge candidates and keep the ten strongest per feature, each from another document."""
        features = np.concatenate([self.feature, feature.cpu().numpy().astype(np.int32)])
        documents = np.concatenate([self.document, document])
        positions = np.concatenate([self.position, position])
        values = np.concatenate([self.value, value.cpu().numpy()])
        order = np.lexsort((-values, documents, features))
        f, d = features[order], documents[order]
        best_of_document = np.ones(len(order), bool)
        best_of_document[1:] = (f[1:] != f[:-1]) | (d[1:] != d[:-1])
        order = order[best_of_document]
        order = order[np.lexsort((-values[order], features[order]))]
        f = features[order]
        order = order[np.arange(len(f)) - np.searchsorted(f, f) < CONTEXTS]
        self.feature, self.document = features[order], documents[order]
        self.position, self.value = positions[order], values[order]


@dataclass
class _Tally:
    """What is counted for one dictionary in the first pass."""

    dictionary: Dictionary
    fired: Tensor
    maximum: Tensor
    counted: int = 0
    peaks: _Peaks = field(default_factory=_Peaks)


def make_cards(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    contexts: list[Context],
    corpus_folder: Path,
    job: Job,
    rows: int = 16,
) -> None:
    """Write `cards.db` into every dictionary's folder and the text they share into `corpus_folder`."""
    starts = np.cumsum([0, *(len(c.ids) for c in contexts)])
    write_corpus(
        corpus_folder,
        np.concatenate([c.ids for c in contexts]).astype(np.uint32),
        [(int(s), c.source) for s, c in zip(starts, contexts, strict=False)],
    )
    device = model.device
    tallies = [
        _Tally(d, torch.zeros(d.d_sae, device=device), torch.zeros(d.d_sae, device=device)) for d in dictionaries
    ]
    for batch in _activations(model, dictionaries, contexts, rows, job, "finding peaks"):
        tally = tallies[batch.number]
        dense = batch.activations
        tally.counted += int(batch.counts.sum())
        row, feature = dense.nonzero(as_tuple=True)
        tally.fired += torch.bincount(feature, minlength=tally.dictionary.d_sae)
        tally.maximum = torch.maximum(tally.maximum, dense.amax(0))
        at = row.cpu().numpy()
        tally.peaks.add(feature, batch.documents[at], batch.positions[at], dense[row, feature])
    columns = [_empty(model, t) for t in tallies]
    for batch in _activations(model, dictionaries, contexts, rows, job, "reading contexts"):
        _fill(columns[batch.number], tallies[batch.number], batch)
    ids = np.concatenate([c.ids for c in contexts])
    for tally, column in zip(tallies, columns, strict=True):
        write_cards(tally.dictionary.folder, column, _peak_ids(column.peaks, ids), tally.counted)


def _peak_ids(peaks: NDArray[np.uint32], ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """[d_sae, 3] the commonest tokens at the peaks, the stronger peak first where equally common."""
    table = np.full((len(peaks), 3), Columns.NO_CONTEXT, np.uint32)
    for row, positions in zip(table, peaks, strict=True):
        tokens = ids[positions[positions != Columns.NO_CONTEXT]].tolist()
        common = [token for token, _ in Counter(tokens).most_common(3)]
        row[: len(common)] = common
    return table


@dataclass(frozen=True)
class _Batch:
    """The activations of one dictionary on several contexts, laid end to end."""

    number: int
    activations: Tensor
    """[tokens, d_sae], zero where the token does not count."""
    counts: Tensor
    positions: NDArray[np.uint32]
    """[tokens] in the corpus."""
    documents: NDArray[np.int32]
    context: NDArray[np.int32]
    """[tokens] which context of the batch."""


def _activations(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    contexts: list[Context],
    rows: int,
    job: Job,
    text: str,
) -> Iterator[_Batch]:
    position, done = 0, 0
    for ids, group in batches(contexts, rows):
        inputs = torch.from_numpy(ids).to(model.device, torch.long)
        caught = model.capture(inputs, {d.site for d in dictionaries}, job)
        lengths = [len(c.ids) for c in group]
        context = np.repeat(np.arange(len(group), dtype=np.int32), lengths)
        documents = np.array([c.document for c in group], np.int32)[context]
        positions = np.arange(position, position + len(context), dtype=np.uint32)
        inner = torch.cat([torch.arange(n) for n in lengths])
        for number, dictionary in enumerate(dictionaries):
            x = torch.cat([caught[dictionary.site][r, :n].reshape(n, -1) for r, n in enumerate(lengths)]).float()
            norms = x.norm(dim=1)
            counts = (inner > 0).to(x.device) & (norms <= SINK_FACTOR * norms.median())
            activations = dictionary.encode(x) * counts[:, None]
            yield _Batch(number, activations, counts, positions, documents, context)
        position += len(context)
        done += len(group)
        job.progress(text, done, len(contexts))


def _empty(model: LanguageModel, tally: _Tally) -> Columns:
    """Columns with everything but windows and histograms filled in."""
    size = tally.dictionary.d_sae
    peaks = np.full((size, CONTEXTS), Columns.NO_CONTEXT, np.uint32)
    strength = np.zeros((size, CONTEXTS), np.uint8)
    found = tally.peaks
    rank = np.arange(len(found.feature)) - np.searchsorted(found.feature, found.feature)
    maximum = tally.maximum.cpu().numpy()
    peaks[found.feature, rank] = found.position
    strength[found.feature, rank] = np.round(255 * found.value / maximum[found.feature])
    promoted, effect = _logit_effects(model, tally.dictionary)
    return Columns(
        density=(tally.fired / tally.counted).cpu().numpy(),
        maximum=maximum,
        histogram=np.zeros((size, BINS), np.uint32),
        peaks=peaks,
        strength=strength,
        window=np.zeros((size, CONTEXTS, WINDOW), np.uint8),
        promoted=promoted,
        effect=effect,
    )


def _fill(columns: Columns, tally: _Tally, batch: _Batch) -> None:
    """Add a batch's activations to the histograms and to the windows whose peaks lie in it."""
    dense = batch.activations
    row, feature = dense.nonzero(as_tuple=True)
    share = dense[row, feature] / tally.maximum[feature]
    bins = (share * BINS).long().clamp(max=BINS - 1)
    flat = torch.bincount(feature * BINS + bins, minlength=tally.dictionary.d_sae * BINS)
    columns.histogram += flat.reshape(-1, BINS).cpu().numpy().astype(np.uint32)
    first, last = int(batch.positions[0]), int(batch.positions[-1])
    features, slots = np.nonzero((columns.peaks >= first) & (columns.peaks <= last))
    if not len(features):
        return
    peak = columns.peaks[features, slots].astype(np.int64) - first
    window = peak[:, None] + np.arange(-BEFORE, AFTER + 1)
    inside = (window >= 0) & (window < len(batch.context))
    window = window.clip(0, len(batch.context) - 1)
    inside &= batch.context[window] == batch.context[peak][:, None]
    values = dense[torch.from_numpy(window), torch.from_numpy(features)[:, None]].cpu().numpy()
    shares = np.where(inside, values / tally.maximum.cpu().numpy()[features][:, None], 0)
    columns.window[features, slots] = quantise(shares.astype(np.float32))


def _logit_effects(model: LanguageModel, dictionary: Dictionary) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
    """W_dec · W_U: per feature the ten most raised and the ten most lowered tokens, [d_sae, 20] each."""
    size = dictionary.d_sae
    ids, effects = np.zeros((size, 2 * PROMOTED), np.uint32), np.zeros((size, 2 * PROMOTED), np.float16)
    if dictionary.decoder.shape[1] != model.d_model:
        return ids, effects
    unembedding = model.unembedding.float()
    for start in range(0, size, 256):
        part = slice(start, start + 256)
        logits = dictionary.decoder[part] @ unembedding.T
        for offset, largest in ((0, True), (PROMOTED, False)):
            top = logits.topk(PROMOTED, dim=1, largest=largest)
            ids[part, offset : offset + PROMOTED] = top.indices.cpu().numpy()
            effects[part, offset : offset + PROMOTED] = top.values.cpu().numpy()
    return ids, effects
