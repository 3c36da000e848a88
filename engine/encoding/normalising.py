"""What is done to an input before it is encoded, and how the reconstruction undoes it."""

from __future__ import annotations

import torch
from torch import Tensor

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "constant_scalar_rescale")
_EPSILON = 1e-5
"""SAELens adds it to the deviation on the way in and leaves it out on the way back."""


def normalised(x: Tensor, how: str, scale: float = 1.0) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """x [n, d], and the factor and offset ([n, 1], or numbers) that undo what was done to it.

    Args:
        how: one of `NORMALISATIONS`.
        scale: what `constant_scalar_rescale` multiplies by.
    """
    if how == "layer_norm":
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).std(1, keepdim=True)
        return (x - mean) / (spread + _EPSILON), spread, mean
    if how == "constant_norm_rescale":
        factor = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
        return x / factor, factor, 0.0
    if how == "constant_scalar_rescale":
        return x * scale, 1 / scale, 0.0
    return x, 1.0, 0.0
