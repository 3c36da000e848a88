"""What of a circuit a picture shows, and where: rows are sites, columns positions."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import msgspec

from engine.circuit_results import Circuit, CircuitEdge, CircuitNode, NodeRef
from engine.text import visible, visible_token

WIDTH, HEIGHT = 132, 46
LEFT, TOP, BOTTOM = 112, 104, 74
_GAP_X, _GAP_Y = 14, 16
_ROW_GAP, _COLUMN_GAP = 44, 26
_LINE = 18
"""Characters of a label's line; longer labels become two, as feature-circuits' do."""
_FEWEST, _MOST = 3, 8
"""Nodes side by side in a cell before a second line begins."""


class Shown(msgspec.Struct, frozen=True):
    """What is left of a circuit after the thresholds, with everything that both formats print."""

    circuit: Circuit
    places: tuple[int, ...]
    """Kept nodes, as places in `Circuit.nodes`; the metric first, then by |effect|."""
    edges: tuple[CircuitEdge, ...]
    names: Mapping[NodeRef, str]
    strongest: float
    heaviest: float

    def node(self, place: int) -> CircuitNode:
        return self.circuit.nodes[place]

    def lines(self, place: int) -> list[str]:
        """Label and effect of a node."""
        node = self.node(place)
        if node.ref.is_metric:
            return [*_split(self.circuit.metric.label), f"{node.effect:+.3g}" if node.effect else ""]
        effect = f"{node.effect:+.3g}"
        if node.ref.is_error:
            return [cut(f"{node.ref.source}:ε", 13), effect]
        where = "@ " + self.token(node.ref.position) if node.ref.position is not None else ""
        if (label := self.names.get(node.ref)) is not None:
            return [*_split(label), f"{cut(where, _LINE - len(effect) - 1)} {effect}".strip()]
        return [line for line in (cut(visible(f"{node.ref.source}:{node.ref.index}")), cut(where), effect) if line]

    def token(self, position: int) -> str:
        """Its text where the circuit has it, else its number."""
        tokens = self.circuit.tokens
        return visible_token(tokens[position].text) if position < len(tokens) else str(position)


class Layout(msgspec.Struct):
    """Middles of nodes, of rows and of columns."""

    centres: dict[int, tuple[float, float]]
    rows: dict[str, float]
    columns: dict[int, tuple[float, float]]
    width: float
    height: float


def shown_of(
    circuit: Circuit, labels: Mapping[NodeRef, str] | None, node_threshold: float, edge_threshold: float
) -> Shown:
    kept = [n for n, node in enumerate(circuit.nodes) if n and abs(node.effect) >= node_threshold]
    kept.sort(key=lambda n: -abs(circuit.nodes[n].effect))
    places = (*([0] if circuit.nodes else []), *kept)
    inside = set(places)
    edges = tuple(
        e for e in circuit.edges if abs(e.weight) >= edge_threshold and e.source in inside and e.target in inside
    )
    strongest = max((abs(circuit.nodes[n].effect) for n in kept), default=0.0)
    heaviest = max((abs(e.weight) for e in edges), default=0.0)
    return Shown(circuit, places, edges, labels or {}, strongest or 1.0, heaviest or 1.0)


def rows_of(shown: Shown) -> dict[str, list[int]]:
    """Kept nodes of every site, from the bottom up, sites without any left out; the metric is the last."""
    order = [site.source for site in shown.circuit.sites]
    sources = {shown.node(place).ref.source for place in shown.places[1:]}
    rows: dict[str, list[int]] = {s: [] for s in [*order, *sorted(sources - set(order))] if s in sources}
    for place in shown.places[1:]:
        rows[shown.node(place).ref.source].append(place)
    return rows


def lay_out(shown: Shown) -> Layout:
    """Cells of a table of sites and positions, each as wide and high as its fullest needs."""
    rows = rows_of(shown)
    places = shown.places[1:]
    positioned = bool(places) and all(shown.node(p).ref.position is not None for p in places)
    column_of = {p: shown.node(p).ref.position or 0 if positioned else 0 for p in places}
    cells: dict[tuple[str, int], list[int]] = {}
    for source, members in rows.items():
        for place in members:
            cells.setdefault((source, column_of[place]), []).append(place)
    fullest = max(map(len, cells.values()), default=0)
    in_line = min(max(round(1.3 * fullest**0.5), _FEWEST), _MOST) if positioned else _MOST
    columns: dict[int, tuple[float, float]] = {}
    x: float = LEFT
    for column in sorted(set(column_of.values())):
        widest = max(min(len(m), in_line) for (_, c), m in cells.items() if c == column)
        size = widest * (WIDTH + _GAP_X) - _GAP_X
        columns[column] = (x + size / 2, size)
        x += size + _COLUMN_GAP
    layout = Layout({}, {}, columns if positioned else {}, x, 0.0)
    y: float = TOP
    layout.centres[0] = ((LEFT + x - _COLUMN_GAP) / 2 if columns else 280.0, y)
    y += HEIGHT + _ROW_GAP
    for source in reversed(rows):
        high = max(-(-len(m) // in_line) for (s, _), m in cells.items() if s == source)
        size = high * (HEIGHT + _GAP_Y) - _GAP_Y
        layout.rows[source] = y - HEIGHT / 2 + size / 2
        for (where, column), members in cells.items():
            if where == source:
                _fill_cell(layout, members, columns[column][0], y, in_line)
        y += size + _ROW_GAP
    layout.height = y - HEIGHT / 2 - _ROW_GAP + BOTTOM
    return layout


def _fill_cell(layout: Layout, members: list[int], middle: float, y: float, in_line: int) -> None:
    """Lines of nodes, each centred."""
    for start in range(0, len(members), in_line):
        line = members[start : start + in_line]
        first = middle - (len(line) - 1) * (WIDTH + _GAP_X) / 2
        for n, place in enumerate(line):
            layout.centres[place] = (first + n * (WIDTH + _GAP_X), y + start // in_line * (HEIGHT + _GAP_Y))


def _split(text: str) -> list[str]:
    """One line, or two broken at the space nearest the middle."""
    text = " ".join(visible(text).split())
    if columns_of(text) <= _LINE:
        return [text]
    spaces = [n for n, character in enumerate(text) if character == " "]
    at = min(spaces, key=lambda n: abs(n - len(text) / 2), default=_LINE)
    return [cut(text[:at]), cut(text[at:].strip())]


def columns_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, room: int = _LINE) -> str:
    """At most so many columns, the rest as `…`."""
    if columns_of(text) <= room:
        return text
    while columns_of(text) > room - 1:
        text = text[:-1]
    return text + "…"
