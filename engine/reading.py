"""What one dictionary makes of one prompt, gathered inside the hook while the forward pass goes by.

Of the [tokens, d_sae] block only what is asked for survives the hook: per token the strongest features, per
feature the aggregates that rank it, and the figures of the reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.sparse import Sparse
from engine.protocol import Rank

_BLOCK_ELEMENTS = 1 << 25
SINK_FACTOR = 4.0
"""A token whose norm is more than this many times the median is an attention sink."""


class Reading:
    """Fed with the rows of a site, in order; asked afterwards.

    Args:
        dictionary: what reads the site.
        tokens: how many rows will come.
        keep: per token, how many of its strongest features to keep.
        skip: how many leading positions count neither for rankings nor for figures.
        sums: keep the sums over positions too; rankings by sum or mean need them.

    Where activations may be negative, they rank by their size: the strongest of a token, aggregates and the largest
    of all are told by |f|, and rows have their sign. Everything stays on the dictionary's device; nothing here waits
    for a GPU.
    """

    def __init__(self, dictionary: Dictionary, tokens: int, keep: int, skip: int, *, sums: bool = False) -> None:
        device, precision = dictionary.device, dictionary.precision
        self.dictionary = dictionary
        self.skip = skip
        self.counted = tokens - skip
        self._tokens = tokens
        self._sums = sums
        self.filled = 0
        self._keep = max(1, min(keep, dictionary.k or dictionary.d_sae, dictionary.d_sae))
        self._x: list[Tensor] = []
        self._sparse: list[Sparse] = []
        self.top_values = torch.zeros(tokens, self._keep, device=device, dtype=precision)
        self.top_indices = torch.zeros(tokens, self._keep, dtype=torch.long, device=device)
        self.maximum = torch.zeros(dictionary.d_sae, device=device, dtype=precision)
        self.total = torch.zeros(dictionary.d_sae, device=device, dtype=precision)
        self._active = torch.zeros((), device=device)
        self._squared_error = torch.zeros((), device=device)

    def add(self, x: Tensor) -> None:
        """Take the next rows x [n, d_in]; a dictionary that needs the whole prompt encodes with the last of them."""
        self._x.append(x)
        if self.dictionary.whole_prompt:
            self.filled += len(x)
            if self.filled == self._tokens:
                self._add_block(self.x, 0)
            return
        step = max(1, _BLOCK_ELEMENTS // self.dictionary.d_sae)
        for start in range(0, len(x), step):
            block = x[start : start + step]
            self._add_block(block, self.filled)
            self.filled += len(block)

    def _add_block(self, x: Tensor, start: int) -> None:
        place = slice(start, start + len(x))
        first = max(0, self.skip - start)
        if self.dictionary.selects:
            self._add_sparse(x, place, first)
        else:
            self._add_dense(x, place, first)

    def _add_sparse(self, x: Tensor, place: slice, first: int) -> None:
        sparse = self.dictionary.encode_sparse(x, screen=True, whole=True)
        self._sparse.append(sparse)
        self.top_values[place] = sparse.values[:, : self._keep]
        self.top_indices[place] = sparse.indices[:, : self._keep]
        values, indices = self._sizes(sparse.values[first:]).flatten(), sparse.indices[first:].flatten()
        self.maximum.scatter_reduce_(0, indices, values, "amax")
        self.total.scatter_add_(0, indices, values)
        self._active += torch.count_nonzero(values)
        if not self.dictionary.is_transcoder:
            self._add_error(x, self.dictionary.decode_sparse(sparse, x), first)

    def _add_dense(self, x: Tensor, place: slice, first: int) -> None:
        dense = self.dictionary.encode(x, screen=True, whole=True)
        sizes = self._sizes(dense)
        top = sizes.topk(self._keep, dim=1)
        self.top_values[place] = dense.gather(1, top.indices) if self.dictionary.signed else top.values
        self.top_indices[place] = top.indices
        counted = sizes[first:]
        if len(counted):
            self.maximum = torch.maximum(self.maximum, counted.amax(0))
            self._active += torch.count_nonzero(counted)
            if self._sums:
                self.total += counted.sum(0)
        if not self.dictionary.is_transcoder:
            few_or_all = self.dictionary.decode_active if dense.device.type == "cpu" else self.dictionary.decode
            self._add_error(x, few_or_all(dense, x), first)

    def _sizes(self, activations: Tensor) -> Tensor:
        return activations.abs() if self.dictionary.signed else activations

    def _add_error(self, x: Tensor, reconstruction: Tensor, first: int) -> None:
        self._squared_error += (x.float() - reconstruction)[first:].square().sum()

    # --- answers ------------------------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:
        """What the site held, [tokens, d_in]."""
        if len(self._x) > 1:
            self._x = [torch.cat(self._x)]
        return self._x[0]

    @property
    def sparse(self) -> Sparse | None:
        if not self._sparse:
            return None
        if len(self._sparse) > 1:
            joined = Sparse(torch.cat([s.values for s in self._sparse]), torch.cat([s.indices for s in self._sparse]))
            self._sparse = [joined]
        return self._sparse[0]

    def aggregate(self, rank: Rank) -> Tensor:
        """[d_sae]: maximum, sum or mean of every feature's size over the ranked positions."""
        if rank == "max":
            return self.maximum
        return self.total if rank == "sum" else self.total / max(self.counted, 1)

    def rows(self, indices: Tensor) -> Tensor:
        """A few features [m] on every token, rescored in float32 → [m, tokens]."""
        return self.dictionary.feature_rows(self.x, indices, self.sparse, whole=True)

    def row(self, index: int) -> Tensor:
        """One feature on every token → [tokens]."""
        return self.rows(torch.tensor([index], device=self.maximum.device))[0]

    def sinks(self) -> Tensor:
        """bool [tokens]: tokens whose norm is over four times the median."""
        norms = self.x.float().norm(dim=1)
        body = norms[1:] if len(norms) > 1 else norms
        sinks: Tensor = norms > SINK_FACTOR * body.median()
        return sinks

    def strongest(self) -> Tensor:
        """The largest activation on a counted token that is no sink; where all are sinks, the largest of all."""
        best = self._sizes(self.top_values[:, 0]).masked_fill(self.sinks(), 0)[self.skip :].max()
        return torch.where(best > 0, best, self.maximum.max())

    def l0(self) -> Tensor:
        """Features active per counted token."""
        return self._active / max(self.counted, 1)

    @property
    def has_error(self) -> bool:
        """Whether there is a reconstruction to compare with: not for a transcoder, nor for a single token."""
        return not self.dictionary.is_transcoder and self.counted > 1

    def explained_variance(self) -> Tensor:
        """1 − Σ‖x−x̂‖² / Σ‖x−mean x‖² over the counted positions."""
        x = self.x[self.skip :].float()
        return 1 - self._squared_error / (x - x.mean(0)).square().sum()


def plain_numbers(row: Tensor) -> tuple[float, ...]:
    """A row as numbers of six digits: float32 has no more to say."""
    return tuple(float(f"{value:.6g}") for value in row.tolist())
