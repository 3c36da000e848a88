"""From the effects and edges of many places to the nodes and edges of one circuit.

A node's key counts positions and features: position · (F + 1) + feature, the error being feature F; where positions
are aggregated the position is 0. `none` averages over examples at each position; `sum` adds positions and averages
over examples; `max` takes the entry of largest magnitude over positions, with its sign, and averages over examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuit_results import Aggregate
from engine.circuits.edges import EdgeBlock
from engine.circuits.effects import SiteEffects
from engine.circuits.states import SiteState, distinct


@dataclass
class Table:
    """Values by sorted distinct key: keys [m], values [m, columns]."""

    keys: Tensor
    values: Tensor

    def at(self, keys: Tensor) -> Tensor:
        """Rows of these keys, zero where there is none → [k, columns]."""
        if not len(self.keys):
            return self.values.new_zeros(len(keys), self.values.shape[1])
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return self.values[place] * (self.keys[place] == keys)[:, None]


def summed(keys: Tensor, values: Tensor) -> Table:
    """Add the rows of equal keys: keys [n], values [n, columns]."""
    own, place = distinct(keys)
    return Table(own, values.new_zeros(len(own), values.shape[1]).index_add_(0, place, values))


def strongest(keys: Tensor, values: Tensor) -> Table:
    """Of the rows of equal keys the one whose first column has the largest magnitude."""
    own, place = distinct(keys)
    size = values[:, 0].abs()
    largest = size.new_zeros(len(own)).scatter_reduce_(0, place, size, "amax")
    first = torch.full_like(own, len(keys))
    is_largest = size == largest[place]
    numbers = torch.arange(len(keys), device=keys.device)
    first.scatter_reduce_(0, place[is_largest], numbers[is_largest], "amin")
    return Table(own, values[first])


def node_places(state: SiteState) -> tuple[Tensor, Tensor]:
    """Place (row of B·T) and feature (F for the error) of every node of a state, entries first."""
    b, t, _ = state.shape
    places = torch.arange(b * t, device=state.rows.device)
    width = state.basis.d_sae
    return torch.cat([state.rows, places]), torch.cat([state.features, torch.full_like(places, width)])


def node_keys(state: SiteState, aggregate: Aggregate) -> Tensor:
    """The key of every node of a state."""
    places, features = node_places(state)
    if aggregate != "none":
        return features
    return places % state.shape[1] * (state.basis.d_sae + 1) + features


def gathered(parts: list[tuple[SiteState, SiteEffects]], aggregate: Aggregate, examples: int) -> Table:
    """Effect, clean and baseline coefficient, and share left unmeasured, of a site's nodes: means over examples."""
    keys, values = [], []
    for state, effects in parts:
        nothing = torch.zeros_like(effects.errors)
        clean = torch.cat([state.clean, nothing])
        base = torch.cat([state.clean + state.delta, nothing])
        left = torch.zeros_like(clean) if effects.measured is None else (~effects.measured).to(clean.dtype)
        rows = torch.stack([torch.cat([effects.features, effects.errors]), clean, base, left], 1)
        own = node_keys(state, aggregate)
        if aggregate == "max":
            example = node_places(state)[0] // state.shape[1]
            width = state.basis.d_sae + 1
            table = strongest(example * width + own, rows)
            own, rows = table.keys % width, table.values
        keys.append(own)
        values.append(rows)
    table = summed(torch.cat(keys), torch.cat(values))
    return Table(table.keys, table.values / examples)


def gathered_edges(
    parts: list[tuple[SiteState, SiteState | None, EdgeBlock]], aggregate: Aggregate, examples: int
) -> Table:
    """Weights [e, 1] by `target key · span + source key` of one pair of sites, mean over examples; see `span`.

    Args:
        parts: source state, target state (None: the metric, whose key is 0), and the block, batch by batch.
    """
    keys, values = [], []
    for source, target, block in parts:
        step = span(source, aggregate)
        out_of = node_keys(source, aggregate)[block.out_of]
        into = node_keys(target, aggregate)[block.into] if target is not None else torch.zeros_like(out_of)
        own, rows = into * step + out_of, block.weights[:, None]
        if aggregate == "max":
            example = node_places(source)[0][block.out_of] // source.shape[1]
            pairs, place = distinct(own)
            table = strongest(example * len(pairs) + place, rows)
            own, rows = pairs[table.keys % max(len(pairs), 1)], table.values
        keys.append(own)
        values.append(rows)
    table = summed(torch.cat(keys), torch.cat(values))
    return Table(table.keys, table.values / examples)


def gathered_inflow(parts: list[tuple[SiteState | None, EdgeBlock]], aggregate: Aggregate, examples: int) -> Table:
    """Inflow [n, 1] of one target site's nodes from one source site, mean over examples."""
    keys, values = [], []
    for target, block in parts:
        own = node_keys(target, aggregate)[block.nodes] if target is not None else torch.zeros_like(block.nodes)
        keys.append(own)
        values.append(block.inflow[:, None])
    table = summed(torch.cat(keys), torch.cat(values))
    return Table(table.keys, table.values / examples)


def span(state: SiteState, aggregate: Aggregate) -> int:
    """How many keys a site has."""
    return (state.basis.d_sae + 1) * (state.shape[1] if aggregate == "none" else 1)
