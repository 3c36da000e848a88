"""Two sides read the same text: their readings token by token, whatever each begins a context with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from engine.corpus.reading import Batch, Read, read_batches
from engine.corpus.text import contexts_of, documents_of
from engine.dictionary import Dictionary
from engine.job import Job
from engine.memory.use import available_bytes
from engine.opening import OpenSet
from engine.studies.universality.matching import BYTES, Aligned, Tally, same_tokens, strongest_kept
from engine.studies.universality.sides import Side
from engine.study_settings.universality import Universality
from engine.training.corpus import Context

Pairing = tuple[Dictionary, Dictionary]
_SHARE = 0.4
"""Of the memory that is free, how much all tallies may take."""


@dataclass(frozen=True)
class Both:
    """A batch on both sides: readings by source, and the rows [m] that hold the same tokens."""

    first: dict[str, Read]
    second: dict[str, Read]
    first_rows: Tensor
    second_rows: Tensor

    def aligned(self, pairing: Pairing) -> tuple[Read, Read, Aligned]:
        """The readings of two dictionaries, and the tokens that count in both."""
        first, second = self.first[pairing[0].source], self.second[pairing[1].source]
        return first, second, same_tokens(first, second, self.first_rows, self.second_rows)


def read_both(
    first: Side, second: Side, pairings: Sequence[Pairing], settings: Universality, job: Job
) -> Iterator[Both]:
    """The text as both sides read it; one pass where they share a model. Their tokenizers have to be the same.

    Raises:
        BadRequest: the text cannot be read.
        Cancelled: the job was cancelled.
    """
    length = min(settings.context, first.opened.model.context - 1, second.opened.model.context - 1)
    contexts = contexts_of(first.opened, documents_of(settings.text), length, settings.tokens)
    ours = list({a.source: a for a, _ in pairings}.values())
    theirs = list({b.source: b for _, b in pairings}.values())
    model, other = first.opened.model, second.opened.model
    if model is other:
        for batch in read_batches(model, [*ours, *theirs], contexts, job):
            rows = torch.arange(len(batch.ids), device=model.device)
            yield Both(batch.reads, batch.reads, rows, rows)
        return
    mine, same = tee(contexts)
    again = _begun_as(second.opened, same, _begins_with_bos(first.opened))
    for a, b in zip(read_batches(model, ours, mine, job), read_batches(other, theirs, again, job), strict=True):
        yield Both(a.reads, b.reads, _after_bos(a, first.opened), _after_bos(b, second.opened))


def fitting_most(pairings: Sequence[Pairing], most: int) -> int:
    """How many features of each dictionary can be matched so that all tallies fit: `most`, or fewer."""
    room: dict[torch.device, float] = {a.device: _SHARE * available_bytes(a.device) for a, _ in pairings}
    for device, there in room.items():
        here = [p for p in pairings if p[0].device == device]
        if sum(BYTES * min(a.d_sae, most) * min(b.d_sae, most) for a, b in here) > there:
            most = max(2, isqrt(int(there / (BYTES * len(here)))))
    return most


def tallied(
    first: Side, second: Side, pairings: Sequence[Pairing], settings: Universality, most: int, job: Job
) -> list[Tally]:
    """An empty tally for every pair of dictionaries: of all features, or of those that fire most on the text.

    Larger dictionaries than `most` cost a pass over the text to see which these are.
    """
    large = [p for p in pairings if max(p[0].d_sae, p[1].d_sae) > most]
    fires: dict[tuple[int, str], Tensor] = {}
    if large:
        for number, both in enumerate(read_both(first, second, large, settings, job)):
            job.progress("seeing which features fire most", number)
            for side, reads in enumerate((both.first, both.second)):
                for source in {pairing[side].source for pairing in large}:
                    read = reads[source]
                    counts = torch.bincount(read.entries.features, minlength=read.dictionary.d_sae)
                    key = (side, source)
                    fires[key] = fires[key] + counts if key in fires else counts
            job.rest()

    def kept(side: int, dictionary: Dictionary) -> Tensor:
        found = fires.get((side, dictionary.source))
        if found is None:
            found = torch.zeros(dictionary.d_sae, dtype=torch.long, device=dictionary.device)
        return strongest_kept(found, most)

    return [Tally(kept(0, a), a.d_sae, kept(1, b), b.d_sae) for a, b in pairings]


def counterparts(first: Side, second: Side) -> list[Pairing]:
    """Which dictionaries are compared: in order of depth where both sides have as many of every kind of site.

    Otherwise each of the first with the one of the second nearest in relative depth, of its kind if there is any.
    """
    ours, theirs = (
        sorted(side.dictionaries, key=lambda d: (d.site.kind, side.depth(d.site))) for side in (first, second)
    )
    if [d.site.kind for d in ours] == [d.site.kind for d in theirs]:
        return list(zip(ours, theirs, strict=True))
    found = []
    for dictionary in ours:
        alike = [d for d in theirs if d.site.kind == dictionary.site.kind] or theirs
        depth = first.depth(dictionary.site)
        found.append((dictionary, min(alike, key=lambda d: abs(second.depth(d.site) - depth))))
    return found


def _begins_with_bos(opened: OpenSet) -> bool:
    tokenizer = opened.model.tokenizer
    return tokenizer.bos_id is not None and tokenizer.encode("a", bos=opened.bos)[:1] == [tokenizer.bos_id]


def _begun_as(opened: OpenSet, contexts: Iterable[Context], had_bos: bool) -> Iterator[Context]:
    """Contexts with or without BOS in front as this side's prompts have it."""
    bos = [opened.model.tokenizer.bos_id] if _begins_with_bos(opened) else []
    first = np.array(bos, dtype=np.int32)
    for context in contexts:
        yield Context(context.source, context.document, np.concatenate([first, context.ids[had_bos:]]))


def _after_bos(batch: Batch, opened: OpenSet) -> Tensor:
    """The rows of a batch that hold text."""
    rows = torch.from_numpy(batch.inner >= _begins_with_bos(opened)).nonzero()[:, 0]
    return rows.to(opened.model.device)
