"""The features of a prompt: one forward pass, every dictionary read on the way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.memory import in_smaller_pieces
from engine.model import LanguageModel
from engine.protocol import Hit, NextToken, Rank, SiteFigures, TokenFeature
from engine.reading import Reading
from engine.sites import Site

_LOGIT_ROWS = 256


@dataclass(frozen=True)
class Question:
    """What is asked of a prompt."""

    rank: Rank = "max"
    top: int = 50
    per_token: int = 8
    next_tokens: int = 0
    keep_sinks: bool = False


@dataclass(frozen=True)
class Answer:
    """What the pass found; activations are float32, values of `hits` are exact for the residuals that were read."""

    hits: tuple[Hit, ...]
    figures: tuple[SiteFigures, ...]
    per_token: tuple[tuple[TokenFeature, ...], ...]
    strength: tuple[float, ...]
    sinks: tuple[bool, ...]
    seconds: float


@dataclass
class Readings:
    """The readings of the last prompt, kept so that rows of other features need no second pass."""

    ids: tuple[int, ...]
    by_source: dict[str, Reading]


def ranked_positions(tokens: int, keep_sinks: bool) -> Tensor:
    """bool [tokens]: the first position is left out, unless asked for or alone."""
    ranked = torch.ones(tokens, dtype=torch.bool)
    if not keep_sinks and tokens > 1:
        ranked[0] = False
    return ranked


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
    ranked = ranked_positions(len(ids), question.keep_sinks)
    readings = {d.source: Reading(d, len(ids), question.per_token, ranked) for d in dictionaries}
    by_site: defaultdict[Site, list[Reading]] = defaultdict(list)
    for dictionary in dictionaries:
        by_site[dictionary.site].append(readings[dictionary.source])
    last = max(by_site, key=lambda site: site.depth)

    def visitor(site: Site) -> Callable[[Tensor], None]:
        def visit(x: Tensor) -> None:
            for reading in by_site[site]:
                reading.add(x[0].reshape(x.shape[1], -1))
            if site == last and by_site[site][0].filled == len(ids):
                found(_answer(list(readings.values()), question, time.perf_counter() - started))

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


def _answer(readings: list[Reading], question: Question, seconds: float) -> Answer:
    sinks = torch.stack([r.sinks().cpu() for r in readings]).any(0)
    scales = [float(r.maximum.max()) for r in readings]
    per_token, strength = _per_token(readings, scales)
    return Answer(
        hits=_hits(readings, question),
        figures=tuple(
            SiteFigures(
                source=r.dictionary.source,
                hook=r.dictionary.site.hook,
                l0=r.l0,
                explained_variance=r.explained_variance,
                active=int((r.maximum > 0).sum()),
                strongest=scale,
            )
            for r, scale in zip(readings, scales, strict=True)
        ),
        per_token=per_token,
        strength=strength,
        sinks=tuple(sinks.tolist()),
        seconds=seconds,
    )


def _hits(readings: list[Reading], question: Question) -> tuple[Hit, ...]:
    candidates: list[tuple[float, int, int]] = []
    for number, reading in enumerate(readings):
        top = reading.aggregate(question.rank).topk(min(question.top, reading.dictionary.d_sae))
        pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        candidates += [(value, number, index) for value, index in pairs if value > 0]
    candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
    hits = []
    for _, number, index in candidates[: question.top]:
        reading = readings[number]
        row = reading.row(index)
        counted = torch.where(reading.ranked, row, -torch.inf)
        chosen = row[reading.ranked]
        value = chosen.max() if question.rank == "max" else chosen.sum() if question.rank == "sum" else chosen.mean()
        hits.append(
            Hit(
                source=reading.dictionary.source,
                index=index,
                activation=float(value),
                position=int(counted.argmax()),
                values=reading.row_values(index),
            )
        )
    hits.sort(key=lambda hit: -hit.activation)
    return tuple(hits)


def _per_token(
    readings: list[Reading], scales: list[float]
) -> tuple[tuple[tuple[TokenFeature, ...], ...], tuple[float, ...]]:
    values = [r.top_values.tolist() for r in readings]
    indices = [r.top_indices.tolist() for r in readings]
    rows, strength = [], []
    for token in range(len(values[0])):
        found = [
            TokenFeature(site, index, value)
            for site in range(len(readings))
            for value, index in zip(values[site][token], indices[site][token], strict=True)
            if value > 0
        ]
        found.sort(key=lambda f: -f.activation)
        rows.append(tuple(found))
        strength.append(max((f.activation / scales[f.site] for f in found if scales[f.site]), default=0.0))
    return tuple(rows), tuple(strength)


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
