"""Tracing a circuit: effects at every site, best first, then edges from the metric upstream, growing as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.circuit_results import Aggregate, Gradients, Method
from engine.circuits.basis import Basis
from engine.circuits.edges import EdgeBlock, edges_into, edges_into_metric
from engine.circuits.effects import SiteEffects, attrib, exact, integrated
from engine.circuits.examples import Example
from engine.circuits.gather import gathered, node_keys
from engine.circuits.goal import Goal, token_ids
from engine.circuits.workspace import Workspace, workspace
from engine.job import Job
from engine.model import LanguageModel


@dataclass(frozen=True)
class Plan:
    """How to trace."""

    method: Method = "ig"
    steps: int = 10
    gradients: Gradients = "pass-through"
    aggregate: Aggregate = "none"
    node_threshold: float | None = None
    edge_threshold: float | None = None
    max_nodes: int = 100
    nodes_only: bool = False
    budget: int = 2000
    keep_sinks: bool = True


@dataclass
class Traced:
    """What a trace has found so far; all batches are kept, so that claims can be checked afterwards.

    Attributes:
        effects: per batch, by source.
        refined: sources whose effects are those of the method asked for, in all batches.
        edges: by (source, target), the blocks of every batch; target "" is the metric.
        metric: mean over examples of the clean metric, and of the patched one.
        keys: by source, the keys of the nodes that are kept (`engine.circuits.gather`).
    """

    plan: Plan
    bases: Sequence[Basis]
    work: list[Workspace] = field(default_factory=list)
    effects: list[dict[str, SiteEffects]] = field(default_factory=list)
    patched: list[Tensor] = field(default_factory=list)
    refined: set[str] = field(default_factory=set)
    edges: dict[tuple[str, str], list[tuple[int, EdgeBlock]]] = field(default_factory=dict)
    threshold: float = 0.0
    keys: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False
    seconds: float = 0.0

    @property
    def examples(self) -> int:
        return sum(len(w.examples) for w in self.work)

    def targets(self, number: int, source: str) -> Tensor:
        """Nodes of one batch whose own effect is over the threshold, example by example and place by place."""
        effects = self.effects[number][source]
        return (torch.cat([effects.features, effects.errors]).abs() > self.threshold).nonzero()[:, 0]

    def kept(self, number: int) -> dict[str, Tensor]:
        """By source the nodes of one batch that belong to the circuit."""
        return {
            source: torch.isin(node_keys(state, self.plan.aggregate), self.keys[source]).nonzero()[:, 0]
            for source, state in self.work[number].states.items()
        }


def trace(
    model: LanguageModel,
    bases: Sequence[Basis],
    batches: Sequence[Sequence[Example]],
    make_goal: Callable[[Tensor, Sequence[Example]], Goal],
    plan: Plan,
    job: Job,
    grown: Callable[[Traced], None],
) -> Traced:
    """Trace; `grown` is called whenever there is more to see.

    Args:
        batches: examples of one length each.
        make_goal: the metric from a batch's clean logits.
    """
    started = time.perf_counter()
    traced = Traced(plan, bases)

    def tell() -> None:
        traced.seconds = time.perf_counter() - started
        _choose(traced)
        grown(traced)

    for number, batch in enumerate(batches):
        job.progress("reading the prompts" if len(batches) > 1 else "reading the prompt", number, len(batches))
        _prepare(traced, model, batch, make_goal, job)
    if plan.method == "attrib":
        traced.refined.update(traced.work[0].states)
    order = _best_first(traced) if plan.method != "attrib" else []
    traced.finished = plan.nodes_only and not order
    tell()
    for source in order:
        _refine(traced, source, job)
        traced.refined.add(source)
        traced.finished = plan.nodes_only and source == order[-1]
        tell()
    if plan.nodes_only:
        return traced
    targets = ["", *reversed(traced.work[0].states)]
    for target in targets:
        _connect(traced, target, job)
        traced.finished = target == targets[-1]
        traced.seconds = time.perf_counter() - started
        grown(traced)
    return traced


def _prepare(
    traced: Traced,
    model: LanguageModel,
    batch: Sequence[Example],
    make_goal: Callable[[Tensor, Sequence[Example]], Goal],
    job: Job,
) -> None:
    ids = token_ids([list(e.ids) for e in batch], model.device)
    patches = [list(e.patch) for e in batch if e.patch is not None]
    patch_ids = token_ids(patches, model.device) if patches else None
    plan = traced.plan
    work = workspace(
        model, traced.bases, ids, patch_ids, lambda logits: make_goal(logits, batch), plan.gradients, job,
        keep_sinks=plan.keep_sinks,
    )  # fmt: skip
    traced.work.append(work)
    traced.effects.append(attrib(work))


def _best_first(traced: Traced) -> list[str]:
    """Sources by what the plain gradient attributes to them in all, largest first."""

    def size(source: str) -> float:
        return sum(float(e[source].features.abs().sum() + e[source].errors.abs().sum()) for e in traced.effects)

    return sorted(traced.work[0].states, key=size, reverse=True)


def _refine(traced: Traced, source: str, job: Job) -> None:
    plan, place = traced.plan, len(traced.refined) + 1
    text = f"{plan.method} at {source}, site {place} of {len(traced.work[0].states)}"
    for number, work in enumerate(traced.work):
        estimate = traced.effects[number][source]
        share = number / len(traced.work)

        def progress(done: int, total: int, share: float = share) -> None:
            job.progress(text, round(100 * (share + done / total / len(traced.work))), 100)

        job.progress(text, round(100 * share), 100)
        if plan.method == "ig":
            traced.effects[number][source] = integrated(work, source, plan.steps, estimate.gradient, progress)
        else:
            budget = max(1, plan.budget // (len(traced.work) * len(work.states)))
            traced.effects[number][source] = exact(work, source, estimate, budget, progress)


def _choose(traced: Traced) -> None:
    """Set the threshold and the kept keys: |effect| over it after aggregation."""
    plan = traced.plan
    tables = {
        source: gathered(
            [(w.states[source], e[source]) for w, e in zip(traced.work, traced.effects, strict=True)],
            plan.aggregate,
            traced.examples,
        )
        for source in traced.work[0].states
    }
    if plan.node_threshold is None:
        sizes = torch.cat([table.values[:, 0].abs() for table in tables.values()])
        sizes = sizes[sizes > 0]
        if len(sizes) > plan.max_nodes:
            traced.threshold = float(sizes.topk(plan.max_nodes + 1).values[-1])
        else:
            traced.threshold = 0.0
    else:
        traced.threshold = plan.node_threshold
    traced.keys = {s: table.keys[table.values[:, 0].abs() > traced.threshold] for s, table in tables.items()}


def _connect(traced: Traced, target: str, job: Job) -> None:
    for number, work in enumerate(traced.work):
        kept = traced.kept(number)
        what = target or "the metric"

        def progress(done: int, total: int, what: str = what) -> None:
            job.progress(f"edges into {what}", done, total)

        if target:
            nodes, gradient = traced.targets(number, target), traced.effects[number][target].gradient
            blocks = edges_into(work, target, nodes, gradient, kept, progress)
        else:
            blocks = edges_into_metric(work, traced.effects[number], kept)
        for block in blocks:
            traced.edges.setdefault((block.source, block.target), []).append((number, block))
