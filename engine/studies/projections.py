"""Maps: many directions drawn in two or three dimensions, by PCA or UMAP."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.interrupts import interrupts_later

UMAP_NEIGHBOURS = 15
UMAP_MIN_DISTANCE = 0.05
_FEWEST_FOR_UMAP = 10


@dataclass(frozen=True)
class Projection:
    """Coordinates [n, dimensions], and by each the share of the variance it explains, where that has a meaning."""

    coordinates: Tensor
    explained: tuple[float, ...] = ()


def pca(rows: Tensor, dimensions: int) -> Projection:
    """Rows [n, d] on their first principal components; 0 in those there are none of.

    Of each component the entry largest in size is positive, so that the same rows always give the same map.
    """
    centred = (rows - rows.mean(0)).double().cpu()
    n, d = centred.shape
    if d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        components = vectors.flip(1)[:, :dimensions]
    else:  # the same components from the smaller of the two products
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        components = torch.nn.functional.normalize(centred.T @ vectors.flip(1)[:, :dimensions], dim=0)
    values = values.flip(0).clamp(min=0)
    largest = components.abs().argmax(0, keepdim=True)
    signs = components.gather(0, largest).sign()
    coordinates = centred @ (components * torch.where(signs == 0, 1.0, signs))
    variance = float(values.sum())
    shares = [float(v) / variance if variance > 0 else 0.0 for v in values[:dimensions]]
    lacking = dimensions - coordinates.shape[1]
    padded = torch.nn.functional.pad(coordinates, (0, lacking))
    return Projection(padded, tuple(shares + [0.0] * (dimensions - len(shares))))


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
