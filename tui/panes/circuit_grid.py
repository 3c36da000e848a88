"""The circuit's nodes in their places: tokens to the right, sites upwards, as the model computes."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from rich.segment import Segment
from rich.style import Style

from engine.protocol import NodeRef
from sessions.model import CircuitRecord
from tui.circuit_state import Shown, check_of, judged, shown
from tui.panes.circuit_tree import Styles, node_name, token_at
from tui.state import State
from tui.text import cell_len, counted, fit, signed, visible
from tui.widgets.bar import shortened

_CELL = 8
_BLOCKS = "▁▂▃▄▅▆▇█"
LEGEND = "+▁…█ sign and size of the summed effect, ×7 of how many features, ? with unexplained"


class Cell(msgspec.Struct, frozen=True):
    """What stands at a site and a token."""

    effect: float
    features: int
    errors: int
    strongest: NodeRef


class Grid(msgspec.Struct, frozen=True):
    """Sites from the last to the first, and what stands where; position −1 where they are aggregated."""

    sources: tuple[str, ...]
    cells: dict[tuple[str, int], Cell]
    columns: int
    largest: float


@lru_cache(maxsize=4)
def _grid(at: Shown) -> Grid:
    found: dict[tuple[str, int], list[int]] = {}
    circuit = at.circuit
    for n, node in enumerate(circuit.nodes):
        if n and at.keeps(n):
            position = -1 if node.ref.position is None else node.ref.position
            found.setdefault((node.ref.source, position), []).append(n)
    cells = {}
    for place, members in found.items():
        nodes = [circuit.nodes[n] for n in members]
        features = [n for n in nodes if not n.ref.is_error]
        strongest = max(features or nodes, key=lambda n: abs(n.effect))
        cells[place] = Cell(sum(n.effect for n in nodes), len(features), len(nodes) - len(features), strongest.ref)
    sources = [site.source for site in circuit.sites]
    sources += sorted({source for source, _ in cells} - set(sources))
    columns = len(circuit.tokens) or max((p for _, p in cells), default=-1) + 1
    largest = max((abs(c.effect) for c in cells.values()), default=0.0)
    return Grid(tuple(reversed(sources)), cells, max(columns, 1), largest)


def grid_of(state: State) -> Grid | None:
    """The grid of the circuit on screen."""
    return _grid(shown(state.traced, state.circuit)) if state.traced else None


def cell_at(state: State) -> Cell | None:
    """What stands under the cursor."""
    grid = grid_of(state)
    if grid is None or not grid.sources:
        return None
    source = grid.sources[max(0, min(state.circuit.site, len(grid.sources) - 1))]
    return grid.cells.get((source, state.column)) or grid.cells.get((source, -1))


class Window:
    """The columns that fit, with the cursor's among them; they turn like pages, so that most steps stay on one."""

    def __init__(self, grid: Grid, column: int, width: int) -> None:
        self.site = min(max((cell_len(visible(s)) for s in grid.sources), default=4), 14) + 3
        fits = max(1, (width - self.site - 1) // _CELL)
        self.first = max(0, min(column // fits * fits, grid.columns - fits))
        self.last = min(grid.columns, self.first + fits)

    def place(self, column: int) -> tuple[int, int]:
        """Where a column is drawn: its first cell and how many."""
        return self.site + (column - self.first) * _CELL, _CELL


def header(state: State, grid: Grid, width: int, style: Styles) -> list[Segment]:
    """The tokens; that of the cursor is marked."""
    record = state.traced
    assert record is not None
    window = Window(grid, state.column, width)
    segments = [Segment(fit("" if window.first == 0 else "◂", window.site), style("dim"))]
    for column in range(window.first, window.last):
        text = _token(record, column, grid)
        if column == state.column:
            segments.append(Segment(fit(f"▾{text}", _CELL), style("accent") + Style(bold=True)))
        else:
            segments.append(Segment(fit(f" {shortened(text, _CELL - 2)}", _CELL), style("dim")))
    if window.last < grid.columns:
        segments.append(Segment("▸", style("dim")))
    return segments


def _token(record: CircuitRecord, column: int, grid: Grid) -> str:
    aggregated = all(position < 0 for _, position in grid.cells)
    return "all" if aggregated and grid.columns == 1 else token_at(record, column) or str(column)


def draw(state: State, grid: Grid, row: int, width: int, style: Styles) -> list[Segment]:
    """One site: a cell is the size, the sign and the number of what stands there."""
    window, source = Window(grid, state.column, width), grid.sources[row]
    segments = [Segment(fit(f"  {visible(source)}", window.site), style("dim"))]
    for column in range(window.first, window.last):
        cell = grid.cells.get((source, column)) or (grid.cells.get((source, -1)) if column == 0 else None)
        here = column == state.column
        edge = ("[", "]") if here and row == state.circuit.site else ("▏", " ") if here else (" ", " ")
        text = _glyphs(cell, grid.largest) if cell else "·"
        part = style("dim") if cell is None else style("negative" if cell.effect < 0 else "positive")
        body = fit(text, _CELL - 2)
        segments.append(Segment(edge[0], style("accent") if here else Style()))
        segments.append(Segment(body, part))
        segments.append(Segment(edge[1], style("accent") if here else Style()))
    return segments


def _glyphs(cell: Cell, largest: float) -> str:
    step = min(int(8 * abs(cell.effect) / largest), 7) if largest else 0
    sign = "−" if cell.effect < 0 else "+"
    return f"{sign}{_BLOCKS[step]}{f'×{cell.features}' if cell.features else ''}{'?' if cell.errors else ''}"


def details(state: State) -> tuple[str, str]:
    """Two lines on the cell under the cursor."""
    record, cell, grid = state.traced, cell_at(state), grid_of(state)
    if record is None or grid is None:
        return "", ""
    source = grid.sources[max(0, min(state.circuit.site, len(grid.sources) - 1))] if grid.sources else ""
    token = token_at(record, state.column)
    place = f" {visible(source)} @ {shortened(token, 20)}({state.column})" if token else f" {visible(source)}"
    if cell is None:
        return f"{place}  nothing is kept here", f" {LEGEND}"
    errors = " and unexplained" if cell.errors else ""
    what = f"{counted(cell.features, 'feature', 'features')}{errors}, effect {signed(cell.effect)}"
    check = check_of(record, (cell.strongest,))
    measured = f" measured {signed(check.measured)} {judged(check, record.circuit.nodes[0].effect)}" if check else ""
    return f"{place}  {what} · strongest {node_name(record, cell.strongest, 40)}{measured}", f" {LEGEND}"
