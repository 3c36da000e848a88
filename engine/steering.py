"""Interventions as visitors: what steering does to the residual stream.

`add`: x += strength · W_dec[i] at every token of the prompt, the last included, and at every generated token.
The dictionary's reconstruction is not spliced in, so its error term is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from engine.model import Visitor
from engine.opening import OpenSet
from engine.protocol import Intervention
from engine.sites import Site


def added_directions(opened: OpenSet, interventions: Iterable[Intervention]) -> dict[Site, Tensor]:
    """Per site the sum of strength · W_dec[i] [d], so that several interventions in one dictionary all act."""
    sums: defaultdict[Site, list[Tensor]] = defaultdict(list)
    for intervention in interventions:
        feature = intervention.feature
        dictionary = opened.find(feature.source, feature.index)
        sums[dictionary.write_site].append(intervention.strength * dictionary.decoder[feature.index])
    return {site: torch.stack(parts).sum(0) for site, parts in sums.items()}


def steer_row(directions: Mapping[Site, Tensor], row: int) -> dict[Site, Visitor]:
    """Visitors that add each site's direction to one row of the batch, at whatever tokens pass."""

    def visitor(direction: Tensor) -> Visitor:
        def visit(x: Tensor) -> Tensor:
            steered = x.clone()
            steered[row] += direction.to(x.dtype).reshape(x.shape[2:])
            return steered

        return visit

    return {site: visitor(direction) for site, direction in directions.items()}
