"""The metric a circuit explains, as a function of next-token logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from engine.circuit_results import MetricKind


@dataclass(frozen=True)
class Goal:
    """`goal(logits [R, V], examples [R])` → [R], where row r is a run of example `examples[r]`.

    `targets` and `against` are token ids [B, n]; sets count by their mean logit, or by the log of their summed
    probability for `logprob`. `kl` is −KL(clean ‖ run), with the clean log-probabilities [B, V].
    """

    kind: MetricKind
    targets: Tensor | None = None
    against: Tensor | None = None
    clean: Tensor | None = None

    def __call__(self, logits: Tensor, examples: Tensor) -> Tensor:
        if self.kind == "kl":
            assert self.clean is not None
            clean = self.clean[examples]
            return (clean.exp() * (log_softmax(logits, 1) - clean)).sum(1)
        assert self.targets is not None
        if self.kind == "logprob":
            return log_softmax(logits, 1).gather(1, self.targets[examples]).logsumexp(1)
        value = logits.gather(1, self.targets[examples]).mean(1)
        if self.against is not None:
            value = value - logits.gather(1, self.against[examples]).mean(1)
        return value


def kl_goal(clean_logits: Tensor) -> Goal:
    """KL to a clean run with these logits [B, V]."""
    return Goal("kl", clean=log_softmax(clean_logits, 1).detach())


def token_ids(rows: list[list[int]], device: torch.device) -> Tensor:
    """[B, n] of token ids."""
    return torch.tensor(rows, dtype=torch.long, device=device)
