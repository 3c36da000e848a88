"""The circuit part of the state: what a trace brings, how it ends, and what the user does with it."""

from __future__ import annotations

import msgspec
import pytest

from engine.client import EngineLost
from engine.protocol import (
    AnyEvent,
    Checked,
    Circuit,
    Done,
    Failed,
    FaithfulnessFound,
    NodeRef,
    Open,
    Progress,
    Stopped,
    Trace,
    TraceGrown,
    Verify,
)
from sessions.model import CircuitRecord
from tests import samples
from tests.samples import AT, PROMPT
from tests.unit.test_reducer import FAULT, MEMORY, after, one_run, ran
from tui import circuit_reducer, reducer
from tui.circuit_state import REST, Path
from tui.recorder import Recorder, to_session
from tui.restore import from_session
from tui.state import State

GROWTH = samples.growth()
FIRST, LAST = GROWTH[0], GROWTH[-1]


def tracing(state: State | None = None, request: int = 7) -> State:
    return circuit_reducer.started(state or one_run(), "trace", request)


def grown(circuit: Circuit, request: int = 7) -> TraceGrown:
    return TraceGrown(id=request, circuit=circuit)


def traced(state: State | None = None, request: int = 7, prompt: str = PROMPT) -> State:
    """A trace that came to its end."""
    parts = [grown(c, request) for c in samples.growth(prompt)]
    return after(tracing(state, request), *parts, Done(id=request, seconds=1, memory=MEMORY))


def strongest(state: State, place: int = 1) -> NodeRef:
    assert state.traced is not None
    return state.traced.circuit.nodes[place].ref


def test_a_circuit_grows_and_is_kept_once() -> None:
    state = tracing()
    seen = []
    for part in GROWTH:
        state = after(state, grown(part))
        assert state.traced is not None
        seen.append((len(state.circuits), state.traced.circuit.finished, bool(state.growing)))
    assert seen == [(0, False, True)] * 3 + [(1, True, False)]
    state = after(state, Done(id=7, seconds=1, memory=MEMORY))
    assert [c.circuit for c in state.circuits] == [LAST]
    assert state.tasks == ()
    assert any(line.text.startswith("traced logit ·Paris by ig") for line in state.log)


@pytest.mark.parametrize(
    "end",
    [Stopped(id=7), Failed(id=7, error=FAULT), EngineLost("killed"), Done(id=7, seconds=1, memory=MEMORY)],
    ids=lambda e: type(e).__name__,
)
def test_however_a_trace_ends_what_has_grown_is_kept(end: AnyEvent | EngineLost) -> None:
    state = after(tracing(), grown(FIRST), grown(GROWTH[1]), end)
    assert [c.circuit for c in state.circuits] == [GROWTH[1]]
    assert state.growing is None
    assert state.tasks == ()
    assert state.traced is not None
    assert not state.traced.circuit.finished


def test_escape_keeps_what_has_grown_and_late_parts_are_dropped() -> None:
    state = reducer.stopped(after(tracing(), grown(FIRST)))
    assert [c.circuit for c in state.circuits] == [FIRST]
    assert after(state, grown(LAST), Stopped(id=7)) == state


def test_a_stopped_trace_gives_way_to_one_that_asks_the_same_unless_it_was_used() -> None:
    stopped = reducer.stopped(after(tracing(), grown(FIRST)))
    again = after(circuit_reducer.started(stopped, "trace", 8), *(grown(c, 8) for c in GROWTH))
    assert [c.circuit for c in again.circuits] == [LAST]
    assert again.circuit.shown == again.circuit.held == 0
    used = circuit_reducer.toggle_pin(stopped, FIRST.nodes[1].ref)
    again = after(circuit_reducer.started(used, "trace", 8), *(grown(c, 8) for c in GROWTH))
    assert [c.circuit for c in again.circuits] == [FIRST, LAST]


def test_a_newer_trace_keeps_what_had_grown_and_drops_what_comes_late() -> None:
    state = circuit_reducer.started(after(tracing(), grown(FIRST)), "trace", 8)
    assert [c.circuit for c in state.circuits] == [FIRST]
    assert [t.id for t in state.tasks] == [8]
    assert after(state, grown(LAST), Stopped(id=7)).growing is None
    other = [msgspec.structs.replace(c, prompt="another") for c in GROWTH]
    state = after(state, *(grown(c, 8) for c in other))
    assert [c.circuit for c in state.circuits] == [FIRST, other[-1]]
    assert state.circuit.shown == state.circuit.held == 1


def test_the_circuit_before_stays_until_the_new_one_comes() -> None:
    state = tracing(traced(), 8)
    assert state.traced is not None
    assert state.traced.circuit == LAST
    state = reducer.request_is_slow(state, 8)
    assert state.stale_circuit
    assert not after(state, grown(FIRST, 8)).stale_circuit
    state = after(state, Failed(id=8, error=FAULT))
    assert state.traced is not None
    assert state.traced.circuit == LAST
    assert len(state.circuits) == 1


def test_a_trace_that_failed_says_so_in_the_pane() -> None:
    state = after(tracing(), Failed(id=7, error=FAULT))
    assert state.notice is not None
    assert state.notice.where == "circuit"
    assert state.circuits == ()


def test_progress_is_shown_with_the_task() -> None:
    task = after(tracing(), Progress(id=7, text="one gradient", done=1, total=4)).task("trace")
    assert task is not None
    assert (task.text, task.done, task.total) == ("one gradient", 1, 4)


# --- measurements -------------------------------------------------------------------------------------------------


def test_checks_belong_to_the_circuit_the_engine_holds_and_replace_one_another() -> None:
    state = circuit_reducer.started(traced(), "verify", 9)
    check = samples.check(strongest(state))
    state = after(state, Checked(id=9, check=check), Done(id=9, seconds=1, memory=MEMORY))
    again = msgspec.structs.replace(check, measured=9.0, target=NodeRef(""))
    state = after(circuit_reducer.started(state, "verify", 10), Checked(id=10, check=again))
    assert state.traced is not None
    assert state.traced.checks == (again,)
    edge = samples.check(strongest(state, 4), strongest(state, 1))
    state = after(state, Checked(id=10, check=edge))
    assert state.traced is not None
    assert state.traced.checks == (again, edge)


def test_late_measurements_change_nothing() -> None:
    state = traced()
    found = samples.circuit_record().faithfulness
    assert found is not None
    late = (Checked(id=4, check=samples.check(strongest(state))), FaithfulnessFound(id=4, result=found))
    assert after(state, *late) == state


def test_a_measurement_goes_to_its_circuit_even_when_another_is_looked_at() -> None:
    state = traced(traced(), 8, "two more words")
    state = circuit_reducer.started(state, "faithfulness", 9)
    state = circuit_reducer.show_circuit(state, -1)
    found = samples.circuit_record().faithfulness
    assert found is not None
    state = after(state, FaithfulnessFound(id=9, result=found))
    assert [c.faithfulness for c in state.circuits] == [None, found]


def test_a_new_engine_knows_no_circuit() -> None:
    state = traced()
    assert circuit_reducer.held(state) is state.traced
    assert circuit_reducer.held(after(state, EngineLost("killed"))) is None
    session = samples.session()
    assert circuit_reducer.held(from_session(State(opening=Open(id=0)), session)) is None


def test_what_is_verified_is_what_the_line_claims() -> None:
    state = traced()
    a, b = strongest(state, 1), strongest(state, 2)
    assert circuit_reducer.verify_of(state, (a,), False, 3) == Verify(id=3, source=a)
    assert circuit_reducer.verify_of(state, (a, b), False, 3) == Verify(id=3, source=b, target=a)
    assert circuit_reducer.verify_of(state, (a, b), True, 3) == Verify(id=3, source=b)


# --- what is traced -----------------------------------------------------------------------------------------------


def test_what_is_traced_is_the_run_on_screen_and_what_was_typed_for_it() -> None:
    state = one_run()
    assert circuit_reducer.trace_of(state, 3) == Trace(id=3, prompt=PROMPT)
    state = circuit_reducer.next_method(circuit_reducer.aim_at(state, "·Paris / ·Rome | other"))
    wanted = Trace(id=3, prompt=PROMPT, patch="other", target=(" Paris",), against=(" Rome",), method="exact")
    assert circuit_reducer.trace_of(state, 3) == wanted
    other = ran(state, "another prompt", 6)
    assert circuit_reducer.trace_of(other, 3) == Trace(id=3, prompt="another prompt", method="exact")
    assert circuit_reducer.trace_of(State(opening=Open(id=0)), 3) is None


def test_methods_go_round() -> None:
    state, seen = one_run(), []
    for _ in range(4):
        seen.append(state.circuit.method)
        state = circuit_reducer.next_method(state)
    assert seen == ["ig", "exact", "attrib", "ig"]


def test_below_what_was_kept_the_next_trace_keeps_more() -> None:
    state = circuit_reducer.move_nodes(traced(), -1)
    assert state.notice is not None
    assert "traces again" in state.notice.remedy
    request = circuit_reducer.trace_of(state, 3)
    assert request is not None
    assert request.max_nodes == 2 * LAST.settings.max_nodes
    request = circuit_reducer.trace_of(circuit_reducer.move_edges(traced(), -1), 3)
    assert request is not None
    assert request.edge_threshold == pytest.approx(LAST.settings.edge_threshold / 10)


def test_thresholds_move_without_a_trace() -> None:
    state = traced()
    everything = len(state.tree)
    for _ in range(4):
        state = circuit_reducer.move_nodes(state, 1)
    assert state.notice is None
    assert len(state.tree) < everything
    for _ in range(4):
        state = circuit_reducer.move_nodes(state, -1)
    assert len(state.tree) == everything
    for _ in range(5):
        state = circuit_reducer.move_edges(state, 1)
    assert len(state.tree) < everything
    for _ in range(60):
        state = circuit_reducer.move_edges(circuit_reducer.move_nodes(state, 1), 1)
    assert state.tree[0].path == ()


def test_another_prompt_begins_with_everything_shown() -> None:
    state = circuit_reducer.move_nodes(circuit_reducer.unfold(traced(), (strongest(traced()),)), 1)
    again = after(tracing(state, 8), grown(FIRST, 8))
    assert again.circuit.node_threshold == state.circuit.node_threshold
    assert again.circuit.opened == state.circuit.opened
    other = after(tracing(state, 8), grown(samples.circuit("other words"), 8))
    assert other.circuit.node_threshold is None
    assert other.circuit.opened == frozenset({()})


# --- walking ------------------------------------------------------------------------------------------------------


def test_opening_goes_down_and_closing_goes_up() -> None:
    state = traced()
    path: Path = (next(r for r in state.tree if r.depth and r.foldable).path[0],)
    state = circuit_reducer.unfold(circuit_reducer.put_cursor(state, path), path)
    assert path in state.circuit.opened
    state = circuit_reducer.unfold(state, path)
    row = circuit_reducer.at_cursor(state)
    assert row is not None
    assert row.depth == 2
    state = circuit_reducer.fold(state, row.path)
    assert state.circuit.cursor == path
    state = circuit_reducer.fold(state, path)
    assert path not in state.circuit.opened
    assert circuit_reducer.fold(state, path).circuit.cursor == ()
    assert circuit_reducer.toggle_fold(circuit_reducer.toggle_fold(state, path), path) == state
    assert circuit_reducer.unfold(state, (NodeRef("gone", 1),)) == state


def test_a_leaf_does_not_open() -> None:
    state = traced()
    rest = state.tree[-1].path
    assert rest[-1] == REST
    assert circuit_reducer.unfold(state, rest) == state
    assert circuit_reducer.node_of(state, rest) is None
    assert circuit_reducer.node_of(state, ()) is None


def test_a_node_is_revealed_by_opening_the_way_to_it() -> None:
    state = traced()
    deep = next(n.ref for n in LAST.nodes[1:] if n.ref.source == "4-res-fk" and n.ref.is_error)
    state = circuit_reducer.reveal(state, deep)
    assert state.circuit.cursor[-1] == deep
    row = circuit_reducer.at_cursor(state)
    assert row is not None
    assert row.path == state.circuit.cursor
    assert circuit_reducer.reveal(state, NodeRef("gone", 1)) == state


def test_the_grid_moves_the_token_cursor_where_it_is_the_same_prompt() -> None:
    state = circuit_reducer.toggle_grid(traced())
    assert state.column == state.token == 7
    state = circuit_reducer.move_column(state, -2)
    assert state.column == state.token == 5
    assert circuit_reducer.move_column(state, -99).column == 0
    assert reducer.select_token(state, 3).column == 3
    other = ran(state, "two words", 6)
    assert other.column == 5
    moved = circuit_reducer.move_column(other, 1)
    assert moved.column == 6
    assert moved.token == other.token


def test_circuits_can_be_gone_through() -> None:
    state = traced(traced(), 8, "two more words")
    assert state.circuit.shown == 1
    state = circuit_reducer.show_circuit(state, -1)
    assert state.circuit.shown == 0
    assert circuit_reducer.show_circuit(state, -1) == state
    assert circuit_reducer.show_circuit(state, 5).circuit.shown == 1


# --- what the user makes of it ------------------------------------------------------------------------------------


def test_pins_names_and_groups() -> None:
    state = traced()
    ref = strongest(state)
    state = circuit_reducer.put_in_group(
        circuit_reducer.rename(circuit_reducer.toggle_pin(state, ref), ref, " x "), ref, "g"
    )
    assert state.traced is not None
    assert state.traced.pins == (ref,)
    assert state.traced.names == {f"{ref.source}:{ref.index}": "x"}
    assert state.traced.groups == {str(ref): "g"}
    state = circuit_reducer.put_in_group(
        circuit_reducer.rename(circuit_reducer.toggle_pin(state, ref), ref, ""), ref, " "
    )
    assert state.traced == CircuitRecord(AT, LAST)


def test_what_is_made_of_a_growing_circuit_is_kept_with_it() -> None:
    state = after(tracing(), grown(FIRST))
    ref = strongest(state)
    state = after(circuit_reducer.toggle_pin(state, ref), *map(grown, GROWTH[1:]))
    assert state.circuits[0].pins == (ref,)
    assert state.circuits[0].circuit == LAST


def test_without_a_circuit_nothing_happens() -> None:
    state, ref = one_run(), NodeRef("4-res-fk", 1, 2)
    for step in (
        circuit_reducer.toggle_pin(state, ref),
        circuit_reducer.rename(state, ref, "x"),
        circuit_reducer.put_in_group(state, ref, "x"),
        circuit_reducer.move_nodes(state, 1),
        circuit_reducer.move_edges(state, -1),
        circuit_reducer.unfold(state, (ref,)),
        circuit_reducer.fold(state, ()),
        circuit_reducer.reveal(state, ref),
        circuit_reducer.move_column(state, 1),
        circuit_reducer.show_circuit(state, 1),
        circuit_reducer.checked(state, samples.check(strongest(traced()))),
    ):
        assert step == state
    assert state.tree == ()
    assert state.column == 0


# --- the session --------------------------------------------------------------------------------------------------


def test_a_growing_circuit_is_not_written_and_a_stopped_one_is() -> None:
    base = samples.session()
    state = after(tracing(), grown(FIRST))
    assert to_session(state, base).circuits == ()
    session = to_session(reducer.stopped(state), base)
    assert [c.circuit for c in session.circuits] == [FIRST]
    assert session.view.circuit == 0


def test_only_what_is_kept_makes_the_file_old(tmp_path: object) -> None:
    state = tracing()
    recorder = Recorder(tmp_path / "x.json", samples.session())  # type: ignore[operator]
    recorder.mark_written(state)
    assert recorder.is_dirty(traced())
