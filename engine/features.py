"""The features of a prompt: one forward pass, every dictionary read on the way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.answer import Answer, Found, Question, answer
from engine.dictionary import Dictionary
from engine.job import Job
from engine.memory.use import in_smaller_pieces
from engine.model import LanguageModel
from engine.protocol import NextToken
from engine.reading import Reading
from engine.sites import Site

_LOGIT_ROWS = 256


@dataclass
class Readings:
    """The readings of the last prompt, kept so that rows of other features need no second pass."""

    ids: tuple[int, ...]
    by_source: dict[str, Reading]


def read_prompt(
    model: LanguageModel,
    dictionaries: Sequence[Dictionary],
    ids: Sequence[int],
    question: Question,
    job: Job,
    found: Callable[[Answer], None],
) -> tuple[Readings, tuple[tuple[NextToken, ...], ...]]:
    """Read `ids` with every dictionary; call `found` as soon as the last one has been read.

    Where next tokens are asked for, the pass then runs to its end and their probabilities are returned.
    Out of memory, the prompt is read in smaller pieces over a key-value cache.
    """

    def attempt(piece: int) -> tuple[Readings, tuple[tuple[NextToken, ...], ...]]:
        return _read(model, dictionaries, ids, question, job, found, piece)

    return in_smaller_pieces(attempt, len(ids), can_split=model.caches)


def _read(
    model: LanguageModel,
    dictionaries: Sequence[Dictionary],
    ids: Sequence[int],
    question: Question,
    job: Job,
    found: Callable[[Answer], None],
    piece: int,
) -> tuple[Readings, tuple[tuple[NextToken, ...], ...]]:
    started = time.perf_counter()
    skip = 0 if question.keep_sinks or len(ids) == 1 else 1
    readings = {
        d.source: Reading(d, len(ids), question.per_token, skip, sums=question.rank != "max") for d in dictionaries
    }
    by_site: defaultdict[Site, list[Reading]] = defaultdict(list)
    for dictionary in dictionaries:
        by_site[dictionary.site].append(readings[dictionary.source])
    last = max(by_site, key=lambda site: site.depth)
    taken: dict[str, Found] = {}

    def visitor(site: Site) -> Callable[[Tensor], None]:
        def visit(x: Tensor) -> None:
            for reading in by_site[site]:
                reading.add(x[0].reshape(x.shape[1], -1))
                if reading.filled == len(ids):  # its weights are at hand now; on a shelf they may be gone later
                    taken[reading.dictionary.source] = Found.gather(reading, question)
            if site == last and by_site[site][0].filled == len(ids):
                found(answer(list(readings.values()), [taken[source] for source in readings], question, started))

        return visit

    visitors = {site: visitor(site) for site in by_site}
    batch = torch.tensor([list(ids)], device=model.device)
    if not question.next_tokens and piece >= len(ids):
        model.read(batch, visitors, job)
        return Readings(tuple(ids), readings), ()
    with model.visiting(visitors, job), torch.inference_mode():
        hidden = _hidden_in_pieces(model, batch, piece, job)
        following = _next_tokens(model, hidden, question.next_tokens, job) if question.next_tokens else ()
    return Readings(tuple(ids), readings), following


def _hidden_in_pieces(model: LanguageModel, batch: Tensor, piece: int, job: Job) -> Tensor:
    """Final hidden states [tokens, d_model], the prompt fed `piece` tokens at a time."""
    tokens = batch.shape[1]
    if piece >= tokens:
        return model.hidden(batch)[0]
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    parts = []
    for start in range(0, tokens, piece):
        job.progress("reading the prompt in pieces", start, tokens)
        parts.append(model.hidden(batch[:, start : start + piece], cache)[0])
    return torch.cat(parts)


def _next_tokens(model: LanguageModel, hidden: Tensor, keep: int, job: Job) -> tuple[tuple[NextToken, ...], ...]:
    following: list[tuple[NextToken, ...]] = []
    for start in range(0, len(hidden), _LOGIT_ROWS):
        job.check()
        scores = model.logits(hidden[start : start + _LOGIT_ROWS].reshape(-1, hidden.shape[-1]))
        top = scores.topk(keep, dim=1)
        probabilities = (top.values - scores.logsumexp(1, keepdim=True)).exp()
        for ids, row in zip(top.indices.tolist(), probabilities.tolist(), strict=True):
            following.append(
                tuple(NextToken(i, model.tokenizer.token(i).text, p) for i, p in zip(ids, row, strict=True))
            )
    return tuple(following)
