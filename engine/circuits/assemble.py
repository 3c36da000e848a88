"""From what a trace has found to the circuit that is shown and stored."""

from __future__ import annotations

import torch

from engine.circuit_results import ERROR, METRIC, CircuitEdge, CircuitNode, CircuitSite, NodeRef
from engine.circuits.gather import Table, gathered, gathered_edges, gathered_inflow, span
from engine.circuits.states import distinct
from engine.circuits.trace import Traced

_DIGITS = 6
RELATIVE_EDGE = 1e-3
"""Edges below this share of the metric are left out where no threshold was given."""


def assemble(traced: Traced) -> tuple[tuple[CircuitSite, ...], tuple[CircuitNode, ...], tuple[CircuitEdge, ...], float]:
    """Sites, nodes (the metric first, then by |effect|), edges, and the edge threshold that was used."""
    total, clean = metric_values(traced)
    inflows = _inflows(traced)
    root_inflow = inflows.get(METRIC)
    root = CircuitNode(
        NodeRef(METRIC), _number(total), inflow=_number(float(root_inflow.values.sum())) if root_inflow else None
    )
    sites: list[CircuitSite] = []
    found: list[tuple[CircuitNode, str, int]] = []
    aggregate = traced.plan.aggregate
    for source, state in traced.work[0].states.items():
        parts = [(w.states[source], e[source]) for w, e in zip(traced.work, traced.effects, strict=True)]
        table = gathered(parts, aggregate, traced.examples)
        width = state.basis.d_sae + 1
        is_error = table.keys % width == width - 1
        kept = torch.isin(table.keys, traced.keys[source])
        sites.append(
            CircuitSite(
                source,
                state.basis.write_site.hook,
                state.basis.write_site.layer,
                state.basis.d_sae,
                _number(float(table.values[~is_error, 0].sum())),
                _number(float(table.values[is_error, 0].sum())),
                int(kept.sum()),
            )
        )
        into = inflows[source].at(table.keys[kept])[:, 0].tolist() if source in inflows else None
        for place, (key, (effect, active, base, unmeasured)) in enumerate(
            zip(table.keys[kept].tolist(), table.values[kept].tolist(), strict=True)
        ):
            feature = key % width
            ref = NodeRef(
                source, ERROR if feature == width - 1 else feature, key // width if aggregate == "none" else None
            )
            node = CircuitNode(
                ref,
                _number(effect),
                _number(active),
                _number(base),
                _number(into[place]) if into is not None and into[place] else None,
                estimated=source not in traced.refined or unmeasured > 0,
            )
            found.append((node, source, key))
    found.sort(key=lambda entry: -abs(entry[0].effect))
    numbers = {(source, key): number for number, (_, source, key) in enumerate(found, 1)}
    floor = traced.plan.edge_threshold
    if floor is None:
        floor = RELATIVE_EDGE * max(abs(total), abs(clean) * 0.1, 1e-9)
    return tuple(sites), (root, *(node for node, _, _ in found)), tuple(_edges(traced, numbers, floor)), floor


def metric_values(traced: Traced) -> tuple[float, float]:
    """Mean metric(clean) − metric(baseline), where the baseline was run, else the clean metric; and the clean one."""
    clean = torch.cat([work.clean for work in traced.work]).mean().item()
    patched = [work.patched for work in traced.work if work.patched is not None]
    return (clean - torch.cat(patched).mean().item() if patched else clean), clean


def _edges(traced: Traced, numbers: dict[tuple[str, int], int], floor: float) -> list[CircuitEdge]:
    edges = []
    aggregate = traced.plan.aggregate
    for (source, target), parts in traced.edges.items():
        table = gathered_edges(
            [(traced.work[n].states[source], traced.work[n].states.get(target), block) for n, block in parts],
            aggregate,
            traced.examples,
        )
        step = span(max((traced.work[n].states[source] for n, _ in parts), key=lambda s: s.shape[1]), aggregate)
        strong = table.values[:, 0].abs() > floor
        for key, weight in zip(table.keys[strong].tolist(), table.values[strong, 0].tolist(), strict=True):
            out_of = numbers.get((source, key % step))
            into = numbers.get((target, key // step)) if target else 0
            if out_of is not None and into is not None:
                edges.append(CircuitEdge(out_of, into, _number(weight)))
    return sorted(edges, key=lambda edge: -abs(edge.weight))


def _inflows(traced: Traced) -> dict[str, Table]:
    """By target, the sum over all its sources of what flows into each node."""
    by_target: dict[str, list[Table]] = {}
    for (_, target), parts in traced.edges.items():
        rows = [(traced.work[n].states.get(target), block) for n, block in parts]
        by_target.setdefault(target, []).append(gathered_inflow(rows, traced.plan.aggregate, traced.examples))
    return {target: _added(tables) for target, tables in by_target.items()}


def _added(tables: list[Table]) -> Table:
    keys = torch.cat([table.keys for table in tables])
    own, place = distinct(keys)
    values = torch.cat([table.values for table in tables])
    return Table(own, values.new_zeros(len(own), 1).index_add_(0, place, values))


def _number(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
