"""What a dictionary makes of the points of a walk, beside what it makes of the start."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.dictionary import Dictionary

FIGURES = ("distance", "feature distance", "cosine", "feature cosine", "kept", "l0", "mse", "unexplained")
_BLOCK_ELEMENTS = 1 << 24


class Readings:
    """Compares points with the start `base` [P, d], each encoded and decoded again; figures are means over P."""

    @torch.inference_mode()
    def __init__(self, dictionary: Dictionary, base: Tensor) -> None:
        self._dictionary = dictionary
        self._base = base
        self._features = dictionary.encode(base)
        self._active = self._features != 0

    @torch.inference_mode()
    def figures(self, moved: Tensor, walked: Tensor | None) -> Tensor:
        """One row of `FIGURES` for each walk that has moved by `moved` [W, P, d] → [W, 8], in float64 on the CPU.

        Args:
            walked: the distance in feature space, [W, P]; None: that of the features read at the start and here.
        """
        walks = max(1, _BLOCK_ELEMENTS // (len(self._base) * self._dictionary.d_sae))
        parts = [
            self._of(moved[n : n + walks], None if walked is None else walked[n : n + walks])
            for n in range(0, len(moved), walks)
        ]
        return torch.cat(parts).cpu()

    def _of(self, moved: Tensor, walked: Tensor | None) -> Tensor:
        points = self._base + moved
        flat = points.flatten(0, 1)
        active = self._dictionary.encode(flat)
        error = (self._dictionary.decode(active, flat) - flat).view_as(points).double().square()
        features = active.view(*points.shape[:2], -1)
        apart = (features - self._features).norm(dim=2)
        kept = ((features != 0) & self._active).sum(2) / self._active.sum(1)
        columns = (
            moved.norm(dim=2),
            apart if walked is None else walked,
            _cosine(points, self._base),
            _cosine(features, self._features),
            kept,
            (features != 0).sum(2),
            error.mean(2),
            error.sum(2) / points.double().square().sum(2),
        )
        means = [column.double().mean(1) for column in columns]
        means[FIGURES.index("kept")] = kept.double().nanmean(1)  # of the positions where there is anything to keep
        return torch.stack(means, 1)


def _cosine(points: Tensor, start: Tensor) -> Tensor:
    """[W, P, n] with [P, n] → [W, P]; exactly 1 where nothing has changed."""
    cosine = cosine_similarity(points.double(), start.double()[None], dim=2)
    return torch.where((points == start).all(2), 1.0, cosine)
