"""What the circuit pane shows, derived from a circuit: the tree one can walk, thresholds, verdicts. Pure.

A place in the tree is the path of nodes from the metric to it, because a node feeds several others and stands under
each of them. Paths are made of names and not of numbers, so they hold while a circuit grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from engine.protocol import Check, Circuit, CircuitEdge, Method, NodeRef
from sessions.model import CircuitRecord

Path: TypeAlias = tuple[NodeRef, ...]
"""From the metric, which is not named, to a node."""

REST = NodeRef("", -2)
"""The end of the path of a row that says what an open node does not show."""
METHODS: tuple[Method, ...] = ("attrib", "ig", "exact")
_AGREES = 0.2
_NEGLIGIBLE = 0.01


class CircuitView(msgspec.Struct, frozen=True):
    """How the circuit is looked at, and what the next trace is to explain."""

    shown: int = -1
    """Index into `State.circuits`."""
    held: int = -1
    """Index of the circuit that the engine still knows and can check; −1 for none."""
    node_threshold: float | None = None
    """Smallest |effect| shown; None: all that the circuit has."""
    edge_threshold: float | None = None
    opened: frozenset[Path] = frozenset({()})
    cursor: Path = ()
    grid: bool = False
    """Tokens × sites in place of the tree."""
    site: int = 0
    """The row of the grid under the cursor."""
    column: int = 0
    """Its column, where the circuit is not of the prompt on screen; otherwise the token cursor is."""
    method: Method = "ig"
    aim: str = ""
    """What the user typed that the next trace explains; "" is the likeliest next token."""
    aimed_prompt: str = ""
    """The prompt for which it was typed: for another one it would make no sense."""
    max_nodes: int | None = None
    """How many nodes the next trace keeps, where more than usual."""
    edge_floor: float | None = None
    """The smallest edges it keeps, where smaller than usual."""


class TreeRow(msgspec.Struct, frozen=True):
    """One line of the tree."""

    path: Path
    node: int | None
    """Index into `Circuit.nodes`; None for what is not shown under a node."""
    weight: float | None = None
    """The edge into the parent, None while none is known; for the last row what all others sum up to."""
    share: float | None = None
    """It as a share of the parent's effect."""
    covered: float | None = None
    """The shares of this row and those above it under the same parent."""
    foldable: bool = False
    opened: bool = False
    repeated: bool = False
    """The node stands above itself: it is not opened again."""
    hidden: int = 0
    """For the last row: how many edges are in the circuit but below a threshold."""

    @property
    def depth(self) -> int:
        return len(self.path)


class Graph:
    """A circuit's edges by target, strongest first, and its nodes by name."""

    def __init__(self, circuit: Circuit) -> None:
        count = len(circuit.nodes)
        self.nodes = circuit.nodes
        self.places = {node.ref: n for n, node in reversed(list(enumerate(circuit.nodes)))}
        self.into: list[list[CircuitEdge]] = [[] for _ in range(count)]
        for edge in circuit.edges:
            if 0 < edge.source < count and 0 <= edge.target < count and math.isfinite(edge.weight):
                self.into[edge.target].append(edge)
        self.by_effect = bool(count) and not self.into[0]
        """No edge into the metric is known yet: its causes are listed by their whole effect."""
        if self.by_effect:
            self.into[0] = [CircuitEdge(n, 0, circuit.nodes[n].effect) for n in range(1, count)]
        for edges in self.into:
            edges.sort(key=lambda e: -abs(e.weight))

    def towards_the_metric(self) -> dict[int, int]:
        """For every node that reaches the metric the next one on its shortest way there, along strong edges first."""
        found: dict[int, int] = {}
        queue, seen = deque([0]), {0}
        while queue:
            target = queue.popleft()
            for edge in self.into[target]:
                if edge.source not in seen:
                    seen.add(edge.source)
                    found[edge.source] = target
                    queue.append(edge.source)
        return found

    def whole(self, target: int) -> float | None:
        """What shares of a node are shares of: its effect, which is what its causes are to explain."""
        return self.nodes[target].effect or None


class _Same:
    """A key by identity: hashing a circuit would read all of it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


@lru_cache(maxsize=4)
def _graph(key: _Same) -> Graph:
    return Graph(key.value)


def graph(circuit: Circuit) -> Graph:
    """The circuit's graph; asked for at every change of state, made once."""
    return _graph(_Same(circuit))


class Shown:
    """A circuit at two thresholds. Pinned nodes stay whatever the thresholds are."""

    def __init__(self, record: CircuitRecord, view: CircuitView) -> None:
        self.circuit = record.circuit
        self.graph = graph(record.circuit)
        settings = record.circuit.settings
        self.node_threshold = max(view.node_threshold or 0.0, settings.node_threshold)
        self.edge_threshold = max(view.edge_threshold or 0.0, settings.edge_threshold)
        self._nodes_raised = view.node_threshold is not None and self.node_threshold > settings.node_threshold
        self._edges_raised = view.edge_threshold is not None and self.edge_threshold > settings.edge_threshold
        self._pinned_nodes, self._pinned_edges = self._ways_to(record.pins)

    def keeps(self, node: int) -> bool:
        """Whether a node is shown; at the circuit's own threshold all of them are."""
        found = self.circuit.nodes[node]
        return (
            node == 0
            or not self._nodes_raised
            or abs(found.effect) >= self.node_threshold
            or node in self._pinned_nodes
        )

    def keeps_edge(self, edge: CircuitEdge) -> bool:
        pinned = (edge.source, edge.target) in self._pinned_edges
        return pinned or (self._big(edge) and self.keeps(edge.source) and self.keeps(edge.target))

    def _big(self, edge: CircuitEdge) -> bool:
        return not self._edges_raised or abs(edge.weight) >= self.edge_threshold

    def _ways_to(self, pins: Iterable[NodeRef]) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
        """Pinned nodes with the way from the metric to each along the strongest edges, whatever the thresholds."""
        nodes: set[int] = set()
        edges: set[tuple[int, int]] = set()
        places = [self.graph.places[ref] for ref in pins if ref in self.graph.places]
        if places:
            before = self.graph.towards_the_metric()
            for place in places:
                nodes.add(place)
                while (after := before.get(place)) is not None:
                    edges.add((place, after))
                    nodes.add(after)
                    place = after
        return frozenset(nodes), frozenset(edges)

    def counts(self) -> tuple[int, int]:
        """How many nodes, without the metric, and how many edges are shown."""
        nodes = sum(self.keeps(n) for n in range(1, len(self.circuit.nodes)))
        first = 1 if self.graph.by_effect else 0
        return nodes, sum(self.keeps_edge(e) and self._big(e) for edges in self.graph.into[first:] for e in edges)

    def children(self, target: int) -> list[CircuitEdge]:
        """The edges into a node that are shown, strongest first."""
        by_effect = target == 0 and self.graph.by_effect
        return [e for e in self.graph.into[target] if (self.keeps(e.source) if by_effect else self.keeps_edge(e))]

    def explained(self) -> float | None:
        """The share of the metric that comes straight from shown features, and not from what is unexplained."""
        whole = self.graph.whole(0) if self.circuit.nodes else None
        if whole is None or self.graph.by_effect:
            return None
        nodes = self.circuit.nodes
        return sum(e.weight for e in self.children(0) if not nodes[e.source].ref.is_error) / whole

    def rows(self, opened: frozenset[Path]) -> tuple[TreeRow, ...]:
        """The tree, as far as it is open."""
        if not self.circuit.nodes:
            return ()
        found: list[TreeRow] = [TreeRow((), 0, foldable=bool(self.children(0)), opened=() in opened)]
        if () in opened:
            self._grow(found, (), 0, opened)
        return tuple(found)

    def _grow(self, found: list[TreeRow], path: Path, target: int, opened: frozenset[Path]) -> None:
        whole, edges = self.graph.whole(target), self.children(target)
        sums = not (target == 0 and self.graph.by_effect)  # whole effects overlap: they sum up to nothing
        total = 0.0
        for edge in edges:
            total += edge.weight
            ref = self.circuit.nodes[edge.source].ref
            below, repeated = (*path, ref), ref in path
            causes = not repeated and bool(self.children(edge.source))
            is_open = causes and below in opened
            share = edge.weight / whole if whole else None
            covered = total / whole if whole and sums else None
            weight = edge.weight if sums else None
            found.append(TreeRow(below, edge.source, weight, share, covered, causes, is_open, repeated))
            if is_open:
                self._grow(found, below, edge.source, opened)
        inflow = self.circuit.nodes[target].inflow if sums else None
        hidden = len(self.graph.into[target]) - len(edges)
        rest = None if inflow is None else inflow - total
        if hidden or (rest is not None and abs(rest) > 0.0005 * abs(inflow or 0.0)):
            share = rest / whole if rest is not None and whole else None
            found.append(TreeRow((*path, REST), None, rest, share, hidden=hidden))


@lru_cache(maxsize=8)
def _shown(record: _Same, nodes: float | None, edges: float | None) -> Shown:
    return Shown(record.value, CircuitView(node_threshold=nodes, edge_threshold=edges))


def shown(record: CircuitRecord, view: CircuitView) -> Shown:
    """The circuit at the thresholds of the view."""
    return _shown(_Same(record), view.node_threshold, view.edge_threshold)


@lru_cache(maxsize=8)
def _rows(at: _Same, opened: frozenset[Path]) -> tuple[TreeRow, ...]:
    rows: tuple[TreeRow, ...] = at.value.rows(opened)
    return rows


def tree(record: CircuitRecord, view: CircuitView) -> tuple[TreeRow, ...]:
    """The lines of the tree; the same value as long as nothing of it changed."""
    return _rows(_Same(shown(record, view)), view.opened)


def row_at(rows: tuple[TreeRow, ...], path: Path) -> int:
    """The row of a path, or of the nearest ancestor that is still there."""
    places = {row.path: n for n, row in enumerate(rows)}
    for end in range(len(path), -1, -1):
        if (place := places.get(path[:end])) is not None:
            return place
    return 0


def path_to(at: Shown, node: int) -> Path | None:
    """The shortest path from the metric to a node along what is shown."""
    nodes = at.circuit.nodes
    queue: deque[tuple[int, Path]] = deque([(0, ())])
    seen = {0}
    while queue:
        target, path = queue.popleft()
        if target == node:
            return path
        for edge in at.children(target):
            if edge.source not in seen:
                seen.add(edge.source)
                queue.append((edge.source, (*path, nodes[edge.source].ref)))
    return None


# --- thresholds ---------------------------------------------------------------------------------------------------


def stepped(value: float, step: int) -> float:
    """The next of 1, 2, 5 × 10^k above (`step` 1) or below (−1) a positive value."""
    power = math.floor(math.log10(value))
    ladder = [float(f"{m}e{k}") for k in range(power - 1, power + 2) for m in (1, 2, 5)]
    if step > 0:
        return next(v for v in ladder if v > value * (1 + 1e-9))
    return next(v for v in reversed(ladder) if v < value * (1 - 1e-9))


def moved_threshold(value: float, floor: float, top: float, step: int) -> float | None:
    """A threshold one step further, never over the largest value there is; None where it would go below `floor`."""
    if step < 0:
        return None if value <= floor else max(stepped(value, -1), floor)
    if top <= 0:
        return value
    return max(value, min(stepped(value, 1) if value > 0 else stepped(top / 1000, 1), top))


# --- what the user and interventions add --------------------------------------------------------------------------


def agrees(check: Check, metric: float) -> bool:
    """Whether a measurement bears the claim out: within a fifth, or both under a hundredth of the metric."""
    small = _NEGLIGIBLE * abs(metric)
    near = abs(check.measured - check.predicted) <= _AGREES * abs(check.predicted)
    return near or (abs(check.measured) < small and abs(check.predicted) < small)


def judged(check: Check, metric: float) -> str:
    """✓ it agrees; ≈ the direction is right and the size within three times, as a first-order claim may be; else ✗."""
    if agrees(check, metric):
        return "✓"
    same_way = check.measured * check.predicted > 0
    return "≈" if same_way and 1 / 3 <= check.measured / check.predicted <= 3 else "✗"


def same_claim(check: Check, source: NodeRef, target: NodeRef | None) -> bool:
    """Whether a check is of this node's whole effect (`target` None), or of this edge."""
    of = None if check.target is None or check.target.is_metric else check.target
    return check.source == source and of == target


def check_of(record: CircuitRecord, path: Path) -> Check | None:
    """What was measured of a row's claim: its edge, or under the metric its whole effect; else its whole effect."""
    if not path or path[-1] == REST:
        return None
    wanted = (path[-2], None) if len(path) > 1 else (None,)
    for target in wanted:
        for check in record.checks:
            if same_claim(check, path[-1], target):
                return check
    return None


def name_key(ref: NodeRef) -> str:
    """A user's name is a feature's, wherever it fires: its key has no position; what is unexplained has its place."""
    return str(ref if ref.is_error else msgspec.structs.replace(ref, position=None))


def group_effect(record: CircuitRecord, group: str) -> tuple[int, float]:
    """How many nodes are in a group and what their effects sum up to."""
    members = {key for key, name in record.groups.items() if name == group}
    effects = [node.effect for node in record.circuit.nodes if str(node.ref) in members]
    return len(effects), sum(effects)


def with_entry(entries: Mapping[str, str], key: str, text: str) -> dict[str, str]:
    """The entries with one set, or with an empty text taken out."""
    rest = {k: v for k, v in entries.items() if k != key}
    return {**rest, key: text} if text else rest
