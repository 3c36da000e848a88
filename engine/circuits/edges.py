"""Edges: what part of a node's effect comes directly through each node upstream.

For a target d with constant gradient g_d (that of its effect), T = g_d · d is differentiated with respect to every
upstream site; the weight of source u is −Δu · ∂T/∂u. Every site in between is cut (its value held), so that each path
counts once: an edge covers the paths that meet no other site of the circuit. That is the rule of sparse feature
circuits' stop-gradients (`circuit.py`), stated for any set of sites. The encoder's Jacobian is included.

Many targets go in one backward pass, batched over them; a pass ends at the last position any of them can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuits.effects import SiteEffects
from engine.circuits.passes import StopHere, joined
from engine.circuits.states import SiteState
from engine.circuits.workspace import Workspace
from engine.model import Visitor
from engine.sites import Site

_CUTS = frozenset({"resid_pre", "resid_mid", "resid_post", "embed"})
"""Kinds of sites that everything upstream passes through."""
_ELEMENTS = 1 << 24
_PASS = 64
"""What one more pass costs beside its tokens, in tokens: the weights are read again."""


@dataclass
class EdgeBlock:
    """Edges between two sites. Nodes count a state's entries first, then the errors of its places.

    Attributes:
        target: source name of the downstream site, "" for the metric, whose nodes are the examples.
        into, out_of: node of the target and of the source, [e]; weights [e].
        nodes, inflow: every target node asked for, and the sum of all weights into it from this source, [k].
    """

    source: str
    target: str
    into: Tensor
    out_of: Tensor
    weights: Tensor
    nodes: Tensor
    inflow: Tensor


def upstream(work: Workspace, target: str | None) -> list[str]:
    """Sources directly upstream of a target site (None: the metric), back to the site everything passes through."""
    before = None if target is None else work.states[target].basis.write_site.depth
    found: list[str] = []
    for source, state in reversed(work.states.items()):
        site = state.basis.write_site
        if before is not None and site.depth >= before:
            continue
        found.insert(0, source)
        if site.kind in _CUTS:
            break
    return found


def edges_into(
    work: Workspace,
    target: str,
    targets: Tensor,
    gradient: Tensor,
    kept: dict[str, Tensor],
    progress: Callable[[int, int], None],
) -> list[EdgeBlock]:
    """Edges into nodes `targets` [k] of a site from the `kept` nodes of every site directly upstream.

    Args:
        gradient: of the metric at the target's site, [B·T, d]: that of its effects.
        kept: by source, sorted node numbers.
    """
    sources = upstream(work, target)
    if not sources or not len(targets):
        return []
    state = work.states[target]
    t = state.shape[1]
    position = _places(state, targets) % t
    collector = _Collector(work, sources, target, targets, kept)
    blocks = max(_depth(work, target) - _depth(work, sources[0]), 1)
    before = 0
    for group in _by_length(position):
        length = int(position[group].max()) + 1
        example = _places(state, targets[group]) // t
        slot = _slots(example)

        def piece(part: slice, group: Tensor = group, length: int = length, slot: Tensor = slot) -> None:
            mine = group[(slot >= part.start) & (slot < part.stop)]
            gradients, rows = _pulled_back(work, sources, state, targets[mine], gradient, length)
            collector.add(mine, rows, position[mine], gradients)

        tokens = length * len(set(example.tolist()))
        for done in work.in_pieces(int(slot.max()) + 1, tokens, blocks, piece):
            progress(before + min(done, len(group)), len(targets))
        before += len(group)
    return list(collector.blocks())


def _by_length(position: Tensor) -> Iterator[Tensor]:
    """Numbers of targets that share a pass, the longest first.

    A pass over a prefix computes only what its targets can see, but costs what reading the weights costs: targets
    with shorter prefixes go apart where that saves more tokens than it costs.
    """
    order = position.argsort(stable=True)
    lengths = (position[order] + 1).tolist()
    end = len(lengths)
    while end:
        longest = lengths[end - 1]
        savings = [n * (longest - lengths[n - 1]) - lengths[n - 1] - _PASS for n in range(1, end)]
        best = max(savings, default=0)
        split = savings.index(best) + 1 if best > 0 else 0
        yield order[split:end]
        end = split


def _slots(example: Tensor) -> Tensor:
    """Which of its example's targets each one is: one slot holds at most one target of every example."""
    counts: dict[int, int] = {}
    slots = []
    for number in example.tolist():
        slots.append(counts.get(number, 0))
        counts[number] = slots[-1] + 1
    return torch.tensor(slots, device=example.device)


def _pulled_back(
    work: Workspace, sources: Sequence[str], state: SiteState, targets: Tensor, gradient: Tensor, length: int
) -> tuple[dict[str, Tensor | None], Tensor]:
    """∂T_k/∂x of every source, [k, length, d], for all targets from one pass; and the example of each target."""
    features, t = len(state.features), state.shape[1]
    place = _places(state, targets)
    is_error = targets >= features
    entry = targets.clamp(max=max(features - 1, 0))
    examples, row = torch.unique(place // t, return_inverse=True)
    position, slot = place % t, _slots(place // t)
    leaves = _leaves(work, sources, examples, length)
    with torch.enable_grad():
        read, written = _arriving(work, sources, state, leaves, examples, length)
        here, there = read[row, position], written[row, position]
        values = here.new_zeros(len(targets))
        if features:
            along = state.basis.along(state.features[entry], gradient[place])
            active = (state.clean[entry] != 0) & ~is_error
            values = along * state.basis.coefficient(here, state.features[entry], active) * ~is_error
        if bool(is_error.any()):
            rest = there[is_error] - state.basis.reconstruct(here[is_error])
            values = values.index_add(0, is_error.nonzero()[:, 0], (gradient[place[is_error]] * rest).sum(1))
    seeds = values.new_zeros(int(slot.max()) + 1, len(targets))
    seeds[slot, torch.arange(len(targets), device=slot.device)] = 1
    found = torch.autograd.grad(
        values, list(leaves.values()), grad_outputs=seeds, is_grads_batched=True, allow_unused=True
    )
    pulled: dict[str, Tensor | None] = {
        s: None if g is None else g[slot, row] for s, g in zip(leaves, found, strict=True)
    }
    return pulled, examples[row].long()


def edges_into_metric(work: Workspace, effects: dict[str, SiteEffects], kept: dict[str, Tensor]) -> list[EdgeBlock]:
    """Edges into the metric of each example: of the last site its effects, of the others the direct gradient."""
    sources = upstream(work, None)
    if not sources:
        return []
    last = sources[-1]
    state, found = work.states[last], effects[last]
    nodes = kept[last]
    place = _places(state, nodes)
    example = place // state.shape[1]
    whole = torch.cat([found.features, found.errors])
    inflow = whole.new_zeros(len(work.examples)).index_add_(
        0, _places(state, torch.arange(len(whole), device=whole.device)) // state.shape[1], whole
    )
    blocks = [EdgeBlock(last, "", example, nodes, whole[nodes], work.examples, inflow)]
    if len(sources) > 1:
        collector = _Collector(work, sources[:-1], "", work.examples, kept)
        position = torch.full_like(work.examples, work.run.length - 1)

        def piece(part: slice) -> None:
            examples = work.examples[part]
            with torch.enable_grad():
                leaves = _leaves(work, sources, examples, work.run.length)
                start, x, visitors = _start(work, sources, leaves)
                logits = work.run.segment(start, x, examples, work.run.length, visitors)
                assert logits is not None
                metric = work.goal(logits, examples).sum()
                wanted = {s: leaves[s] for s in sources[:-1]}
                gradients = torch.autograd.grad(metric, list(wanted.values()), allow_unused=True)
            collector.add(part, examples, position[part], dict(zip(wanted, gradients, strict=True)))

        for _ in work.in_pieces(len(work.examples), work.run.length, work.run.model.layers, piece):
            pass
        blocks += collector.blocks()
    return blocks


def _depth(work: Workspace, source: str) -> int:
    return work.states[source].basis.write_site.layer


def _places(state: SiteState, nodes: Tensor) -> Tensor:
    """The place (row of B·T) of each node."""
    features = len(state.features)
    if not features:
        return nodes
    return torch.where(nodes < features, state.rows[nodes.clamp(max=features - 1)], nodes - features)


def _leaves(work: Workspace, sources: Sequence[str], examples: Tensor, length: int) -> dict[str, Tensor]:
    return {s: work.states[s].x[examples, :length].detach().requires_grad_() for s in sources}


def _start(
    work: Workspace, sources: Sequence[str], leaves: dict[str, Tensor]
) -> tuple[Site, Tensor | None, dict[Site, Visitor]]:
    """Where a run begins, with what, and visitors that put the leaves in place."""

    def put(leaf: Tensor) -> Visitor:
        return lambda old: leaf.reshape(old.shape)

    start = work.states[sources[0]].basis.write_site
    visitors = {work.states[s].basis.write_site: put(leaf) for s, leaf in leaves.items()}
    if start.kind in {"resid_pre", "resid_post"} and work.run.model.blocks is not None:
        del visitors[start]
        return start, leaves[sources[0]], visitors
    return start, None, visitors


def continued(work: Workspace, target: str, changed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What arrives at a site, read and written [B, T, d], when sources directly upstream hold something else."""
    sources = upstream(work, target)
    held = {s: changed.get(s, work.states[s].x) for s in sources}
    return _arriving(work, sources, work.states[target], held, work.examples, work.run.length)


def _arriving(
    work: Workspace,
    sources: Sequence[str],
    target: SiteState,
    leaves: dict[str, Tensor],
    examples: Tensor,
    length: int,
) -> tuple[Tensor, Tensor]:
    start, x, visitors = _start(work, sources, leaves)
    seen: dict[str, Tensor] = {}

    def read(x: Tensor) -> None:
        seen["read"] = x.reshape(*x.shape[:2], -1)

    def write(x: Tensor) -> None:
        seen["written"] = x.reshape(*x.shape[:2], -1)
        raise StopHere

    def both(x: Tensor) -> None:
        read(x)
        write(x)

    basis = target.basis
    if basis.read_site == basis.write_site:
        visitors[basis.write_site] = both
    else:
        visitors = joined([visitors, {basis.read_site: read, basis.write_site: write}])
    work.run.segment(start, x, examples, length, visitors)
    if "read" not in seen:  # before the sources: nothing of them is in it
        seen["read"] = target.read[examples, :length]
    return seen["read"], seen["written"]


class _Collector:
    """Contracts gradients with what each source's nodes change by."""

    def __init__(
        self, work: Workspace, sources: Sequence[str], target: str, targets: Tensor, kept: dict[str, Tensor]
    ) -> None:
        self._work = work
        self._target = target
        self._targets = targets
        self._kept = kept
        self._parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {s: [] for s in sources}
        self._inflow = {s: work.clean.new_zeros(len(targets)) for s in sources}

    def add(
        self, part: slice | Tensor, examples: Tensor, position: Tensor, gradients: dict[str, Tensor | None]
    ) -> None:
        found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for source, gradient in gradients.items():
            if gradient is None:
                continue
            found[source] = []
            state = self._work.states[source]
            length = gradient.shape[1]
            change = (state.base - state.x)[examples, :length]
            self._inflow[source][part] = -(gradient * change).sum((1, 2)).to(self._inflow[source].dtype)
            for example in sorted(set(examples.tolist())):
                mine = (examples == example).nonzero()[:, 0]
                nodes = self._nodes(state, self._kept[source], example, length)
                step = max(1, _ELEMENTS // (len(mine) * state.shape[2]))
                for first in range(0, len(nodes), step):
                    chunk = nodes[first : first + step]
                    found[source].append(self._contract(state, self._targets[part][mine], gradient[mine], chunk))
        for source, parts in found.items():  # all or nothing: out of memory on the way, the whole part is done again
            self._parts[source] += parts

    def _nodes(self, state: SiteState, kept: Tensor, example: int, length: int) -> Tensor:
        place = _places(state, kept)
        t = state.shape[1]
        return kept[(place // t == example) & (place % t < length)]

    @staticmethod
    def _contract(state: SiteState, targets: Tensor, gradient: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = len(state.features)
        place = _places(state, nodes)
        moves = state.error_delta[place]
        if features:
            entry = nodes.clamp(max=features - 1)
            along = state.basis.directions(state.features[entry]).to(moves.dtype) * state.delta[entry][:, None]
            moves = torch.where((nodes < features)[:, None], along, moves)
        weights = -torch.einsum("knd,nd->kn", gradient[:, place % state.shape[1]], moves)
        into, out_of = weights.nonzero(as_tuple=True)
        return targets[into], nodes[out_of], weights[into, out_of]

    def blocks(self) -> Iterator[EdgeBlock]:
        """One block per source that the target depends on."""
        for source, parts in self._parts.items():
            if parts:
                into, out_of, weights = (torch.cat(column) for column in zip(*parts, strict=True))
                yield EdgeBlock(source, self._target, into, out_of, weights, self._targets, self._inflow[source])
