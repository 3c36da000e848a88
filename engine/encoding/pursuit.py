"""Matching pursuit: atom after atom is taken off the input, each time the decoder row that fits what is left best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pursuit:
    """When the pursuit of a token ends."""

    residual_threshold: float = 1e-2
    """When less than this is left; 0 or less is never."""
    max_iterations: int | None = None
    """After this many steps; None is as many as the input has coordinates."""
    stop_on_duplicate: bool = True
    """As soon as a step brings no feature that was not there."""


def pursue(x: Tensor, decoder: Tensor, pursuit: Pursuit) -> tuple[Tensor, Tensor]:
    """What each step took off x [n, d]: features and amounts, [n, steps] both; a feature can come more than once.

    Amounts are differentiable in x, for the features as they were chosen.
    """
    steps = list(_steps(x, decoder, pursuit))
    if not steps:
        return x.new_zeros(len(x), 0, dtype=torch.long), x.new_zeros(len(x), 0)
    chosen, amounts = zip(*steps, strict=True)
    return torch.stack(chosen, 1), torch.stack(amounts, 1)


def _steps(x: Tensor, decoder: Tensor, pursuit: Pursuit) -> Iterator[tuple[Tensor, Tensor]]:
    met = torch.zeros(len(x), len(decoder), dtype=torch.bool, device=x.device)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    left = x
    for _ in range(x.shape[1] if pursuit.max_iterations is None else pursuit.max_iterations):
        with torch.no_grad():
            chosen = (left @ decoder.T).argmax(1)
        rows = decoder[chosen]
        amounts = (left * rows).sum(1).relu() * ~done
        left = left - amounts[:, None] * rows
        yield chosen, amounts
        with torch.no_grad():
            if pursuit.stop_on_duplicate:
                known = met.gather(1, chosen[:, None])[:, 0]
                met.scatter_(1, chosen[:, None], (known | (amounts > 0))[:, None])
                done = done | known | (amounts <= 0)
            if pursuit.residual_threshold > 0:
                done = done | (torch.linalg.vector_norm(left, dim=1) < pursuit.residual_threshold)
            if bool(done.all()):
                return


def summed(chosen: Tensor, amounts: Tensor, width: int) -> Tensor:
    """Steps [n, steps] as activations [n, width]."""
    return amounts.new_zeros(len(amounts), width).scatter_add(1, chosen, amounts)
