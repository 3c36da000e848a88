"""Circuits as files other programs read: of a session, or of a file that `saescope circuit` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from engine.circuit_results import Circuit, NodeRef
from engine.errors import BadRequest, SessionError
from sessions.annotations import Annotations, circuit_labels
from sessions.circuit_graph import graph_json
from sessions.circuit_picture import to_dot, to_svg
from sessions.circuit_quicklist import circuit_quicklist
from sessions.export import Exported
from sessions.model import CircuitRecord, neuronpedia_ids
from sessions.quicklist import FormChoice
from sessions.store import read_session

FORMATS = ("json", "graph", "dot", "svg", "quicklist")


class Source(msgspec.Struct, frozen=True):
    """A circuit to export, with what its session knows of its features."""

    record: CircuitRecord
    pages: dict[str, str]
    hints: dict[str, str] = {}


def find_circuit(path: Path, number: int | None) -> Source:
    """The `number`-th circuit of a session, from 1, the last where None; or the circuit that the file is.

    Raises:
        SessionError: the file is neither, or the session has no such circuit.
    """
    if (circuit := _written(path)) is not None:
        return Source(CircuitRecord("", circuit), _pages(circuit))
    session = read_session(path)
    if not session.circuits:
        raise SessionError("No circuit was traced in this session.", "Trace one with c.")
    if number is not None and not 1 <= number <= len(session.circuits):
        raise SessionError(
            f"This session has no circuit {number}.", f"It has {len(session.circuits)}, numbered from 1."
        )
    record = session.circuits[-1 if number is None else number - 1]
    return Source(record, neuronpedia_ids(session) | _pages(record.circuit), session.hints)


def export_circuit(
    source: Source,
    to: str,
    *,
    name: str | None = None,
    node_threshold: float = 0.0,
    edge_threshold: float = 0.0,
    annotations: Annotations | None = None,
    form: FormChoice = "auto",
) -> str | Exported:
    """The text of the file, or for `quicklist` the addresses.

    Raises:
        BadRequest: the format is not known, or cannot hold this circuit.
    """
    record = source.record
    circuit = _cut(record.circuit, node_threshold, edge_threshold)
    labels = _labels(source, annotations)
    match to:
        case "json":
            return msgspec.json.encode(circuit).decode()
        case "svg":
            return to_svg(circuit, labels=labels)
        case "dot":
            return to_dot(circuit, labels=labels)
        case "quicklist":
            return circuit_quicklist(circuit, source.pages, name, form=form)
        case "graph":
            kept = {node.ref for node in circuit.nodes}
            groups: dict[str, list[NodeRef]] = {}
            for ref in sorted(kept):
                if group := record.groups.get(str(ref)):
                    groups.setdefault(group, []).append(ref)
            graph = graph_json(
                circuit,
                slug=name,
                pages=source.pages,
                labels=labels,
                pinned=[ref for ref in record.pins if ref in kept],
                supernodes=groups,
                probability=circuit.metric.probability,
                layers=circuit.layers or None,
            )
            return json.dumps(graph)
    raise BadRequest(f"{to!r} is not a format for a circuit.", f"Use {', '.join(FORMATS)}.")


def is_circuit(path: Path) -> bool:
    """Whether a file is a circuit by itself rather than a session."""
    return _written(path) is not None


def _written(path: Path) -> Circuit | None:
    """The circuit in a file of `saescope circuit`, None where it is something else."""
    try:
        document = msgspec.json.decode(path.read_bytes())
        document = document.get("circuit", document)
        return msgspec.convert(document, Circuit) if "nodes" in document else None
    except (OSError, AttributeError, TypeError, msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return None


def _pages(circuit: Circuit) -> dict[str, str]:
    return {site.source: site.neuronpedia for site in circuit.sites if site.neuronpedia}


def _labels(source: Source, annotations: Annotations | None) -> Mapping[NodeRef, str]:
    """The user's own names before annotations before hints."""
    labels: dict[NodeRef, str] = {}
    for node in source.record.circuit.nodes[1:]:
        if not node.ref.is_error and (hint := source.hints.get(f"{node.ref.source}:{node.ref.index}")):
            labels[node.ref] = hint
    if annotations is not None:
        labels |= circuit_labels(source.record.circuit, annotations.labels)
    for node in source.record.circuit.nodes[1:]:
        if name := source.record.names.get(f"{node.ref.source}:{node.ref.index}"):
            labels[node.ref] = name
    return labels


def _cut(circuit: Circuit, node_threshold: float, edge_threshold: float) -> Circuit:
    """What is over the thresholds, the metric always."""
    if node_threshold <= 0 and edge_threshold <= 0:
        return circuit
    kept = [n for n, node in enumerate(circuit.nodes) if n == 0 or abs(node.effect) >= node_threshold]
    place = {old: new for new, old in enumerate(kept)}
    edges = tuple(
        msgspec.structs.replace(edge, source=place[edge.source], target=place[edge.target])
        for edge in circuit.edges
        if edge.source in place and edge.target in place and abs(edge.weight) >= edge_threshold
    )
    return msgspec.structs.replace(circuit, nodes=tuple(circuit.nodes[n] for n in kept), edges=edges)
