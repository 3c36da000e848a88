"""Which features of one dictionary another has: correlations of activations over the same text, as it streams by.

For every pair of features Σx, Σx², Σy, Σy² and Σxy over the tokens give Pearson's r (Towards Monosemanticity matches
the features of two runs so). Σxy is a product of sparse activations; the text is never kept.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.corpus.reading import Read

BYTES = 12
"""That a tally holds for every pair of features."""
_BLOCK = 512
_SPARSE = 32
"""Where fewer than one in so many activations is not zero, the product of two sparse matrices is the faster one."""


@dataclass(frozen=True)
class Aligned:
    """Which rows of two readings are the same token: the row in both, [m], for tokens that count in both."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Matches:
    """The best match of every feature of the first dictionary that fires often enough, and the other way round.

    Attributes:
        first, second: the features that are compared, [a] and [b].
        best: of each of the first the place in `second` of the most correlated, [a]; r: that correlation.
        back: of each of the second the place in `first`, [b]; back_r: that correlation.
        chance: the best correlation of each of the first where the second's tokens are others, [a].
        first_fires, second_fires: tokens on which they fire, [a] and [b].
        tokens: tokens that counted.
    """

    first: Tensor
    second: Tensor
    best: Tensor
    r: Tensor
    back: Tensor
    back_r: Tensor
    chance: Tensor
    first_fires: Tensor
    second_fires: Tensor
    tokens: int

    @property
    def mutual(self) -> Tensor:
        """Which of the first are the best match of their best match, bool [a]."""
        if not len(self.second):
            return torch.zeros(len(self.first), dtype=torch.bool)
        return self.back[self.best] == torch.arange(len(self.first))


class _Sums:
    """Σ and Σ² of the features kept of one dictionary, and on how many tokens each fires."""

    def __init__(self, kept: Tensor, d_sae: int) -> None:
        self.kept = kept
        n = len(kept)
        self.column = torch.full((d_sae,), -1, dtype=torch.long, device=kept.device)
        self.column[kept] = torch.arange(n, device=kept.device)
        self.sums = torch.zeros(2, n, dtype=torch.float64, device=kept.device)
        self.fires = torch.zeros(n, dtype=torch.long, device=kept.device)

    def add(self, read: Read, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in the tokens in `rows` [m]; returns their activations as (token, column, value)."""
        number = torch.full((len(read.x),), -1, dtype=torch.long, device=read.x.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        token, column = number[read.entries.rows], self.column[read.entries.features]
        counts = (token >= 0) & (column >= 0)
        token, column, value = token[counts], column[counts], read.entries.values[counts].double()
        self.sums[0].index_add_(0, column, value)
        self.sums[1].index_add_(0, column, value * value)
        self.fires += torch.bincount(column, minlength=len(self.kept))
        return token, column, value


class Tally:
    """What is known so far of one dictionary against another."""

    def __init__(self, first: Tensor, first_size: int, second: Tensor, second_size: int) -> None:
        self._first, self._second = _Sums(first, first_size), _Sums(second, second_size)
        shape = (len(first), len(second))
        self._products = torch.zeros(shape, dtype=torch.float64, device=first.device)
        self._others = torch.zeros(shape, dtype=torch.float32, device=first.device)
        self.tokens = 0

    def add(self, first: Read, second: Read, aligned: Aligned) -> None:
        """Take in a batch. What would come by chance is seen with the second's tokens moved on by half of it."""
        m = len(aligned.first)
        if m == 0:
            return
        token, column, value = self._first.add(first, aligned.first)
        x = torch.sparse_coo_tensor(
            torch.stack([column, token]), value, (len(self._products), m), check_invariants=False
        )  # fmt: skip
        token, column, value = self._second.add(second, aligned.second)
        for sums, at in ((self._products, token), (self._others, (token + m // 2) % m)):
            y = torch.sparse_coo_tensor(
                torch.stack([at, column]), value, (m, sums.shape[1]), check_invariants=False
            )  # fmt: skip
            few = len(value) * _SPARSE < m * sums.shape[1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that sparse products are in beta; a test holds them to plain ones
                sums += torch.sparse.mm(x, y if few else y.to_dense()).to(sums.dtype)
        self.tokens += m

    def matches(self, fires: int) -> Matches:
        """The best matches among features that fire on at least so many tokens."""
        mine, theirs = self._first.fires >= fires, self._second.fires >= fires
        n = int(theirs.sum())
        best, r, chance = [], [], []
        back = torch.zeros(n, dtype=torch.long, device=theirs.device)
        back_r = torch.full((n,), -torch.inf, dtype=torch.float64, device=theirs.device)
        start = 0
        for rows in torch.split(mine.nonzero()[:, 0], _BLOCK):
            if not n:
                break
            found = self._correlations(self._products, rows, theirs)
            top = found.max(1)
            best.append(top.indices)
            r.append(top.values)
            chance.append(self._correlations(self._others, rows, theirs).max(1).values)
            column = found.max(0)
            better = column.values > back_r
            back_r = torch.where(better, column.values, back_r)
            back = torch.where(better, column.indices + start, back)
            start += len(rows)
        none = torch.zeros(0, dtype=torch.float64)
        return Matches(
            first=self._first.kept[mine].cpu() if n else self._first.kept[:0].cpu(),
            second=self._second.kept[theirs].cpu(),
            best=torch.cat(best).cpu() if best else none.long(),
            r=torch.cat(r).cpu() if r else none,
            back=back.cpu(),
            back_r=back_r.cpu(),
            chance=torch.cat(chance).cpu() if chance else none,
            first_fires=self._first.fires[mine].cpu() if n else none.long(),
            second_fires=self._second.fires[theirs].cpu(),
            tokens=self.tokens,
        )

    def _correlations(self, products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Pearson's r of some of the first [k] with those of the second that count → [k, n]; 0 for a constant."""
        n = max(self.tokens, 1)
        sx, sxx = self._first.sums[:, rows]
        sy, syy = self._second.sums[:, columns]
        covariance = products[rows][:, columns].double() - sx[:, None] * sy / n
        spread = ((sxx - sx * sx / n).clamp(min=0)[:, None] * (syy - sy * sy / n).clamp(min=0)).sqrt()
        found: Tensor = torch.where(spread > 0, covariance / spread, 0.0).clamp(-1, 1)
        return found


def strongest_kept(fires: Tensor, most: int) -> Tensor:
    """The features that fire most, at most so many, in order of their index."""
    if len(fires) <= most:
        return torch.arange(len(fires), device=fires.device)
    return fires.argsort(descending=True, stable=True)[:most].sort().values


def same_tokens(first: Read, second: Read, first_rows: Tensor, second_rows: Tensor) -> Aligned:
    """Of rows [m] that hold the same tokens, those that count in both."""
    both = first.counts[first_rows] & second.counts[second_rows]
    return Aligned(first_rows[both], second_rows[both])
