"""Features that stand out on one concept of a list, read over text: where else they fire, and whether they do there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.corpus.reading import Read, read_batches
from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.studies.measure import Growing
from engine.studies.parts import pieces_of
from engine.studies.proxies import characters
from engine.training.corpus import Context


@dataclass(frozen=True)
class Candidates:
    """Of one dictionary the features that stand out on a concept, [d_sae] each.

    Attributes:
        owner: the concept it fires on most; −1 where it stands out on none.
        ratio: its activation there over the largest on another concept, at most 1e6.
        rival: that other concept, −1 for none.
        limit: half its activation there; from there on it counts as firing elsewhere.
    """

    owner: Tensor
    ratio: Tensor
    rival: Tensor
    limit: Tensor


def candidates_of(mean: Tensor, least: Tensor, margin: float) -> Candidates:
    """From activations [concepts, d_sae], mean and least over templates, those `margin` times as large as any other."""
    two = mean.topk(2, dim=0)
    best, others = two.values
    ratio = (best / others.clamp(min=1e-9)).clamp(max=1e6)
    always = least.gather(0, two.indices[:1])[0] > 0
    stands_out = always & (ratio >= margin)
    return Candidates(
        owner=torch.where(stands_out, two.indices[0], -1),
        ratio=ratio,
        rival=torch.where(others > 0, two.indices[1], -1),
        limit=torch.where(stands_out, best / 2, torch.inf),
    )


@dataclass
class OnText:
    """What a text showed."""

    tokens: int
    """All that was read."""
    counted: dict[str, int]
    """By source, the tokens that count."""
    occurrences: list[int]
    """Of every concept."""
    own: dict[str, Tensor]
    """By source [concepts]: tokens that count and are part of the concept."""
    elsewhere: dict[str, Tensor]
    """By source [d_sae]: tokens outside its concept on which a candidate fires at least half as strongly."""
    hits: dict[str, Tensor]
    """By source [d_sae]: occurrences of its concept on which it fires at all."""


def read_text(
    opened: OpenSet,
    dictionaries: Sequence[Dictionary],
    contexts: Sequence[Context],
    concepts: Sequence[str],
    candidates: Mapping[str, Candidates],
    growing: Growing,
    grown: Callable[[OnText], None],
) -> OnText:
    """Read a text and count, for every candidate, where it fires. First tokens and sinks do not count.

    `grown` is told now and then what there is.
    """
    either = "|".join(re.escape(concept) for concept in sorted(concepts, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)")
    number_of = {concept: number for number, concept in enumerate(concepts)}
    found = OnText(
        0,
        dict.fromkeys((d.source for d in dictionaries), 0),
        [0] * len(concepts),
        {d.source: torch.zeros(len(concepts), dtype=torch.long) for d in dictionaries},
        {d.source: torch.zeros(d.d_sae, dtype=torch.long) for d in dictionaries},
        {d.source: torch.zeros(d.d_sae, dtype=torch.long) for d in dictionaries},
    )
    for batch in read_batches(opened.model, dictionaries, contexts, growing.job):
        of, which = [], []  # of every token, the concept it is part of and the occurrence, −1 for none
        for context in batch.contexts:
            concept, occurrence, matched = _occurrences(opened, context.ids.tolist(), pattern, number_of)
            of.append(concept)
            which.append(np.where(occurrence >= 0, occurrence + sum(found.occurrences), -1))
            for number in matched:
                found.occurrences[number] += 1
        tokens_of, occurrence_of = torch.from_numpy(np.concatenate(of)), torch.from_numpy(np.concatenate(which))
        for source, read in batch.reads.items():
            _count(read, candidates[source], tokens_of, occurrence_of, found)
        found.tokens += len(batch.ids)
        if growing.is_due:
            grown(found)
        growing.progress("reading text", batch.start + len(batch.contexts), len(contexts))
        growing.rest()
    return found


def _count(read: Read, candidates: Candidates, concept: Tensor, occurrence: Tensor, found: OnText) -> None:
    source, size = read.dictionary.source, read.dictionary.d_sae
    counts = read.counts.cpu()
    found.counted[source] += int(counts.sum())
    found.own[source] += torch.bincount(concept[counts & (concept >= 0)], minlength=len(found.occurrences))
    features, values, rows = (t.cpu() for t in (read.entries.features, read.entries.values, read.entries.rows))
    owner = candidates.owner[features]
    own = (owner >= 0) & (concept[rows] == owner)
    strong = (values >= candidates.limit[features]) & ~own
    found.elsewhere[source] += torch.bincount(features[strong], minlength=size)
    pairs = torch.unique(torch.stack([features[own], occurrence[rows[own]]]), dim=1)
    found.hits[source] += torch.bincount(pairs[0], minlength=size)


def _occurrences(
    opened: OpenSet, ids: Sequence[int], pattern: re.Pattern[str], number_of: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Of every token the concept it is part of and the occurrence in the context, −1 for none; all that occurred."""
    pieces = pieces_of(opened, ids)
    text, starts, ends = characters(pieces)
    concept = np.full(len(ids), -1)
    occurrence = np.full(len(ids), -1)
    matched = []
    for place, match in enumerate(pattern.finditer(text)):
        inside = (starts < match.end()) & (ends > match.start()) & (ends > starts)
        matched.append(number_of[match.group()])
        concept[inside], occurrence[inside] = matched[-1], place
    return concept, occurrence, matched
