"""The part of temporal dictionaries that predicts a token's codes from the tokens before it, by attention."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

_EPSILON = 1e-6


@dataclass(frozen=True)
class Attention:
    """One layer: maps stored as [out, in], biases as [out]."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    value: Tensor
    value_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def __call__(self, before: Tensor, here: Tensor, heads: int) -> Tensor:
        """Codes of the tokens before and of the tokens themselves, [T, d_sae] both → predicted codes [T, d_sae]."""
        q = _split(linear(here, self.query, self.query_bias), heads)
        k = _split(linear(before, self.key, self.key_bias), heads)
        v = _split(linear(before, self.value, self.value_bias), heads)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).flatten(1)
        return linear(mixed, self.out, self.out_bias)

    def to(self, device: torch.device, dtype: torch.dtype) -> Attention:
        return Attention(**{f.name: getattr(self, f.name).to(device, dtype) for f in fields(self)})


def _split(x: Tensor, heads: int) -> Tensor:
    """[T, heads·size] → [1, heads, T, size]."""
    return x.view(1, len(x), heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class Prediction:
    """The layers of a temporal dictionary, and by what inputs are scaled before they are encoded."""

    layers: tuple[Attention, ...]
    heads: int
    scale: float

    def to(self, device: torch.device, dtype: torch.dtype) -> Prediction:
        return Prediction(tuple(layer.to(device, dtype) for layer in self.layers), self.heads, self.scale)

    def tensors(self) -> list[Tensor]:
        """Everything it holds, for sizes."""
        return [getattr(layer, f.name) for layer in self.layers for f in fields(layer)]

    def __call__(self, x: Tensor, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt x [T, d], in order: what is predicted of it, and what is left to encode, [T, d] both."""
        left = x
        for layer in self.layers:
            here = linear(left * self.scale, encoder).relu()
            before = torch.cat([torch.zeros_like(here[:1]), here[:-1]])
            written = layer(before, here, self.heads).relu() @ decoder
            length = torch.linalg.vector_norm(written, dim=1, keepdim=True) + _EPSILON
            left = left - (written * left).sum(1, keepdim=True) / length.square() * written
        return x - left, left
