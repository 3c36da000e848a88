"""What the readings of a prompt add up to: the strongest features of the prompt and of every token, and figures.

Everything wanted is gathered on the device first and comes to the CPU in one transfer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.protocol import Hit, Rank, SiteFigures, TokenFeature
from engine.reading import Reading, plain_numbers


@dataclass(frozen=True)
class Question:
    """What is asked of a prompt."""

    rank: Rank = "max"
    top: int = 50
    per_site: int = 0
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


@dataclass(frozen=True)
class Found:
    """What is taken from one reading as soon as it is full; tensors on the CPU after `_bring_back`."""

    candidates: Tensor
    """[m] the features whose aggregate is largest."""
    aggregates: Tensor
    rows: Tensor
    """[m, tokens], float32."""
    top_values: Tensor
    top_indices: Tensor
    sinks: Tensor
    active: Tensor
    scale: Tensor
    l0: Tensor
    explained_variance: Tensor

    @classmethod
    def gather(cls, reading: Reading, question: Question) -> Found:
        top = reading.aggregate(question.rank).topk(min(max(question.top, question.per_site), reading.dictionary.d_sae))
        return cls(
            candidates=top.indices,
            aggregates=top.values,
            rows=reading.rows(top.indices),
            top_values=reading.top_values,
            top_indices=reading.top_indices,
            sinks=reading.sinks(),
            active=(reading.maximum > 0).sum(),
            scale=reading.strongest(),
            l0=reading.l0(),
            explained_variance=reading.explained_variance() if reading.has_error else reading.l0(),
        )


_Ranked = tuple[float, int, int]
"""The aggregate, the number of the site, the place among the site's candidates."""


def answer(readings: Sequence[Reading], found: Sequence[Found], question: Question, started: float) -> Answer:
    """The answer to a question, from what was taken from each reading.

    `started` is when the reading began, on the performance counter.
    """
    found = _bring_back(found)
    per_token, strength = _per_token(found)
    hits = _hits(readings, found, question)
    return Answer(
        hits=hits,
        figures=tuple(
            SiteFigures(
                source=r.dictionary.source,
                hook=r.dictionary.site.hook,
                l0=float(f.l0),
                explained_variance=float(f.explained_variance) if r.has_error else None,
                active=int(f.active),
                strongest=float(f.scale),
                sinks=tuple(f.sinks.nonzero().flatten().tolist()),
            )
            for r, f in zip(readings, found, strict=True)
        ),
        per_token=per_token,
        strength=strength,
        sinks=tuple(torch.stack([f.sinks for f in found]).any(0).tolist()),
        seconds=time.perf_counter() - started,
    )


def _bring_back(found: Sequence[Found]) -> list[Found]:
    """The same on the CPU: one transfer of one tensor, since every single one would wait for the GPU."""
    tensors = [tensor for one in found for tensor in vars(one).values()]
    if tensors[0].device.type == "cpu":
        return list(found)
    flat = torch.cat([t.flatten().double() for t in tensors]).cpu()  # float64 holds float32 and any index exactly
    pieces = iter(torch.split(flat, [t.numel() for t in tensors]))
    return [Found(**{k: next(pieces).reshape(t.shape).to(t.dtype) for k, t in vars(one).items()}) for one in found]


def _hits(readings: Sequence[Reading], found: list[Found], question: Question) -> tuple[Hit, ...]:
    ranked = sorted(
        (
            (value, site, place)
            for site, one in enumerate(found)
            for place, value in enumerate(one.aggregates.tolist())
            if value > 0
        ),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    hits = []
    for _, site, place in _chosen(ranked, question):
        row, skip = found[site].rows[place], readings[site].skip
        hits.append(
            Hit(
                source=readings[site].dictionary.source,
                index=int(found[site].candidates[place]),
                activation=_aggregate(row[skip:], question.rank),
                position=skip + int(row[skip:].abs().argmax()),
                values=plain_numbers(row),
            )
        )
    hits.sort(key=lambda hit: -abs(hit.activation))
    return tuple(hits)


def _chosen(ranked: list[_Ranked], question: Question) -> list[_Ranked]:
    """The top of all, and of every site its first few."""
    chosen, met = [], Counter[int]()
    for number, entry in enumerate(ranked):
        site = entry[1]
        if number < question.top or met[site] < question.per_site:
            chosen.append(entry)
        met[site] += 1
    return chosen


def _aggregate(row: Tensor, rank: Rank) -> float:
    """Of a feature's row what it is ranked by: where activations have signs, by their sizes."""
    value = row[row.abs().argmax()] if rank == "max" else row.abs().sum() if rank == "sum" else row.abs().mean()
    return float(value)


def _per_token(found: list[Found]) -> tuple[tuple[tuple[TokenFeature, ...], ...], tuple[float, ...]]:
    """The features of every token, and how strongly anything fires there: the largest share of a site's strongest
    activation, among the sites where the token is no sink."""
    values = [one.top_values.tolist() for one in found]
    indices = [one.top_indices.tolist() for one in found]
    scales = [float(one.scale) for one in found]
    sinks = [one.sinks.tolist() for one in found]
    rows, strength = [], []
    for token in range(len(values[0])):
        features = [
            TokenFeature(site, index, value)
            for site in range(len(found))
            for value, index in zip(values[site][token], indices[site][token], strict=True)
            if value != 0
        ]
        features.sort(key=lambda f: -abs(f.activation))
        rows.append(tuple(features))
        shares = (abs(f.activation) / scales[f.site] for f in features if scales[f.site] and not sinks[f.site][token])
        strength.append(max(shares, default=0.0))
    return tuple(rows), tuple(strength)
