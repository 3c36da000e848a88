"""Activations of which few are not zero: the strongest of every token, and sums of decoder rows over them alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class Sparse:
    """For every token its k features, strongest first: by size where they have a sign. Shapes [n, k]."""

    values: Tensor
    indices: Tensor

    def dense(self, width: int) -> Tensor:
        """[n, k] → [n, width]."""
        return self.values.new_zeros(len(self.values), width).scatter_(1, self.indices, self.values)

    def holds(self, features: Tensor) -> Tensor:
        """Which of some features [m] are among the k of each token: bool [n, m]."""
        return (self.indices[:, :, None] == features).any(1)

    def of(self, features: Tensor) -> Tensor:
        """The values of some features [m], zero where they are not among the k → [n, m]."""
        return ((self.indices[:, :, None] == features) * self.values[:, :, None]).sum(1)


def strongest(pre: Tensor, k: int, signed: bool) -> Sparse:
    """The k strongest of pre-activations [n, d_sae]: the largest in size with their sign, or the largest, relu."""
    k = min(k, pre.shape[1])
    if signed:
        indices = pre.abs().topk(k, dim=1).indices
        return Sparse(pre.gather(1, indices), indices)
    top = pre.topk(k, dim=1)
    return Sparse(top.values.relu(), top.indices)


def rows_of(sparse: Sparse, decoder: Tensor, values: Tensor) -> Tensor:
    """Σ value · decoder row over the k of every token, with `values` [n, k] for its own → [n, d_out]."""
    return embedding_bag(sparse.indices, decoder, per_sample_weights=values.to(decoder.dtype), mode="sum")


def active_rows_of(activations: Tensor, decoder: Tensor, norm: Tensor | None) -> Tensor:
    """Σ activation · decoder row (by its `norm` [d_sae], if there is one) over what is not zero → [n, d_out]."""
    rows, features = activations.nonzero(as_tuple=True)
    values = activations[rows, features]
    if norm is not None:
        values = values / norm[features]
    counts = torch.bincount(rows, minlength=len(activations))
    return embedding_bag(features, decoder, counts.cumsum(0) - counts, per_sample_weights=values, mode="sum")
