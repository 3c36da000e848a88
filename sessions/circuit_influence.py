"""How much of a metric flows through each node of a circuit."""

from __future__ import annotations

from collections import defaultdict

from engine.circuit_results import Circuit

_STEPS = 1000


def influence(circuit: Circuit) -> list[float]:
    """For every node but the metric its cumulative share of influence: the strongest comes first, the last has 1.

    v = wÃ + wÃ² + … with Ã = |A| normalised by target, w = 1 at the metric (circuit-tracer's
    definition). Without edges |effect| takes the place of v.
    """
    into: dict[int, list[tuple[int, float]]] = {}
    for edge in circuit.edges:
        into.setdefault(edge.target, []).append((edge.source, abs(edge.weight)))
    values = [0.0] * len(circuit.nodes)
    wave = {0: 1.0}
    for _ in range(_STEPS):
        following: defaultdict[int, float] = defaultdict(float)
        for target, mass in wave.items():
            total = max(sum(weight for _, weight in into.get(target, ())), 1e-10)
            for source, weight in into.get(target, ()):
                following[source] += mass * weight / total
        wave = {n: mass for n, mass in following.items() if mass > 1e-12}
        if not wave:
            break
        for n, mass in wave.items():
            values[n] += mass
    reached = values[1:] if any(values[1:]) else [abs(node.effect) for node in circuit.nodes[1:]]
    total, so_far = sum(reached) or 1.0, 0.0
    shares = [1.0] * len(reached)
    for n in sorted(range(len(reached)), key=lambda n: -reached[n]):
        so_far += reached[n]
        shares[n] = min(so_far / total, 1.0)
    return shares
