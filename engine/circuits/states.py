"""Clean against baseline at every site: which coefficients change, by how much, and what the error does.

The baseline is the patch run's value, or zero. Against zero, attention sinks are held at their clean value unless
asked otherwise: taking a sink away changes everything at once and says little about any feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuits.basis import Basis, Codes
from engine.reading import SINK_FACTOR


@dataclass
class SiteState:
    """One site of a batch of B prompts of T tokens; rows count B·T places, example by example.

    Attributes:
        x, base: what is written at the site, clean and baseline, [B, T, d].
        rows, features: the entries [m] where clean or baseline is not zero.
        clean, delta: their clean coefficient, and baseline − clean, [m].
        error_delta: what the features do not carry of base − x, [B·T, d].
        read: what the basis reads, [B, T, d_in]; `x` itself unless it is a transcoder.
        keep: bool [B, T], places held at their clean value.
    """

    basis: Basis
    x: Tensor
    base: Tensor
    read: Tensor
    rows: Tensor
    features: Tensor
    clean: Tensor
    delta: Tensor
    error_delta: Tensor
    keep: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        b, t, d = self.x.shape
        return b, t, d

    def feature_effects(self, gradient: Tensor) -> Tensor:
        """−Δc · (direction · gradient [B·T, d]) → [m]."""
        return -self.delta * self.basis.along(self.features, gradient[self.rows])

    def error_effects(self, gradient: Tensor) -> Tensor:
        """−Σ_d Δerror · gradient → [B·T]."""
        return -(self.error_delta * gradient).sum(1)


def site_state(basis: Basis, x: Tensor, read: Tensor, patch: tuple[Tensor, Tensor] | None, keep: Tensor) -> SiteState:
    """Compare a site with its baseline.

    Args:
        x, read: what is written and read, [B, T, d]; the same tensor unless the basis is a transcoder.
        patch: the same of the patch run, or None for a baseline of zero.
        keep: [B, T] places held at their clean value.
    """
    b, t, d = x.shape
    flat = x.reshape(b * t, d)
    codes = basis.codes(read.reshape(b * t, -1))
    if patch is None:
        rows, features, clean = codes.rows, codes.features, codes.values
        delta = -clean
        carried = basis.decode(codes, b * t, d)
        base = basis.constant(read.reshape(b * t, -1)).to(flat.dtype)
        error_delta = base + carried - flat
    else:
        other = basis.codes(patch[1].reshape(b * t, -1))
        rows, features, clean, baseline = _joined(codes, other, basis.d_sae)
        delta = baseline - clean
        base = patch[0].reshape(b * t, d)
        error_delta = base - flat - basis.decode(Codes(rows, features, delta), b * t, d)
    kept = keep.reshape(b * t)
    if bool(kept.any()):
        delta = delta.masked_fill(kept[rows], 0)
        error_delta = error_delta.masked_fill(kept[:, None], 0)
        base = torch.where(kept[:, None], flat, base)
    return SiteState(basis, x, base.reshape(b, t, d), read, rows, features, clean, delta, error_delta, keep)


def _joined(a: Codes, b: Codes, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The entries of either, with the value of both."""
    keys_a, keys_b = a.rows * width + a.features, b.rows * width + b.features
    keys = distinct(torch.cat([keys_a, keys_b]))[0]
    values = []
    for own, codes in ((keys_a, a), (keys_b, b)):
        column = codes.values.new_zeros(len(keys))
        column[torch.searchsorted(keys, own)] = codes.values
        values.append(column)
    return keys // width, keys % width, values[0], values[1]


def distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted distinct keys, and which of them each key is."""
    found, place = torch.unique(keys, return_inverse=True)
    return found, place


def sink_places(x: Tensor) -> Tensor:
    """[B, T, d] → bool [B, T]: places whose norm is over four times the median of their prompt."""
    norms = x.float().norm(dim=2)
    large: Tensor = norms > SINK_FACTOR * norms.median(1, keepdim=True).values
    return large
