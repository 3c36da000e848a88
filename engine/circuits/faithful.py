"""Answering how faithful a traced circuit is, over thresholds, on its own examples or on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuit_results import ERROR, Ablation, Circuit, Faithfulness, FaithfulnessPoint, NodeRef
from engine.circuits.basis import Basis
from engine.circuits.examples import Example, batches, from_pairs
from engine.circuits.faithfulness import NodeSet, Replacement, ablated, replacement
from engine.circuits.goal import Goal, kl_goal, token_ids
from engine.circuits.workspace import Workspace, workspace
from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import MeasureFaithfulness, Pair

_CURVE = 8
_SEED = 0


@dataclass
class _Batch:
    work: Workspace
    replacements: dict[str, Replacement]


def measure(circuit: Circuit, work: Sequence[Workspace], request: MeasureFaithfulness, job: Job) -> Faithfulness:
    """Faithfulness and completeness of a circuit's nodes on these batches, at each threshold."""
    prepared = [_prepared(w, request, job) for w in work]
    thresholds = request.thresholds or _curve(circuit)
    runs = 1 + 2 * len(thresholds)
    empty = _mean([ablated(b.work, None, b.replacements, request.errors) for b in prepared])
    whole = _mean([w.clean for w in work])
    points = []
    for number, threshold in enumerate(thresholds):
        job.progress("ablating", 1 + 2 * number, runs)
        nodes, count = _node_set(work[0], circuit, threshold, request.start_layer)
        inside = _mean([ablated(b.work, nodes, b.replacements, request.errors) for b in prepared])
        outside = _mean([ablated(b.work, nodes, b.replacements, request.errors, complement=True) for b in prepared])
        span = whole - empty
        points.append(
            FaithfulnessPoint(
                threshold,
                count,
                inside,
                outside,
                (inside - empty) / span if span else None,
                (outside - empty) / span if span else None,
            )
        )
    return Faithfulness(
        model=whole,
        empty=empty,
        ablation=_ablation(work[0], request.ablation),
        errors=request.errors,
        start_layer=request.start_layer,
        examples=sum(len(w.examples) for w in work),
        points=tuple(points),
        metric=circuit.metric,
        provenance=circuit.provenance,
        settings={"held_out": bool(request.held_out), "seed": _SEED},
    )


def _curve(circuit: Circuit) -> tuple[float, ...]:
    """Thresholds that halve the number of nodes from one to the next, the whole circuit first."""
    sizes = sorted((abs(node.effect) for node in circuit.nodes[1:]), reverse=True)
    counts: list[int] = []
    count = len(sizes)
    while count >= 1 and len(counts) < _CURVE:
        counts.append(count)
        count //= 2
    found = [circuit.settings.node_threshold if n == len(sizes) else (sizes[n - 1] + sizes[n]) / 2 for n in counts]
    return tuple(found)


def _ablation(work: Workspace, wanted: Ablation) -> Ablation:
    """A mean over one clean prompt would put back what was there: such a prompt is ablated to zero."""
    return "zero" if work.patched is None and len(work.examples) == 1 else wanted


def _prepared(work: Workspace, request: MeasureFaithfulness, job: Job) -> _Batch:
    work.run.job = job
    ablation = _ablation(work, request.ablation)
    chosen = {s: state for s, state in work.states.items() if state.basis.write_site.layer >= request.start_layer}
    replacements = {}
    for source, state in chosen.items():
        site, read = state.basis.write_site, state.basis.read_site
        runs = work.other or {site: state.x, read: state.read}
        other = None if ablation == "zero" else (runs[site], runs[read])
        replacements[source] = replacement(state, other, ablation, _SEED)
    return _Batch(work, replacements)


def _node_set(work: Workspace, circuit: Circuit, threshold: float, start_layer: int) -> tuple[dict[str, NodeSet], int]:
    """Nodes with |effect| over the threshold, by source; those of free sites do not count."""
    free = {site.source for site in circuit.sites if site.layer < start_layer}
    length = work.run.length if circuit.settings.aggregate == "none" else 1
    found = {
        source: NodeSet(
            torch.zeros(length, s.basis.d_sae, dtype=torch.bool, device=s.x.device),
            torch.zeros(length, dtype=torch.bool, device=s.x.device),
        )
        for source, s in work.states.items()
    }
    count = 0
    for node in circuit.nodes[1:]:
        if abs(node.effect) > threshold and node.ref.source not in free:
            place = node.ref.position or 0
            _check_node(node.ref, work, place, length)
            count += 1
            if node.ref.is_error:
                found[node.ref.source].errors[place] = True
            else:
                found[node.ref.source].features[place, node.ref.index] = True
    return found, count


def _check_node(ref: NodeRef, work: Workspace, place: int, length: int) -> None:
    """A circuit from a file may name anything."""
    state = work.states.get(ref.source)
    if state is None or not ERROR <= ref.index < state.basis.d_sae or not 0 <= place < length:
        raise BadRequest(f"{ref} is not a node of the open dictionaries.", "Trace the circuit again.")


def held_out(
    opened: OpenSet, bases: Sequence[Basis], circuit: Circuit, pairs: Sequence[Pair], length: int, job: Job
) -> list[Workspace]:
    """Batches of other pairs for the metric of a circuit whose prompts have `length` tokens.

    Raises:
        BadRequest: no pair can be used, positions do not correspond, or the metric needs more than they have.
    """
    examples, _ = from_pairs(opened, pairs)
    if circuit.settings.aggregate == "none" and any(len(e.ids) != length for e in examples):
        raise BadRequest(
            f"The circuit has nodes at {length} positions; some of these prompts have another length.",
            "Use prompts of one length, or trace with aggregate sum.",
        )
    kind = circuit.metric.kind
    if kind == "difference" and not examples[0].against:
        raise BadRequest("These pairs have no second answer to compare with.", "Give each a patch_answer.")
    device = opened.model.device

    def targets(batch: Sequence[Example]) -> Goal:
        against = token_ids([list(e.against) for e in batch], device) if kind == "difference" else None
        return Goal(kind, token_ids([list(e.targets) for e in batch], device), against)

    def prepared(batch: Sequence[Example]) -> Workspace:
        patches = [list(e.patch) for e in batch if e.patch is not None]
        return workspace(
            opened.model,
            bases,
            token_ids([list(e.ids) for e in batch], device),
            token_ids(patches, device) if patches else None,
            lambda logits: kl_goal(logits) if kind == "kl" else targets(batch),
            circuit.settings.gradients,
            job,
            keep_sinks=circuit.settings.sinks == "held",
        )

    return [prepared(batch) for batch in batches(examples)]


def _mean(parts: Sequence[Tensor]) -> float:
    return torch.cat(list(parts)).mean().item()
