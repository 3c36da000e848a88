"""The inside of a norm: its input divided by its size, before weight and bias, which no module boundary shows.

As TransformerLens' `hook_normalized` on unprocessed weights: x/√(mean x² + eps) for an RMS norm and the same of x
without its mean for a LayerNorm, in float32 at least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import DictionaryMismatch


def check(norm: nn.Module) -> None:
    """Refuse a module that is neither a LayerNorm nor an RMS norm.

    Raises:
        DictionaryMismatch: its inside is not known.
    """
    if not _is_layer_norm(norm) and "RMSNorm" not in type(norm).__name__:
        raise DictionaryMismatch(
            f"What {type(norm).__name__} holds before its weight is not known.",
            "Use a dictionary that reads mlp.hook_in.",
        )


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """What the norm makes of x before weight and bias: the shape of x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if _is_layer_norm(norm):
        wide = wide - wide.mean(-1, keepdim=True)
    return wide / (wide.square().mean(-1, keepdim=True) + _eps(norm)).sqrt()


def finished(norm: nn.Module, inner: Tensor, offset: float, dtype: torch.dtype) -> Tensor:
    """The norm's output where its inside is `inner`; `offset` is added to its weight."""
    weight: Any = norm.weight
    bias: Any = getattr(norm, "bias", None)
    out: Tensor = inner * (weight.to(inner.dtype) + offset)
    if bias is not None:
        out = out + bias.to(inner.dtype)
    return out.to(dtype)


def _is_layer_norm(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm)


def _eps(norm: nn.Module) -> float:
    """LayerNorm and Gemma call it `eps`, Llama and Qwen `variance_epsilon`."""
    found: Any = getattr(norm, "eps", None)
    if found is None:
        found = getattr(norm, "variance_epsilon", None)
    if found is None:
        raise DictionaryMismatch(f"{type(norm).__name__} does not say its epsilon.")
    return float(found)
