"""Maps: many directions drawn in two or three dimensions, by PCA or UMAP."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.interrupts import interrupts_later

UMAP_NEIGHBOURS = 15
UMAP_MIN_DISTANCE = 0.05
_FEWEST_FOR_UMAP = 10
_DENSE = 512
"""Up to this size all components are computed; of more only the first, which takes a small part of the time."""
_SPARE, _POWERS, _ROUNDS = 8, 8, 50
_CONVERGED = 1e-9
"""‖Av − λv‖ of a component, as a share of the largest λ."""


@dataclass(frozen=True)
class Projection:
    """Coordinates [n, dimensions], and by each the share of the variance it explains, where that has a meaning."""

    coordinates: Tensor
    explained: tuple[float, ...] = ()


def pca(rows: Tensor, dimensions: int, rest: Callable[[], None] = lambda: None) -> Projection:
    """Rows [n, d] on their first principal components; 0 in those there are none of.

    Of each component the entry largest in size is positive, so that the same rows always give the same map.

    Args:
        rest: called every now and then; what it raises ends the work.
    """
    centred = (rows - rows.mean(0)).double().cpu()
    n, d = centred.shape
    if min(n, d) > _DENSE:
        values, components = _leading(centred, dimensions, rest)
    elif d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        values, components = values.flip(0), vectors.flip(1)[:, :dimensions]
    else:  # the same components from the smaller of the two products
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        values = values.flip(0)
        components = torch.nn.functional.normalize(centred.T @ vectors.flip(1)[:, :dimensions], dim=0)
    values = values.clamp(min=0)
    largest = components.abs().argmax(0, keepdim=True)
    signs = components.gather(0, largest).sign()
    coordinates = centred @ (components * torch.where(signs == 0, 1.0, signs))
    variance = float(centred.square().sum())
    shares = [float(v) / variance if variance > 0 else 0.0 for v in values[:dimensions]]
    lacking = dimensions - coordinates.shape[1]
    padded = torch.nn.functional.pad(coordinates, (0, lacking))
    return Projection(padded, tuple(shares + [0.0] * (dimensions - len(shares))))


def _leading(centred: Tensor, k: int, rest: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues λ of A = XᵀX, largest first [k], and their vectors [d, k], for X [n, d].

    Block Lanczos with restarts: in the space of S, AS, …, A⁸S the eigenproblem is small, and its best vectors are the
    next S. A itself, d × d, is never made.
    """
    start = torch.randn(centred.shape[1], k + _SPARE, generator=torch.Generator().manual_seed(0), dtype=centred.dtype)
    for _ in range(_ROUNDS):
        blocks = [torch.linalg.qr(start).Q]
        for _ in range(_POWERS):
            rest()
            after = centred.T @ (centred @ blocks[-1])
            for before in blocks:
                after -= before @ (before.T @ after)
            blocks.append(torch.linalg.qr(after).Q)
        space = torch.linalg.qr(torch.cat(blocks, 1)).Q  # once more: what is left of a small block is rounding
        image = centred @ space
        values, vectors = torch.linalg.eigh(image.T @ image)
        values, vectors = values.flip(0), vectors.flip(1)[:, : k + _SPARE]
        start = space @ vectors
        left = centred.T @ (image @ vectors[:, :k]) - start[:, :k] * values[:k]
        if bool((left.norm(dim=0) <= _CONVERGED * values[0]).all()):
            break
    return values[:k], start[:, :k]


def check_umap() -> None:
    """Refuse where UMAP is not installed; costs nothing.

    Raises:
        BadRequest: it is not, with how to get it.
    """
    from importlib.util import find_spec

    if find_spec("umap") is None:
        raise BadRequest("UMAP is not installed.", 'Install it with `pip install "saescope[umap]"`, or use --map pca.')


def umap(rows: Tensor, dimensions: int, seed: int) -> Projection:
    """Rows [n, d] laid out by UMAP of their cosines: 15 neighbours, least distance .05 (Towards Monosemanticity).

    The layout is turned so that its widest direction is x and the next y. One seed gives one map on one machine.

    Raises:
        BadRequest: UMAP is not installed, or there are too few rows.
    """
    check_umap()
    if len(rows) < _FEWEST_FOR_UMAP:
        raise BadRequest(f"{len(rows)} features are too few for UMAP.", "Draw more --points, or use --map pca.")
    with interrupts_later(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its compiler's future, which is nobody's concern here
        from umap import UMAP
    layout = UMAP(
        n_neighbors=min(UMAP_NEIGHBOURS, len(rows) - 1),
        metric="cosine",
        min_dist=UMAP_MIN_DISTANCE,
        n_components=dimensions,
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        placed = layout.fit_transform(rows.float().cpu().numpy())
    found = torch.from_numpy(np.nan_to_num(np.asarray(placed, dtype=np.float64)))
    return Projection(pca(found, dimensions).coordinates)
