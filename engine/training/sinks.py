"""Attention sinks in training: tokens a hundred times longer than all others, and nearly one direction.

A dictionary is trained on shortened sinks, so that they weigh no more than other tokens. What it learns there is the
sink's direction less its own bias, and at full length that difference is a large error. So one decoder row, that of
a feature the sinks share, is fitted to them at full length once training is over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.reading import SINK_FACTOR

_FEWEST = 16
_NEARLY = 0.95


def part_sinks(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of x [n, d] whose norm is over four medians, and the others."""
    norms = x.norm(dim=1)
    long = norms > SINK_FACTOR * norms.median()
    return x[long], x[~long]


def shorten(x: Tensor, cap: float) -> Tensor:
    """Rows of x [n, d] longer than `cap` at that length."""
    factor: Tensor = (cap / x.norm(dim=1, keepdim=True)).clamp(max=1)
    return x * factor


def refit_sink_row(weights: dict[str, Tensor], sinks: Tensor, ordinary: Tensor, k: int) -> dict[str, Tensor]:
    """TopK weights (SAELens names, float32, unit decoder rows) that reconstruct `sinks` [n, d] better.

    A decoder row becomes the least-squares solution of what all other features leave of the sinks; its length then
    moves into the encoder. Of the features that fire on nearly every sink it is the one whose change moves the
    reconstruction of `ordinary` tokens [m, d] least. Too few sinks, or none such, change nothing.
    """
    if len(sinks) < _FEWEST:
        return weights
    decoder = weights["W_dec"]
    activations = _encode(weights, sinks, k)
    elsewhere = _encode(weights, ordinary, k).square().sum(0)
    left = sinks - weights["b_dec"] - activations @ decoder
    best, least = None, torch.inf
    for feature in ((activations > 0).float().mean(0) >= _NEARLY).nonzero().flatten().tolist():
        own = activations[:, feature]
        change = (own @ left) / own.square().sum()
        damage = float(elsewhere[feature] * change.square().sum())
        if damage < least:
            best, least = (feature, decoder[feature] + change), damage
    if best is None:
        return weights
    feature, row = best
    length = row.norm()
    fitted = {name: tensor.clone() for name, tensor in weights.items()}
    fitted["W_dec"][feature] = row / length
    fitted["W_enc"][:, feature] *= length
    fitted["b_enc"][feature] *= length
    return fitted


def _encode(weights: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    top = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).topk(k, dim=1)
    return torch.zeros(len(x), weights["W_enc"].shape[1]).scatter_(1, top.indices, top.values.relu())
