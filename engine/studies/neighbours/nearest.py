"""Cosines between the rows of dictionaries, a block at a time: spaces that may be compared, and nearest rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from engine.dictionary import Dictionary
from engine.sites import Site

By: TypeAlias = Literal["decoder", "encoder"]
Tick: TypeAlias = Callable[[int, int], object]
"""Told after every block how many rows are done and how many there are."""

_IN_THE_STREAM = {"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_mlp_in"}
"""Kinds of sites that hold the residual stream, or what is added to it as it is."""
_SMALLEST_BLOCK = 256
_BLOCK_ELEMENTS = 1 << 24
"""Cosines held at a time: 64 MB of float32."""


@dataclass(frozen=True)
class Space:
    """Vectors that may be compared: `name` says where they live, `width` how many numbers they have."""

    name: str
    width: int

    def __str__(self) -> str:
        return f"{self.name}, {self.width} numbers"


@dataclass(frozen=True)
class Nearest:
    """Of q queries the k nearest rows, nearest first; -1 and -inf where there are fewer.

    Attributes:
        cosines: [q, k].
        sources: which of the dictionaries searched, [q, k].
        indices: feature in it, [q, k].
    """

    cosines: Tensor
    sources: Tensor
    indices: Tensor


def space_of(dictionary: Dictionary, by: By) -> Space:
    """Where its decoder or encoder rows live. Whatever is added to the residual stream shares one space."""
    site = dictionary.write_site if by == "decoder" else dictionary.site
    width = dictionary.d_out if by == "decoder" else dictionary.d_in
    return Space("the residual stream" if site.kind in _IN_THE_STREAM else _place(site), width)


def _place(site: Site) -> str:
    return f"{site.kind} of layer {site.layer}"


def rows_of(dictionary: Dictionary, by: By) -> Tensor:
    """Its decoder [d_sae, d_out] or encoder [d_sae, d_in] rows as they are."""
    return dictionary.decoder if by == "decoder" else dictionary.encoder


def unit_rows(dictionary: Dictionary, by: By, indices: Tensor | slice = slice(None)) -> Tensor:
    """Some of its rows at length 1; a row of zeros stays zero, so that its cosine with anything is 0."""
    return normalize(rows_of(dictionary, by)[indices], dim=1)


def nearest(
    queries: Tensor,
    own: Sequence[tuple[int, int]],
    dictionaries: Sequence[Dictionary],
    by: By,
    k: int,
    tick: Tick = lambda done, total: None,
) -> Nearest:
    """The rows of several dictionaries that are nearest to queries [q, d] of length 1, by cosine.

    Args:
        own: for every query the (dictionary, feature) it is itself, which is left out.
    """
    none = torch.zeros(len(queries), 0, dtype=torch.long)
    best = Nearest(torch.zeros(len(queries), 0), none, none)
    total = sum(d.d_sae for d in dictionaries)
    mine = torch.tensor([list(pair) for pair in own], dtype=torch.long).reshape(-1, 2)
    done = 0
    for number, dictionary in enumerate(dictionaries):
        for start, rows in blocks(dictionary, by, len(queries)):
            cosines = queries.to(rows) @ rows.T
            inside = (mine[:, 0] == number) & (mine[:, 1] >= start) & (mine[:, 1] < start + len(rows))
            at = inside.nonzero()[:, 0]
            cosines[at.to(rows.device), (mine[at, 1] - start).to(rows.device)] = -torch.inf
            top = cosines.topk(min(k, len(rows)), dim=1)
            indices = top.indices.cpu()
            best = _better(best, Nearest(top.values.cpu(), torch.full_like(indices, number), indices + start), k)
            done += len(rows)
            tick(done, total)
    missing = best.cosines == -torch.inf
    return Nearest(best.cosines, best.sources.masked_fill(missing, -1), best.indices.masked_fill(missing, -1))


def blocks(dictionary: Dictionary, by: By, queries: int) -> Iterator[tuple[int, Tensor]]:
    """Its rows at length 1, as many at a time as there is room for their cosines with so many queries."""
    rows = rows_of(dictionary, by)
    size = max(_SMALLEST_BLOCK, _BLOCK_ELEMENTS // max(1, queries))
    for start in range(0, len(rows), size):
        yield start, normalize(rows[start : start + size], dim=1)


def _better(first: Nearest, second: Nearest, k: int) -> Nearest:
    cosines = torch.cat([first.cosines.to(second.cosines), second.cosines], 1)
    sources = torch.cat([first.sources, second.sources], 1)
    indices = torch.cat([first.indices, second.indices], 1)
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Nearest(cosines.gather(1, order), sources.gather(1, order), indices.gather(1, order))
