"""Causal scrutiny: run the intervention a claim speaks of and put what is measured beside what was predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.circuit_results import ERROR, Check, NodeRef
from engine.circuits.edges import continued, upstream
from engine.circuits.gather import node_places
from engine.circuits.states import SiteState
from engine.circuits.trace import Traced
from engine.circuits.workspace import Workspace
from engine.errors import BadRequest
from engine.model import Visitor


def check_node(traced: Traced, ref: NodeRef, predicted: float) -> Check:
    """Put a node at its baseline (everywhere, where positions are aggregated) and measure the metric."""
    _comparable(traced, ref)
    changes = []
    for work in traced.work:
        state = _state(work, ref)
        x = state.x + moved(state, ref)
        with torch.no_grad():
            logits = work.run.from_site(state.basis.write_site, x, work.examples)
        changes.append(work.clean - work.goal(logits, work.examples))
    where = "at every position" if ref.position is None else "there"
    how = f"set to {_baseline(traced)} {where}"
    return Check(ref, None, predicted, torch.cat(changes).mean().item(), how)


def check_edge(traced: Traced, source: NodeRef, target: NodeRef, predicted: float) -> Check:
    """Put `source` at its baseline, hold every other site between at its clean value, and measure `target`.

    What is measured is the target's coefficient (of an error node: the error along its gradient), in units of the
    metric by the same constant gradient the edge was computed with.
    """
    if target.is_metric:
        return check_direct(traced, source, predicted)
    _comparable(traced, source)
    measured, before, after, slope, found = 0.0, 0.0, 0.0, 0.0, False
    for number, work in enumerate(traced.work):
        _directly(source, target, upstream(work, target.source))
        state = _state(work, target)
        nodes = _nodes_of(state, target, traced.targets(number, target.source))
        if not len(nodes):
            continue
        found = True
        gradient = traced.effects[number][target.source].gradient
        own = _state(work, source)
        changed = own.x + moved(own, source)
        values = []
        for x in (own.x, changed):
            with torch.no_grad():
                values.append(_target_values(work, state, source.source, target.source, x, nodes, gradient))
        measured += float((values[0][0] - values[1][0]).sum())
        before, after = before + float(values[0][1].sum()), after + float(values[1][1].sum())
        slope += float(values[0][2].sum())
    if not found:
        raise BadRequest(
            f"{target} has no edges: its effect is below the node threshold.", "Verify its effect instead."
        )
    count = traced.examples
    change = None
    if not target.is_error and traced.examples == 1 and target.position is not None and slope:
        change = (-predicted / slope, after - before)
    how = f"{source} set to {_baseline(traced)}, sites between held clean"
    return Check(source, target, predicted, measured / count, how, change)


def check_direct(traced: Traced, source: NodeRef, predicted: float) -> Check:
    """The edge into the metric: every later site of the circuit held at its clean value."""
    _comparable(traced, source)
    changes = []
    for work in traced.work:
        own, sources = _state(work, source), upstream(work, None)
        _directly(source, NodeRef(""), sources)
        later = [s for s in sources if work.states[s].basis.write_site.depth > own.basis.write_site.depth]
        held = {work.states[s].basis.write_site: _holding(work.states[s].x) for s in later}
        with torch.no_grad():
            logits = work.run.from_site(own.basis.write_site, own.x + moved(own, source), work.examples, held)
        changes.append(work.clean - work.goal(logits, work.examples))
    how = f"{source} set to {_baseline(traced)}, later sites held clean"
    return Check(source, NodeRef(""), predicted, torch.cat(changes).mean().item(), how)


def moved(state: SiteState, ref: NodeRef) -> Tensor:
    """What putting a node at its baseline adds at its site, [B, T, d]."""
    b, t, d = state.shape
    shift = state.x.new_zeros(b * t, d)
    position = torch.arange(b * t, device=shift.device) % t
    if ref.index == ERROR:
        mine = position == ref.position if ref.position is not None else torch.ones_like(position, dtype=torch.bool)
        return torch.where(mine[:, None], state.error_delta, shift).reshape(b, t, d)
    chosen = state.features == ref.index
    if ref.position is not None:
        chosen &= state.rows % t == ref.position
    rows = state.rows[chosen]
    shift.index_add_(
        0, rows, state.basis.directions(state.features[chosen]).to(shift.dtype) * state.delta[chosen, None]
    )
    return shift.reshape(b, t, d)


def _target_values(
    work: Workspace, state: SiteState, source: str, target: str, x: Tensor, nodes: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """T = g·d of each node, its coefficient and its g, with `x` at the source and the other sites held clean."""
    read, written = continued(work, target, {source: x})
    features = len(state.features)
    places, feature = node_places(state)
    place, feature = places[nodes], feature[nodes]
    is_error = nodes >= features
    here, there = read.reshape(-1, read.shape[-1])[place], written.reshape(-1, state.shape[2])[place]
    feature = feature.masked_fill(is_error, 0)
    active = ~is_error
    values = state.basis.activation(here, feature) * active
    slope = state.basis.along(feature, gradient[place]) * active
    error = ((there - state.basis.reconstruct(here)) * gradient[place]).sum(1)
    return torch.where(is_error, error, values * slope), values, slope


def _nodes_of(state: SiteState, ref: NodeRef, nodes: Tensor) -> Tensor:
    """Of these nodes those that `ref` names; of an example without it, none."""
    places, features = node_places(state)
    wanted = state.basis.d_sae if ref.is_error else ref.index
    mine = features[nodes] == wanted
    if ref.position is not None:
        mine &= places[nodes] % state.shape[1] == ref.position
    return nodes[mine]


def _directly(source: NodeRef, target: NodeRef, sources: list[str]) -> None:
    if source.source not in sources:
        what = "the metric" if target.is_metric else target.source
        raise BadRequest(f"{source.source} is not directly upstream of {what}.", "Choose an edge of the tree.")


def _holding(x: Tensor) -> Visitor:
    return lambda old: x.reshape(old.shape)


def _state(work: Workspace, ref: NodeRef) -> SiteState:
    if (state := work.states.get(ref.source)) is None:
        raise BadRequest(f"{ref.source} is not in the last circuit.", "Trace the circuit again.")
    return state


def _comparable(traced: Traced, ref: NodeRef) -> None:
    if traced.plan.aggregate == "max" and traced.work[0].run.length > 1:
        raise BadRequest(
            "A maximum over positions cannot be measured by one intervention.", "Trace with aggregate none or sum."
        )
    if ref.is_metric:
        raise BadRequest("The metric itself is not a claim.", "Choose a node.")


def _baseline(traced: Traced) -> str:
    return "its patch value" if traced.work[0].patched is not None else "zero"
