"""How the circuit part of the state changes: what a trace brought, and what the user does in the pane."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.protocol import Check, Circuit, Faithfulness, NodeRef, Request, Trace, Verify
from sessions.model import CircuitRecord
from tui.circuit_aim import parse_aim
from tui.circuit_state import (
    METHODS,
    REST,
    Path,
    TreeRow,
    moved_threshold,
    name_key,
    path_to,
    row_at,
    same_claim,
    shown,
    with_entry,
)
from tui.state import Notice, State, Task, TaskKind
from tui.text import counted, number, signed

_USUAL_NODES = Trace(id=0).max_nodes


def _with(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


def _view(state: State, **changes: Any) -> State:
    return _with(state, circuit=msgspec.structs.replace(state.circuit, **changes))


def _record(state: State, **changes: Any) -> State:
    """The state with the circuit on screen changed."""
    if state.growing is not None:
        return _with(state, growing=msgspec.structs.replace(state.growing, **changes))
    place = state.circuit.shown
    if not 0 <= place < len(state.circuits):
        return state
    record = msgspec.structs.replace(state.circuits[place], **changes)
    return _with(state, circuits=(*state.circuits[:place], record, *state.circuits[place + 1 :]))


# --- what the engine said -----------------------------------------------------------------------------------------


def grown(state: State, circuit: Circuit, at: str) -> State:
    """More of the circuit; the first part takes the place of the circuit before."""
    if state.growing is not None:
        return _with(state, growing=msgspec.structs.replace(state.growing, circuit=circuit))
    before = state.traced
    state = _view(state, held=len(state.circuits), opened=state.circuit.opened | {()})
    if before is None or before.circuit.prompt != circuit.prompt or before.circuit.metric.label != circuit.metric.label:
        fresh = type(state.circuit)()
        state = _view(state, opened=fresh.opened, cursor=(), node_threshold=None, edge_threshold=None)
        column = max(len(circuit.tokens) - 1, 0)
        state = _view(state, site=0, column=column, max_nodes=None, edge_floor=None)
    return _with(state, growing=CircuitRecord(at, circuit))


def settled(state: State) -> State:
    """Once no trace runs any more what has grown is kept, finished or not."""
    if state.growing is None or (state.task("trace") is not None and not state.growing.circuit.finished):
        return state
    before = state.circuits[-1] if state.circuits else None
    others = state.circuits[:-1] if before is not None and _replaces(state.growing, before) else state.circuits
    circuits = (*others, state.growing)
    if state.circuit.held == len(state.circuits):
        state = _view(state, held=len(circuits) - 1)
    return _view(_with(state, circuits=circuits, growing=None), shown=len(circuits) - 1)


def _replaces(new: CircuitRecord, old: CircuitRecord) -> bool:
    """Whether an old trace is not worth keeping: it was stopped, nobody used it, and the new one asks the same."""
    used = old.checks or old.pins or old.names or old.groups or old.faithfulness

    def question(record: CircuitRecord) -> tuple[object, ...]:
        circuit = record.circuit
        return circuit.prompt, circuit.patch, circuit.chat, circuit.metric.label, circuit.settings.method

    return not old.circuit.finished and not used and question(new) == question(old)


def forgotten(state: State) -> State:
    """The engine that knew the last trace is gone."""
    return _view(state, held=-1) if state.circuit.held >= 0 else state


def story(record: CircuitRecord) -> str:
    """One line for the log."""
    circuit = record.circuit
    nodes, edges = max(len(circuit.nodes) - 1, 0), len(circuit.edges)
    how = f"in {circuit.seconds:.2f} s" if circuit.finished else "stopped before it was finished"
    counts = f"{counted(nodes, 'node', 'nodes')}, {counted(edges, 'edge', 'edges')}"
    return f"traced {circuit.metric.label} by {circuit.settings.method}: {counts}, {how}"


def check_story(check: Check) -> str:
    to = f" → {check.target}" if check.target is not None and not check.target.is_metric else ""
    return f"checked {check.source}{to}: predicted {signed(check.predicted)}, measured {signed(check.measured)}"


def checked(state: State, check: Check) -> State:
    """A measurement beside its claim; it belongs to the circuit that the engine holds."""
    record = held(state)
    if record is None:
        return state
    of = None if check.target is None or check.target.is_metric else check.target
    others = tuple(c for c in record.checks if not same_claim(c, check.source, of))
    return _held(state, checks=(*others, check))


def measured(state: State, faithfulness: Faithfulness) -> State:
    return _held(state, faithfulness=faithfulness)


def held(state: State) -> CircuitRecord | None:
    """The circuit the engine can check: that of its last trace."""
    place = state.circuit.held
    if place == len(state.circuits):
        return state.growing
    return state.circuits[place] if 0 <= place < len(state.circuits) else None


def _held(state: State, **changes: Any) -> State:
    record, place = held(state), state.circuit.held
    if record is None:
        return state
    record = msgspec.structs.replace(record, **changes)
    if place == len(state.circuits):
        return _with(state, growing=record)
    return _with(state, circuits=(*state.circuits[:place], record, *state.circuits[place + 1 :]))


# --- what was asked of the engine ---------------------------------------------------------------------------------

_TEXTS: dict[TaskKind, str] = {"trace": "tracing", "verify": "measuring", "faithfulness": "measuring faithfulness"}


def started(state: State, kind: TaskKind, request: int) -> State:
    """Something was asked; what of its kind was under way is superseded, and what it had found is kept."""
    state = settled(_with(state, tasks=tuple(t for t in state.tasks if t.kind != kind)))
    slow = state.slow and kind != "trace"
    return _with(state, tasks=(*state.tasks, Task(request, kind, _TEXTS[kind])), notice=None, slow=slow)


def trace_of(state: State, request: int) -> Trace | None:
    """What to ask for the prompt on screen and what the user wants explained."""
    if state.result is None:
        return None
    view, aim = state.circuit, parse_aim(aim_of(state))
    same = state.traced is not None and state.traced.circuit.prompt == state.result.prompt
    return Trace(
        id=request,
        prompt=state.result.prompt,
        chat=state.result.chat,
        patch=aim.patch,
        target=aim.target,
        against=aim.against,
        method=view.method,
        max_nodes=(view.max_nodes if same else None) or _USUAL_NODES,
        edge_threshold=view.edge_floor if same else None,
    )


def verify_of(state: State, path: Path, whole: bool, request: int) -> Request:
    """The measurement of a row's claim: its edge, or under the metric or where it is asked for its whole effect."""
    edge = len(path) > 1 and not whole
    return Verify(id=request, source=path[-1], target=path[-2] if edge else None)


def aim_of(state: State) -> str:
    """What the user typed for the prompt on screen, if anything."""
    prompt = state.result.prompt if state.result else ""
    return state.circuit.aim if state.circuit.aimed_prompt == prompt else ""


def aim_at(state: State, text: str) -> State:
    """The next trace explains this."""
    return _view(state, aim=text, aimed_prompt=state.result.prompt if state.result else "")


def next_method(state: State) -> State:
    return _view(state, method=METHODS[(METHODS.index(state.circuit.method) + 1) % len(METHODS)])


# --- what the user looks at ---------------------------------------------------------------------------------------


def at_cursor(state: State) -> TreeRow | None:
    """The row of the tree under the cursor."""
    rows = state.tree
    return rows[row_at(rows, state.circuit.cursor)] if rows else None


def put_cursor(state: State, path: Path) -> State:
    return _view(state, cursor=path) if path != state.circuit.cursor else state


def unfold(state: State, path: Path) -> State:
    """Open a node; on an open one go to its first cause."""
    rows = state.tree
    row = next((r for r in rows if r.path == path), None)
    if row is None or not row.foldable:
        return state
    if row.opened:
        return put_cursor(state, rows[rows.index(row) + 1].path)
    return _view(state, opened=state.circuit.opened | {path}, cursor=path)


def fold(state: State, path: Path) -> State:
    """Close an open node; from a closed one go to the node it feeds."""
    row = next((r for r in state.tree if r.path == path), None)
    if row is not None and row.opened:
        return _view(state, opened=state.circuit.opened - {path}, cursor=path)
    return put_cursor(state, path[:-1])


def toggle_fold(state: State, path: Path) -> State:
    row = next((r for r in state.tree if r.path == path), None)
    return fold(state, path) if row is not None and row.opened else unfold(state, path)


def reveal(state: State, ref: NodeRef) -> State:
    """Put the cursor of the tree on a node, where it stands nearest to the metric, and open the way to it."""
    if state.traced is None:
        return state
    at = shown(state.traced, state.circuit)
    place = at.graph.places.get(ref)
    path = path_to(at, place) if place is not None else None
    if path is None:
        return state
    above = {path[:n] for n in range(len(path))}
    return _view(state, opened=state.circuit.opened | above, cursor=path)


def toggle_grid(state: State) -> State:
    return _view(state, grid=not state.circuit.grid)


def move_site(state: State, site: int) -> State:
    """Put the cursor of the grid on a line."""
    return _view(state, site=site) if site != state.circuit.site else state


def move_column(state: State, step: int) -> State:
    """Move over the grid's tokens; where it is the prompt on screen the token cursor goes along."""
    if state.traced is None:
        return state
    tokens = state.traced.circuit.tokens
    column = max(0, min(state.column + step, len(tokens) - 1))
    same = state.result is not None and state.result.tokens == tokens
    return _with(_view(state, column=column), token=column if same else state.token)


def has_circuit(state: State, step: int) -> bool:
    """Whether there is an older or newer circuit."""
    return state.growing is None and 0 <= state.circuit.shown + step < len(state.circuits)


def show_circuit(state: State, step: int) -> State:
    """An older or newer circuit, as far as there are any."""
    place = max(0, min(state.circuit.shown + step, len(state.circuits) - 1))
    if not state.circuits or place == state.circuit.shown or state.growing is not None:
        return state
    column = max(len(state.circuits[place].circuit.tokens) - 1, 0)
    fresh = type(state.circuit)()
    return _view(
        state, shown=place, cursor=(), opened=fresh.opened, column=column, site=0, node_threshold=None,
        edge_threshold=None,
    )  # fmt: skip


def move_nodes(state: State, step: int) -> State:
    """Show fewer or more nodes; below what the trace kept only another trace helps."""
    if state.traced is None:
        return state
    circuit, at = state.traced.circuit, shown(state.traced, state.circuit)
    top = max((abs(n.effect) for n in circuit.nodes[1:]), default=0.0)
    moved = moved_threshold(at.node_threshold, circuit.settings.node_threshold, top, step)
    if moved is not None:
        return _view(state, node_threshold=moved)
    more = 2 * circuit.settings.max_nodes
    text = f"The trace kept no nodes under {number(at.node_threshold)}."
    notice = Notice(text, "warning", f"c traces again, with up to {more}.", where="circuit")
    return _with(_view(state, max_nodes=more), notice=notice)


def move_edges(state: State, step: int) -> State:
    """Show fewer or more edges."""
    if state.traced is None:
        return state
    circuit, at = state.traced.circuit, shown(state.traced, state.circuit)
    top = max((abs(e.weight) for e in circuit.edges), default=0.0)
    moved = moved_threshold(at.edge_threshold, circuit.settings.edge_threshold, top, step)
    if moved is not None:
        return _view(state, edge_threshold=moved)
    floor = at.edge_threshold / 10
    text = f"The trace kept no edges under {number(at.edge_threshold)}."
    notice = Notice(text, "warning", f"c traces again, down to {number(floor)}.", where="circuit")
    return _with(_view(state, edge_floor=floor or None), notice=notice)


# --- what the user makes of it ------------------------------------------------------------------------------------


def node_of(state: State, path: Path) -> NodeRef | None:
    """The node of a row that is one; the metric and the rest are none."""
    return path[-1] if path and path[-1] != REST and state.traced is not None else None


def toggle_pin(state: State, ref: NodeRef) -> State:
    """Keep a node in view whatever the thresholds, or not."""
    if state.traced is None:
        return state
    pins = state.traced.pins
    return _record(state, pins=tuple(p for p in pins if p != ref) if ref in pins else (*pins, ref))


def rename(state: State, ref: NodeRef, text: str) -> State:
    """The user's own name of a feature in this circuit; an empty one takes it away."""
    if state.traced is None:
        return state
    return _record(state, names=with_entry(state.traced.names, name_key(ref), text.strip()))


def put_in_group(state: State, ref: NodeRef, group: str) -> State:
    """Put a node in a named group; an empty name takes it out."""
    if state.traced is None:
        return state
    return _record(state, groups=with_entry(state.traced.groups, str(ref), group.strip()))
