"""All other features of a dictionary before and after a change: how many are different, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.dictionary import Dictionary

OTHERS = (
    "active", "changed", "new", "vanished", "small", "mean change", "relative change", "cosine",
    "rebuilt cosine", "mse",
)  # fmt: skip
_BLOCK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Others:
    """Figures in the order of `OTHERS`, nan where there are none; and the features that fire, with their means [m]."""

    figures: Tensor
    indices: Tensor
    before: Tensor
    after: Tensor


class Comparison:
    """One dictionary on the same tokens before and after, block by block.

    Args:
        skip: the changed feature, where it is of this dictionary; it does not count.
        changed: by more than this share of its activation a feature has changed.
    """

    def __init__(self, dictionary: Dictionary, skip: int | None, changed: float) -> None:
        self._dictionary = dictionary
        self._skip = skip
        self._share = changed
        self._counts = torch.zeros(8, dtype=torch.float64)
        self._token_sums = torch.zeros(3, dtype=torch.float64)
        self._tokens = 0
        self._sums = torch.zeros(2, dictionary.d_sae, dtype=torch.float64, device=dictionary.device)

    @torch.inference_mode()
    def of(self, features: Tensor, before: Tensor, after: Tensor) -> Others:
        """Compare n tokens.

        Args:
            features: the activations before, [n, d_sae].
            before, after: what the dictionary reads, [n, d_in].
        """
        step = max(1, _BLOCK_ELEMENTS // self._dictionary.d_sae)
        for start in range(0, len(after), step):
            part = slice(start, start + step)
            self._add(features[part], before[part], after[part].to(self._dictionary.precision))
        return self._found()

    def _add(self, old: Tensor, before: Tensor, after: Tensor) -> None:
        dictionary = self._dictionary
        new = dictionary.encode(after)
        rebuilt = [dictionary.decode_active(*pair).double() for pair in ((old, before), (new, after))]
        if self._skip is not None:
            old, new = old.clone(), new.clone()
            old[:, self._skip] = new[:, self._skip] = 0
        fired, fires = old != 0, new != 0
        difference = (new - old).abs()
        changed = difference > self._share * old.abs()
        counts = (
            (fired | fires).sum(), changed.sum(), (fires & ~fired).sum(), (fired & ~fires).sum(),
            (changed & (difference < 1)).sum(), difference.double().sum(),
            (difference[fired] / old[fired].abs()).double().sum(), fired.sum(),
        )  # fmt: skip
        self._counts += torch.stack([count.double() for count in counts]).cpu()
        sums = (
            _cosines(old.double(), new.double()).sum(), _cosines(*rebuilt).sum(),
            (rebuilt[1] - rebuilt[0]).square().mean(1).sum(),
        )  # fmt: skip
        self._token_sums += torch.stack(sums).cpu()
        self._tokens += len(old)
        self._sums += torch.stack([old.double().sum(0), new.double().sum(0)])

    def _found(self) -> Others:
        active, changed, new, vanished, small, change, relative, fired = self._counts
        cosine, rebuilt, mse = self._token_sums / self._tokens
        figures = torch.stack(
            [
                active / self._tokens, changed / active, new / active, vanished / active, small / changed,
                change / active, relative / fired, cosine, rebuilt, mse,
            ]
        )  # fmt: skip
        means = self._sums / self._tokens
        indices = (means != 0).any(0).nonzero()[:, 0]
        return Others(figures, indices.cpu(), means[0, indices].cpu(), means[1, indices].cpu())


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of rows [n, d] → [n]; exactly 1 for equal ones."""
    return torch.where((a == b).all(1), 1.0, cosine_similarity(a, b, dim=1))
