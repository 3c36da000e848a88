"""Feature cards from a part of a corpus index: what the text says of every feature, beside what the weights say.

First tokens and attention sinks count nowhere. The ten contexts of a feature come from ten documents. The text that is
kept is what stands around peaks, each stretch once for all features that share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cards import (
    BEFORE,
    BINS,
    CARDS,
    CONTEXTS,
    PROMOTED,
    WINDOW,
    Columns,
    quantise,
    write_cards,
    write_corpus,
)
from engine.corpus.part import IndexPart
from engine.corpus.reading import read_batches
from engine.corpus.tables import NO_DOCUMENT, FeatureTable, bin_edges
from engine.corpus.text import Stretch
from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.training.corpus import Context


def make_cards(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    contexts: list[Context],
    corpus_folder: Path,
    job: Job,
    rows: int = 16,
) -> None:
    """Write `cards.db` into every dictionary's folder and the text they share into `corpus_folder`."""
    part = IndexPart.empty(dictionaries, CONTEXTS, model.device)
    starts = np.cumsum([0, *(len(c.ids) for c in contexts)])
    placed = [Stretch(c.source, c.document, c.ids, int(s)) for s, c in zip(starts, contexts, strict=False)]
    for batch in read_batches(model, dictionaries, placed, job, rows):
        part.add(batch)
        job.progress("reading text for cards", part.contexts, len(contexts))
    write_cards_of(model, dictionaries, part, corpus_folder, job)


def write_cards_of(
    model: LanguageModel, dictionaries: Sequence[Dictionary], part: IndexPart, corpus_folder: Path, job: Job
) -> None:
    """Write the cards of dictionaries from what a part says of them, and the text they share into `corpus_folder`.

    Cards mean nothing beside other text, so old ones go first: at every moment there are right ones or none.

    Raises:
        Cancelled: everything is as it was.
    """
    kept = {d.source: _kept(part.tables[d.source]) for d in dictionaries}
    text = _Text.around(list(kept.values()), part.origins)
    made: list[Columns] = []
    for number, dictionary in enumerate(dictionaries):
        job.progress("making cards", number, len(dictionaries))
        made.append(_columns(model, dictionary, part.tables[dictionary.source], kept[dictionary.source], text))
    job.progress("writing cards")
    job.check()  # for the last time
    for dictionary in dictionaries:
        (dictionary.folder / CARDS).unlink(missing_ok=True)
    write_corpus(corpus_folder, text.ids, text.starts)
    for dictionary, columns in zip(dictionaries, made, strict=True):
        peak_ids = _peak_ids(kept[dictionary.source])
        write_cards(dictionary.folder, columns, peak_ids, part.tables[dictionary.source].counted)


def _kept(table: FeatureTable) -> dict[str, NDArray[Any]]:
    """The contexts that cards show, [d_sae, at most 10] of every field."""
    table.settle()
    return {name: slots[:, :CONTEXTS] for name, slots in table.slots.items()}


def _peak_ids(kept: dict[str, NDArray[Any]]) -> NDArray[np.uint32]:
    """[d_sae, 3] the commonest tokens at the peaks, the stronger peak first where equally common."""
    peaks = kept["window_ids"][:, :, BEFORE]
    table = np.full((len(peaks), 3), Columns.NO_CONTEXT, np.uint32)
    for row, ids in zip(table, peaks, strict=True):
        common = [token for token, _ in Counter(ids[ids >= 0].tolist()).most_common(3)]
        row[: len(common)] = common
    return table


@dataclass(frozen=True)
class _Text:
    """Stretches of text laid end to end, and the number by which every token is found again."""

    ids: NDArray[np.uint32]
    starts: list[tuple[int, str]]
    keys: NDArray[np.int64]

    @classmethod
    def around(cls, kept: Sequence[dict[str, NDArray[Any]]], origins: list[str]) -> _Text:
        """All that stands around peaks; neighbouring windows of a context become one stretch."""
        found: list[tuple[NDArray[Any], ...]] = []
        for slots in kept:
            place, slot = np.nonzero(slots["document"] != NO_DOCUMENT)
            own = {name: array[place, slot] for name, array in slots.items()}
            there = own["window_ids"] >= 0
            inner = own["inner"][:, None] + np.arange(-BEFORE, WINDOW - BEFORE)
            keys = _keys(own["document"][:, None], own["start"][:, None], inner)
            each = (np.broadcast_to(own[name][:, None], there.shape) for name in ("start", "origin"))
            found.append(tuple(array[there] for array in (keys, own["window_ids"], inner, *each)))
        keys, ids, inner, start, origin = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        keys, first = np.unique(keys, return_index=True)
        ids, inner, start, origin = ids[first], inner[first], start[first], origin[first]
        begins = np.ones(len(keys), bool)
        begins[1:] = (
            (keys[1:] >> 33 != keys[:-1] >> 33) | (start[1:] != start[:-1]) | (inner[1:] != inner[:-1] + 1)
        )  # fmt: skip
        starts = [(int(at), origins[origin[at]]) for at in np.flatnonzero(begins)]
        return cls(ids.astype(np.uint32), starts, keys)

    def place(self, slots: dict[str, NDArray[Any]]) -> NDArray[np.uint32]:
        """Where in the text the peaks are, [d_sae, 10]."""
        found = np.full(slots["document"].shape, Columns.NO_CONTEXT, np.uint32)
        there = slots["document"] != NO_DOCUMENT
        keys = _keys(slots["document"][there], slots["start"][there], slots["inner"][there])
        found[there] = np.searchsorted(self.keys, keys)
        return found


def _keys(document: NDArray[Any], start: NDArray[Any], inner: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers of tokens, ordered as the text is; BOS comes after the last token of the context before."""
    place = start.astype(np.int64) + inner + 1
    return np.asarray((document.astype(np.int64) << 33) | (place << 1) | (inner == 0))


def _columns(
    model: LanguageModel, dictionary: Dictionary, table: FeatureTable, kept: dict[str, NDArray[Any]], text: _Text
) -> Columns:
    size = dictionary.d_sae
    maximum = table.maximum.cpu().numpy()
    scale = np.where(maximum > 0, maximum, 1)[:, None]
    contexts = kept["document"].shape[1]
    peaks = np.full((size, CONTEXTS), Columns.NO_CONTEXT, np.uint32)
    strength = np.zeros((size, CONTEXTS), np.uint8)
    window = np.zeros((size, CONTEXTS, WINDOW), np.uint8)
    peaks[:, :contexts] = text.place(kept)
    strength[:, :contexts] = np.round(255 * kept["strength"] / scale)
    window[:, :contexts] = quantise((kept["window_values"] / scale[:, :, None]).astype(np.float32))
    promoted, effect = _logit_effects(model, dictionary)
    histogram = table.histogram.reshape(size, -1).cpu().numpy()
    return Columns(
        density=(table.fired / max(table.counted, 1)).float().cpu().numpy(),
        maximum=maximum,
        histogram=np.stack([_equal_bins(h, float(m)) for h, m in zip(histogram, maximum, strict=True)]),
        peaks=peaks,
        strength=strength,
        window=window,
        promoted=promoted,
        effect=effect,
    )


def _equal_bins(counts: NDArray[np.int64], maximum: float) -> NDArray[np.uint32]:
    """Counts in 16 equal bins from 0 to the maximum; what lies in a bin of the index is spread evenly over it."""
    if maximum <= 0:
        return np.zeros(BINS, np.uint32)
    edges = np.minimum(bin_edges(), maximum)
    edges[0], edges[-1] = 0, max(maximum, edges[-1])
    below = np.interp(np.linspace(0, maximum, BINS + 1), edges, np.concatenate([[0], np.cumsum(counts)]))
    below[-1] = counts.sum()
    return np.asarray(np.diff(np.round(below)), np.uint32)


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
