"""Circuits as plain text: a tree from the metric upstream, checks beside their claims, and faithfulness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from engine.protocol import Check, Circuit, CircuitEdge, Faithfulness, NodeRef
from engine.text import visible, visible_token

_CHILDREN = 4
_LISTED = 20
_SMALLEST = 0.1
"""Share of the parent's effect below which a cause is not printed, unless it is the strongest."""


def circuit_text(circuit: Circuit, checks: Sequence[Check] = ()) -> str:
    """What was computed, the sites' totals, and the strongest part of the tree."""
    root, settings = circuit.nodes[0], circuit.settings
    baseline = "" if circuit.metric.baseline is None else f", baseline {circuit.metric.baseline:+.4g}"
    method = f"ig {settings.steps}" if settings.method == "ig" else settings.method
    examples = f" over {circuit.examples} examples" if circuit.examples > 1 else ""
    imported = "imported" in circuit.provenance.settings
    stopped = "" if circuit.finished else "STOPPED before it was finished. "
    if imported:
        return "\n".join(_imported(circuit))
    lines = [
        f"{visible(circuit.metric.label)} = {circuit.metric.clean:+.4g}{baseline}{examples}",
        f"{stopped}{method}, {settings.gradients} gradients, against {settings.baseline}, {settings.dtype}; "
        f"{len(circuit.nodes) - 1} nodes over {settings.node_threshold:.3g}, "
        f"{len(circuit.edges)} edges over {settings.edge_threshold:.3g}; {circuit.seconds:.1f} s",
        "",
        f"{'site':<12} {'features':>9} {'error':>9} {'nodes':>6}",
    ]
    for site in circuit.sites:
        lines.append(f"{visible(site.source):<12} {site.features:>+9.3f} {site.error:>+9.3f} {site.kept:>6}")
    into: defaultdict[int, list[CircuitEdge]] = defaultdict(list)
    for edge in circuit.edges:
        into[edge.target].append(edge)
    lines += ["", f"{visible(circuit.metric.label)}  {root.effect:+.3f}"]
    _branches(circuit, into, 0, 1, lines, set())
    if checks:
        lines += ["", f"{'predicted':>10} {'measured':>10}  edge"]
        lines += [
            f"{c.predicted:>+10.4f} {c.measured:>+10.4f}  {_name(circuit, c.source)} → {_name(circuit, c.target)}"
            for c in checks
        ]
        if len(checks) > 2:
            lines.append(f"correlation {correlation([(c.predicted, c.measured) for c in checks]):.2f}")
    return "\n".join(lines)


def _imported(circuit: Circuit) -> list[str]:
    """What a file of another program said, and what it did not: its strongest nodes, no metric of ours."""
    said = circuit.provenance.settings
    lines = [
        f"{visible(str(said.get('file', '')))} of {visible(str(said['imported']))}, {circuit.examples} examples",
        f"assumed: {_listed(said.get('assumed'))}",
        f"not in the file: {_listed(said.get('unknown'))}",
        f"{len(circuit.nodes) - 1} nodes over {circuit.settings.node_threshold:.3g}, {len(circuit.edges)} edges",
        "",
        f"{'effect':>9}  node",
    ]
    lines += [f"{n.effect:>+9.4f}  {_name(circuit, n.ref)}" for n in circuit.nodes[1 : 1 + _LISTED]]
    if len(circuit.nodes) > 1 + _LISTED:
        lines.append(f"{'':>9}  … {len(circuit.nodes) - 1 - _LISTED} more with --json")
    return lines


def _listed(value: object) -> str:
    found = value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return "; ".join(visible(": ".join(map(str, f)) if isinstance(f, tuple) else str(f)) for f in found)


def _branches(
    circuit: Circuit, into: dict[int, list[CircuitEdge]], parent: int, depth: int, lines: list[str], seen: set[int]
) -> None:
    """The strongest causes of a node, each with its share of the node's effect; a node's own causes appear once."""
    whole = circuit.nodes[parent].effect
    strongest = sorted(into[parent], key=lambda edge: -abs(edge.weight))[:_CHILDREN]
    for place, edge in enumerate(strongest):
        if place and abs(edge.weight) < _SMALLEST * abs(whole):
            break
        share = f"{100 * edge.weight / whole:4.0f} %" if whole else ""
        name = _name(circuit, circuit.nodes[edge.source].ref)
        again = "  (above)" if edge.source in seen and into[edge.source] else ""
        lines.append(f"{'  ' * depth}{name:<{48 - 2 * depth}} {edge.weight:+7.3f} {share}{again}")
        if edge.source not in seen:
            seen.add(edge.source)
            _branches(circuit, into, edge.source, depth + 1, lines, seen)


def _name(circuit: Circuit, ref: NodeRef | None) -> str:
    if ref is None or ref.is_metric:
        return "metric"
    name = f"{visible(ref.source)}:{'unexplained' if ref.is_error else ref.index}"
    if ref.position is None:
        return name
    token = circuit.tokens[ref.position].text if ref.position < len(circuit.tokens) else ""
    return f"{name} @ {visible_token(token)}({ref.position})" if token else f"{name} @ {ref.position}"


def faithfulness_text(result: Faithfulness) -> str:
    """The curve as a table."""
    free = f"; free before layer {result.start_layer}" if result.start_layer else ""
    where = " held out" if result.settings.get("held_out") else ""
    lines = [
        f"{visible(result.metric.label)} = {result.model:+.4g}, everything ablated {result.empty:+.4g} "
        f"({result.ablation}; errors: {result.errors}{free}), "
        f"{result.examples} {'example' if result.examples == 1 else 'examples'}{where}",
        "",
        f"{'threshold':>10} {'nodes':>6} {'faithfulness':>13} {'completeness':>13}",
    ]
    for point in result.points:
        faithful, complete = (
            "–" if value is None else f"{value:.3f}" for value in (point.faithfulness, point.completeness)
        )
        lines.append(f"{point.threshold:>10.4g} {point.nodes:>6} {faithful:>13} {complete:>13}")
    return "\n".join(lines)


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's r of predicted and measured; 0 where either does not vary."""
    n = len(pairs)
    mean_x, mean_y = (sum(column) / n for column in zip(*pairs, strict=True))
    xx = sum((x - mean_x) ** 2 for x, _ in pairs)
    yy = sum((y - mean_y) ** 2 for _, y in pairs)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
    return float(xy / (xx * yy) ** 0.5) if xx > 0 and yy > 0 else 0.0
