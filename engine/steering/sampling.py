"""How the next token is drawn: repetition penalty, temperature, top-k, top-p, in Hugging Face's order.

A number in [0, 1) picks the token, so two arms that are given the same number draw the same token wherever their
distributions agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadRequest


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the likeliest, top_k 0 all."""

    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    repetition_penalty: float = 1.0

    def check(self) -> None:
        """Raise BadRequest where a setting has no meaning."""
        if not 0 <= self.temperature < math.inf:
            raise BadRequest(f"{self.temperature} is not a temperature.", "Use 0 for greedy, or a positive number.")
        if not 0 < self.top_p <= 1:
            raise BadRequest(f"{self.top_p} is not a top-p.", "It lies above 0 and at most at 1.")
        if self.top_k < 0:
            raise BadRequest(f"{self.top_k} is not a top-k.", "Use 0 for all tokens, or a positive number.")
        if not 0 < self.repetition_penalty < math.inf:
            raise BadRequest(f"{self.repetition_penalty} is not a repetition penalty.", "Use 1 for none.")
        if not 0 <= self.seed < 1 << 63:
            raise BadRequest(f"{self.seed} is not a seed.", "Use a whole number from 0.")


def draw(logits: Tensor, uniform: float, sampling: Sampling, text: Sequence[int] = ()) -> int:
    """The token that `uniform` ∈ [0, 1) picks from logits [vocabulary]; `text` are the ids before it.

    Tokens are laid out from likely to unlikely (ties by id) and cut after `top_k`, then where `top_p` of the mass is
    reached (Holtzman et al. 2020). The penalty is that of Keskar et al. 2019 (CTRL).
    """
    scores = _penalised(logits, sampling.repetition_penalty, text)
    if sampling.temperature == 0:
        return int(scores.argmax())
    ordered, indices = (scores.double() / sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k:
        ordered = ordered[: sampling.top_k]
    mass = ordered.softmax(0).cumsum(0)
    limit = min(sampling.top_p, 1.0) * float(mass[-1])
    reach = int(torch.searchsorted(mass, limit)) + 1
    kept = mass[: max(1, min(reach, len(mass)))]
    place = int(torch.searchsorted(kept, uniform * float(kept[-1]), right=True))
    return int(indices[min(place, len(kept) - 1)])


def _penalised(logits: Tensor, penalty: float, text: Sequence[int]) -> Tensor:
    if penalty == 1 or not text:
        return logits
    met = torch.tensor(sorted(set(text)), device=logits.device)
    scores = logits.clone()
    scores[met] = torch.where(logits[met] > 0, logits[met] / penalty, logits[met] * penalty)
    return scores


class Uniforms:
    """The random numbers of a seed, one a step: all arms read the same ones."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[float] = []

    def __getitem__(self, step: int) -> float:
        while len(self._drawn) <= step:
            self._drawn.append(float(torch.rand((), generator=self._generator, dtype=torch.float64)))
        return self._drawn[step]
