"""Circuits of the fake engine: made of checksums, the same every time, growing as those of the real one do."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import msgspec

from engine.errors import BadRequest
from engine.job import Job
from engine.protocol import (
    ERROR,
    METRIC,
    Check,
    Checked,
    Circuit,
    CircuitEdge,
    CircuitNode,
    CircuitSettings,
    CircuitSite,
    Faithfulness,
    FaithfulnessFound,
    FaithfulnessPoint,
    MeasureFaithfulness,
    Metric,
    NodeRef,
    Provenance,
    Token,
    Trace,
    TraceGrown,
    Verify,
)

_TOTAL = 3.21
_FLOOR = 0.005


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing else."""
    return zlib.crc32("|".join(map(str, parts)).encode()) / 2**32


def trace(
    request: Trace,
    job: Job,
    words: Sequence[str],
    sites: Sequence[CircuitSite],
    provenance: Provenance,
    obey: Callable[[], None],
) -> Circuit:
    """Find a circuit in four steps, and return it; `obey` does what the prompt orders, after the first of them."""
    if not words:
        raise BadRequest("The prompt is empty.", "Type some text.")
    whole = _circuit(request, words, sites, provenance)
    estimates = tuple(
        msgspec.structs.replace(n, effect=round(1.2 * n.effect, 4), estimated=True, inflow=None)
        for n in whole.nodes[1:]
    )
    root = msgspec.structs.replace(whole.nodes[0], inflow=None)
    job.progress("one gradient", 1, 4)
    job.emit(TraceGrown(id=job.id, circuit=_part(whole, (root, *estimates), 0)))
    obey()
    for step, share in ((2, 0.4), (3, 0.8)):
        job.progress(f"edges into {sites[-1].source}", step, 4)
        job.emit(TraceGrown(id=job.id, circuit=_part(whole, whole.nodes, int(share * len(whole.edges)))))
    job.emit(TraceGrown(id=job.id, circuit=whole))
    return whole


def _part(whole: Circuit, nodes: tuple[CircuitNode, ...], edges: int) -> Circuit:
    return msgspec.structs.replace(whole, nodes=nodes, edges=whole.edges[:edges], finished=False)


def _circuit(request: Trace, words: Sequence[str], sites: Sequence[CircuitSite], provenance: Provenance) -> Circuit:
    tokens = tuple(Token(id=zlib.crc32(w.encode()) % 49152, text=w, sink=i == 0) for i, w in enumerate(words))
    refs = _refs(request, len(words), sites)
    levels = {site.source: level for level, site in enumerate(sites)}
    effects = {ref: _effect(ref, request, levels[ref.source], len(sites)) for ref in refs}
    limit = request.node_threshold if request.node_threshold is not None else _FLOOR
    refs = [r for r in sorted(refs, key=lambda r: (-abs(effects[r]), r)) if abs(effects[r]) >= limit]
    refs = refs[: request.max_nodes]
    everything = [NodeRef(METRIC), *refs]
    places = {ref: n for n, ref in enumerate(everything)}
    weights = _edges(everything, effects, levels, places)
    floor = request.edge_threshold if request.edge_threshold is not None else _TOTAL / 1000
    edges = tuple(e for e in weights if abs(e.weight) >= floor)
    inflow = [0.0] * len(everything)
    for edge in weights:
        inflow[edge.target] += edge.weight
    nodes = [CircuitNode(NodeRef(METRIC), _TOTAL, inflow=round(inflow[0] * 1.04, 4))]
    for n, ref in enumerate(refs, 1):
        fires = 0.0 if ref.is_error else round(1 + 39 * chance("fires", ref), 2)
        flow = round(inflow[n] * 1.1, 4) if inflow[n] else None
        nodes.append(CircuitNode(ref, effects[ref], activation=fires, inflow=flow))
    return Circuit(
        model="fake-1l",
        prompt=request.prompt,
        patch=request.patch,
        chat=request.chat,
        tokens=tokens,
        examples=1,
        metric=_metric(request, len(words)),
        settings=CircuitSettings(
            method=request.method, steps=request.steps if request.method == "ig" else 1, gradients=request.gradients,
            baseline="zero" if request.patch is None else "patch", aggregate=request.aggregate or "none",
            node_threshold=min((abs(effects[r]) for r in refs), default=0.0), edge_threshold=floor,
            max_nodes=request.max_nodes, dtype=request.dtype,
        ),
        sites=tuple(
            msgspec.structs.replace(
                site,
                features=sum(effects[r] for r in refs if r.source == site.source and not r.is_error),
                error=sum(effects[r] for r in refs if r.source == site.source and r.is_error),
                kept=sum(r.source == site.source for r in refs),
            )
            for site in sites
        ),
        nodes=tuple(nodes),
        edges=edges,
        finished=True,
        provenance=provenance,
        seconds=0.5,
    )  # fmt: skip


def _refs(request: Trace, length: int, sites: Sequence[CircuitSite]) -> list[NodeRef]:
    """A few features and an error at every place but the sink; only the last token reaches the metric's site."""
    found = []
    for level, site in enumerate(sites):
        first = 1 if length > 1 else 0
        for position in range(length - 1 if level == len(sites) - 1 else first, length):
            place = None if request.aggregate in ("sum", "max") else position
            found.append(NodeRef(site.source, ERROR, place))
            for index in range(0, 20 * 31, 31):
                if chance(request.prompt, site.source, position, index) < (0.4 if level == len(sites) - 1 else 0.12):
                    found.append(NodeRef(site.source, index, place))
    return list(dict.fromkeys(found))


def _effect(ref: NodeRef, request: Trace, level: int, levels: int) -> float:
    drawn = chance("effect", ref, request.target)
    size = drawn * drawn * drawn * (0.4 if ref.is_error else 1.2) / (1 + 0.4 * (levels - 1 - level))
    return round(size if chance("sign", ref) > 0.25 else -0.6 * size, 4)


def _edges(
    refs: Sequence[NodeRef], effects: dict[NodeRef, float], levels: dict[str, int], places: dict[NodeRef, int]
) -> list[CircuitEdge]:
    """Every node feeds the later ones at its position or after it; the last site feeds the metric."""
    top = max(levels.values())
    found = []
    for source in refs[1:]:
        level = levels[source.source]
        if level == top:
            found.append(CircuitEdge(places[source], 0, effects[source]))
        elif chance("direct", source) < 0.15:
            found.append(CircuitEdge(places[source], 0, round(0.2 * effects[source], 4)))
        for target in refs[1:]:
            before = source.position is None or target.position is None or source.position <= target.position
            if level < levels[target.source] and before and chance("edge", source, target) < 0.35:
                share = 0.3 * chance("weight", source, target)
                sign = 1 if effects[source] * effects[target] > 0 else -1
                found.append(CircuitEdge(places[source], places[target], round(sign * share * abs(effects[target]), 4)))
    return sorted(found, key=lambda e: (e.target, -abs(e.weight), e.source))


def _metric(request: Trace, length: int) -> Metric:
    targets = tuple(Token(id=n, text=text) for n, text in enumerate(request.target or (" Paris",)))
    against = tuple(Token(id=n, text=text) for n, text in enumerate(request.against))
    kind = request.metric or ("difference" if against or request.patch else "logit")
    baseline = 0.4 if request.patch is not None else None
    return Metric(kind, targets, against, length - 1, _TOTAL + (baseline or 0.0), baseline)


def verify(request: Verify, job: Job, circuit: Circuit | None) -> None:
    """Say that an intervention measured nearly what was claimed, or for one claim in four something else."""
    source = None if circuit is None else circuit.find(request.source)
    if circuit is None or source is None:
        raise BadRequest("Nothing was traced that holds this node.", "Trace first.")
    target = circuit.find(request.target) if request.target is not None else None
    predicted = circuit.nodes[source].effect
    if target:
        predicted = sum(e.weight for e in circuit.edges if (e.source, e.target) == (source, target))
    off = 0.5 if chance("off", request.source, request.target) < 0.25 else 0.96
    how = "the feature set to 0" if not request.source.is_error else "the error left out"
    check = Check(request.source, request.target, predicted, round(off * predicted, 4), how)
    job.emit(Checked(id=job.id, check=check))


def measure(request: MeasureFaithfulness, job: Job, circuit: Circuit | None) -> None:
    """A curve that rises with the number of nodes."""
    if circuit is None:
        raise BadRequest("Nothing was traced yet.", "Trace first.")
    effects = [abs(node.effect) for node in circuit.nodes[1:]]
    points = []
    for threshold in request.thresholds or (0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        share = sum(e for e in effects if e >= threshold) / (sum(effects) or 1.0)
        count = sum(e >= threshold for e in effects)
        points.append(FaithfulnessPoint(threshold, count, share * _TOTAL, (1 - share) * _TOTAL, share, 1 - share))
    result = Faithfulness(
        model=_TOTAL, empty=0.0, ablation=request.ablation, errors=request.errors, start_layer=request.start_layer,
        examples=1, points=tuple(points), metric=circuit.metric, provenance=circuit.provenance,
    )  # fmt: skip
    job.emit(FaithfulnessFound(id=job.id, result=result))
