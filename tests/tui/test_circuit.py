"""Pane 5 under a user's hands; the fake engine is a real process that speaks the real protocol."""

from __future__ import annotations

import msgspec
import pytest

from engine.protocol import FeatureRef, NodeRef
from sessions.model import Session
from sessions.store import read_session
from tests import samples
from tests.tui.driving import PROMPT, SIZES, Driver, driving, replaying
from tui import circuit_reducer
from tui.circuit_state import REST
from tui.screens.faithfulness import FaithfulnessPage
from tui.state import State


async def trace(user: Driver) -> State:
    """Trace the prompt on screen to its end."""
    traces = len(user.state.circuits)
    await user.press("c")
    state = await user.until(lambda s: len(s.circuits) > traces and not s.tasks)
    return await user.until(lambda s: hinted(s)) if state.traced else state


def hinted(state: State) -> bool:
    nodes = state.traced.circuit.nodes if state.traced else ()
    return all(f"{n.ref.source}:{n.ref.index}" in state.hints for n in nodes if n.ref.index >= 0)


def cursor(user: Driver) -> str:
    """The line under the cursor."""
    return next((line for line in reversed(user.lines()) if line.split("│")[-1].startswith("▌")), "")


@pytest.mark.parametrize("size", SIZES)
async def test_tracing_shows_what_the_next_token_comes_from(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.run()
        await user.press("5")
        assert "c or Enter traces the likeliest next token" in user.text
        state = await trace(user)
        assert user.app.inspect.at == "circuit"
        assert state.traced is not None
        assert state.traced.circuit.prompt == PROMPT
        assert "logit ·Paris" in user.text
        assert "+3.21" in user.text
        assert "46 % by features shown" in user.text
        assert ("explained 46 %" in user.text) is (size[0] != 120), "where the title has room for it"
        assert "ig 10 · 53 nodes ≥ .006 · 165 edges ≥ .003" in user.text
        assert "unexpl" in user.text
        assert any(f":{row.path[0].index}" in user.text for row in state.tree[1:3])


async def test_enter_traces_where_nothing_was_and_opens_what_was_found() -> None:
    async with driving() as user:
        await user.run()
        await user.press("5", "enter")
        await user.until(lambda s: s.circuits and not s.tasks)
        assert len(user.state.circuits) == 1
        await user.press("j", "enter")
        assert len(user.state.circuit.opened) == 2
        assert user.state.circuits[0].circuit.finished
        await user.press("enter")
        assert len(user.state.circuit.opened) == 1


async def test_one_walks_the_tree_and_the_tokens_follow() -> None:
    async with driving() as user:
        await user.run()
        await trace(user)
        await user.press("j")
        state = await user.until(lambda s: s.circuit.cursor)
        ref = state.circuit.cursor[-1]
        state = await user.until(lambda s: s.feature == FeatureRef(ref.source, ref.index) and s.card)
        await user.press("l")
        assert "▾" in cursor(user)
        await user.press("right")
        assert len(user.state.circuit.cursor) == 2
        await user.press("h")
        assert user.state.circuit.cursor == (ref,)
        await user.press("left", "left")
        assert user.state.circuit.cursor == ()
        await user.press("G")
        await user.until(lambda s: s.circuit.cursor[-1] == REST)
        assert "rest" in cursor(user)
        assert "what is not shown" in user.text


async def test_what_is_unexplained_keeps_the_selection() -> None:
    async with driving() as user:
        await user.run()
        state = await trace(user)
        place = next(n for n, row in enumerate(state.tree) if row.node and row.path[-1].is_error)
        before = state.feature
        for _ in range(place):
            await user.press("j")
        await user.until(lambda s: s.circuit.cursor == s.tree[place].path)
        await user.pilot.pause(0.2)
        assert user.state.feature is not None
        assert user.state.feature.index >= 0
        assert "unexplained" in user.text
        assert before is not None


async def test_stopping_keeps_the_circuit_grown_so_far() -> None:
    async with driving() as user:
        await user.run()
        user.app.change(lambda s: _with_prompt(s, "/slow 30 the city of"))
        await user.press("c")
        state = await user.until(lambda s: s.growing is not None)
        assert "growing…" in user.text
        assert "esc stops" in user.text
        assert state.growing is not None
        assert "~" in user.text, "estimates are marked"
        await user.press("escape")
        state = await user.until(lambda s: not s.tasks)
        assert len(state.circuits) == 1
        assert not state.circuits[0].circuit.finished
        assert "stopped" in user.text
        await user.pilot.pause(0.2)
        assert len(user.state.circuits) == 1


def _with_prompt(state: State, prompt: str) -> State:
    """The state as if another prompt had been run: the fake engine does what a prompt says in a run, too."""
    run = state.runs[-1]
    result = msgspec.structs.replace(run.result, prompt=prompt)
    return msgspec.structs.replace(state, runs=(*state.runs[:-1], msgspec.structs.replace(run, result=result)))


async def test_a_trace_that_fails_says_why_in_the_pane() -> None:
    async with driving() as user:
        await user.run()
        user.app.change(lambda s: _with_prompt(s, "/fail the city of"))
        await user.press("c")
        state = await user.until(lambda s: s.notice)
        assert state.notice is not None
        assert state.notice.where == "circuit"
        assert "asks the fake engine to fail" in user.text
        assert "Ask for something else" in user.text
        assert not state.tasks
        assert state.circuits[0].circuit.nodes, "what had been found when it failed is kept"


async def test_an_engine_that_dies_during_a_trace_leaves_what_it_had_found() -> None:
    async with driving() as user:
        await user.run()
        await trace(user)
        user.app.change(lambda s: _with_prompt(s, "/die the city of"))
        await user.press("c")
        state = await user.until(lambda s: s.engine.deaths == 1 and s.engine.phase == "ready")
        assert len(state.circuits) == 2
        assert not state.circuits[1].circuit.finished
        assert state.tasks == ()
        await user.press("j", "v")
        assert "only measure its own last trace" in user.text
        user.app.change(lambda s: _with_prompt(s, PROMPT))
        await trace(user)
        await user.press("g", "j", "v")
        await user.until(lambda s: s.traced and s.traced.checks)


async def test_every_claim_can_be_checked() -> None:
    async with driving((200, 50)) as user:
        await user.run()
        state = await trace(user)
        await user.press("v")
        assert "nothing to verify" in user.text
        await user.press("j", "v")
        state = await user.until(lambda s: s.traced and s.traced.checks and not s.tasks)
        assert state.traced is not None
        assert state.traced.checks[0].target is None
        assert "measured" in user.text
        assert "✓" in user.text or "✗" in user.text
        await user.press("l", "l", "v")
        state = await user.until(lambda s: s.traced and len(s.traced.checks) == 2 and not s.tasks)
        assert state.traced is not None
        assert state.traced.checks[1].target == state.circuit.cursor[0]
        await user.press("V")
        state = await user.until(lambda s: s.traced and len(s.traced.checks) == 3 and not s.tasks)
        assert state.traced is not None
        assert state.traced.checks[2].target is None


async def test_thresholds_move_at_once_and_say_when_only_a_trace_helps() -> None:
    async with driving() as user:
        await user.run()
        state = await trace(user)
        lines = len(state.tree)
        await user.press(*["greater_than_sign"] * 5)
        assert len(user.state.tree) < lines
        assert "/53 nodes ≥ .200" in user.text
        assert not user.state.tasks
        await user.press(*["full_stop"] * 6)
        assert "/165 edges ≥" in user.text
        await user.press(*["less_than_sign"] * 6)
        assert "The trace kept no nodes under .006" in user.text
        assert "c traces again, with up to 200" in user.text
        await user.press("j")
        assert user.state.notice is None
        await trace(user)
        assert user.state.circuits[1].circuit.settings.max_nodes == 200


async def test_pin_name_group_mark_and_steer() -> None:
    async with driving((200, 50)) as user:
        await user.run()
        await trace(user)
        await user.press("j", "p", "space")
        state = user.state
        ref = state.circuit.cursor[-1]
        assert state.marks == (FeatureRef(ref.source, ref.index),)
        assert state.traced is not None
        assert state.traced.pins == (ref,)
        assert "●◆" in cursor(user)
        await user.press("n", *"capital [b]", "enter")
        await user.press("a", *"cities", "enter")
        assert "“capital [b]” ‹cities›" in cursor(user)
        assert "group of 1: effects +" in user.text
        await user.press("n", "escape")
        assert user.state.traced is not None
        assert user.state.traced.names == {f"{ref.source}:{ref.index}": "capital [b]"}
        assert user.app.inspect.circuit.body.has_focus
        await user.press("a", "ctrl+u", "enter")
        assert user.state.traced.groups == {}
        await user.press("s")
        assert user.app.inspect.at == "steering"
        assert [r.intervention.feature for r in user.state.steering.rows] == [FeatureRef(ref.source, ref.index)]


async def test_what_to_explain_can_be_typed() -> None:
    async with driving() as user:
        await user.run()
        await user.press("5", "T")
        assert "(· or a space: part of it)" in user.text
        await user.press(*"Paris")
        assert "would continue the last word" in user.text
        await user.press("ctrl+u", *" Paris/ Rome")
        assert "explains ·Paris against ·Rome" in user.text
        await user.press("m", "enter")  # the m is typed
        state = await user.until(lambda s: s.circuits and not s.tasks)
        metric = state.circuits[0].circuit.metric
        assert metric.kind == "difference"
        assert [t.text for t in metric.targets] == [" Paris"]
        assert [t.text for t in metric.against] == [" Romem"]
        assert "logit ·Paris − ·Romem" in user.text
        await user.press("m")
        assert "next exact" in user.text
        state = await trace(user)
        assert state.circuits[1].circuit.settings.method == "exact"
        await user.press("H")
        assert user.state.circuit.shown == 0
        await user.press("L")
        assert user.state.circuit.shown == 1


async def test_the_grid_shows_where_the_nodes_are() -> None:
    async with driving((80, 24)) as user:
        await user.run()
        await trace(user)
        await user.press("w")
        assert "▾·of" in user.text
        assert "size of the summed effect" in user.text
        assert "[+█×8?" in user.text
        await user.press("h", "j")
        assert user.state.token == 6
        assert "▾·city" in user.text
        state = await user.until(lambda s: s.circuit.site == 1)
        await user.press("h", "h")
        state = await user.until(lambda s: s.feature and s.feature.source == "9-res-fk")
        assert state.column == 4
        await user.press("enter")
        state = await user.until(lambda s: not s.circuit.grid)
        assert state.circuit.cursor[-1].position == 4
        assert state.circuit.cursor[-1].source == "9-res-fk"
        await user.press("w")
        assert user.state.circuit.grid
        await user.press("escape")
        assert not user.state.circuit.grid


async def test_faithfulness_opens_a_page_and_is_measured_once() -> None:
    async with driving() as user:
        await user.run()
        await trace(user)
        await user.press("F")
        await user.until(lambda _: isinstance(user.app.screen, FaithfulnessPage))
        assert "faithful" in user.text
        assert "20.4 %" in user.text
        await user.press("escape")
        assert user.app.screen is user.app.inspect
        await user.press("F")
        assert isinstance(user.app.screen, FaithfulnessPage)


async def test_an_answer_does_not_take_the_screen_from_a_user_who_went_on() -> None:
    async with driving() as user:
        await user.run()
        await trace(user)
        await user.press("F", "2")
        await user.until(lambda s: s.traced and s.traced.faithfulness)
        assert user.app.screen is user.app.inspect or user.app.inspect.at == "circuit"


async def test_without_a_prompt_there_is_nothing_to_trace() -> None:
    async with driving() as user:
        await user.press("escape", "c")
        assert "There is no prompt to trace" in user.text
        for key in "vVpnaw<>,.FHLT":
            await user.press(key)
            await user.press("escape")
        assert user.state.circuits == ()


async def test_circuits_are_saved_and_replayed_without_an_engine() -> None:
    async with driving() as user:
        await user.run()
        await trace(user)
        await user.press("j", "p", "v")
        await user.until(lambda s: s.traced and s.traced.checks)
        await user.press("greater_than_sign", "greater_than_sign")
        path = user.app._recorder.path  # type: ignore[union-attr]
        await user.press("q")
    session = read_session(path)
    assert len(session.circuits) == 1
    assert session.circuits[0].circuit.finished
    assert session.circuits[0].pins
    assert session.circuits[0].checks
    assert session.view.node_threshold is not None
    for size in SIZES:
        async with replaying(session, size) as user:
            await user.press("5")
            assert "logit ·Paris" in user.text
            assert "◆" in user.text
            assert "/53 nodes" in user.text
            await user.press("j", "l", "v")
            assert "This is a recording" in user.text
            await user.press("w", "escape", "c")
            assert user.state.tasks == ()


async def test_a_session_from_before_circuits_opens() -> None:
    raw = msgspec.json.decode(msgspec.json.encode(samples.session()))
    del raw["circuits"]
    for key in ("circuit", "node_threshold", "edge_threshold"):
        del raw["view"][key]
    session = msgspec.convert(raw, Session)
    async with replaying(session) as user:
        await user.press("5", "F", "w", "j", "l", "n", "H")
        assert "holds no circuit" in user.text


async def test_a_recorded_session_shows_everything_of_a_circuit() -> None:
    async with replaying(samples.session(), (200, 50)) as user:
        await user.press("5")
        named = samples.circuit_record().circuit.nodes[1].ref
        user.app.change(lambda s: circuit_reducer.reveal(s, named))
        await user.pilot.pause()
        assert "“capital ␛[31m” ‹cities›" in user.text
        await user.press("F")
        assert isinstance(user.app.screen, FaithfulnessPage)


async def test_aggregated_circuits_have_no_positions() -> None:
    whole = samples.circuit_record()
    nodes = tuple(
        msgspec.structs.replace(n, ref=NodeRef(n.ref.source, n.ref.index if n.ref.is_error else n.ref.index + 5000 * i))
        for i, n in enumerate(whole.circuit.nodes)
    )
    circuit = msgspec.structs.replace(whole.circuit, nodes=nodes, tokens=(), examples=12)
    record = msgspec.structs.replace(whole, circuit=circuit)
    session = msgspec.structs.replace(samples.session(), circuits=(record,))
    async with replaying(session, (200, 50)) as user:
        await user.press("5")
        assert " @ " not in user.text
        assert "12 examples" in user.text
        await user.press("w")
        assert "all" in user.text
