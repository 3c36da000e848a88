"""The tree of a circuit: what stands where, shares, thresholds, verdicts. All of it pure."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from engine.protocol import (
    Check,
    Circuit,
    CircuitEdge,
    CircuitNode,
    FeatureRef,
    NodeRef,
    Open,
)
from sessions.model import CircuitRecord
from tests import samples
from tests.nasty import NASTY
from tui.circuit_state import (
    REST,
    CircuitView,
    Path,
    TreeRow,
    agrees,
    check_of,
    group_effect,
    moved_threshold,
    name_key,
    path_to,
    row_at,
    shown,
    stepped,
    tree,
)
from tui.panes import circuit_grid, circuit_tree
from tui.state import State
from tui.text import cell_len

A, B, C = NodeRef("2-res", 7, 1), NodeRef("1-res", 3, 1), NodeRef("1-res", -1, 0)
D = NodeRef("0-res", 9, 0)
WIDTHS = (20, 41, 62, 69, 70, 79, 99, 104, 198)


def circuit(nodes: tuple[CircuitNode, ...] | None = None, edges: tuple[CircuitEdge, ...] | None = None) -> Circuit:
    """metric ← A, B; A ← B, C (unexplained), D; B ← D."""
    whole = samples.circuit("two words")
    settings = msgspec.structs.replace(whole.settings, node_threshold=0.01, edge_threshold=0.01)
    return msgspec.structs.replace(
        whole,
        settings=settings,
        nodes=nodes
        or (
            CircuitNode(NodeRef(""), 2.0, inflow=2.0),
            CircuitNode(A, 1.2, 3.0, inflow=1.0),
            CircuitNode(B, -0.5, 2.0),
            CircuitNode(C, 0.3),
            CircuitNode(D, 0.05, 1.0),
        ),
        edges=edges
        if edges is not None
        else (
            CircuitEdge(1, 0, 1.2),
            CircuitEdge(2, 0, -0.2),
            CircuitEdge(2, 1, 0.5),
            CircuitEdge(3, 1, 0.3),
            CircuitEdge(4, 1, 0.02),
            CircuitEdge(4, 2, -0.25),
        ),
    )


def record(**changes: object) -> CircuitRecord:
    return CircuitRecord(samples.AT, circuit(), **changes)  # type: ignore[arg-type]


def rows(*opened: Path, view: CircuitView | None = None, of: CircuitRecord | None = None) -> tuple[TreeRow, ...]:
    view = msgspec.structs.replace(view or CircuitView(), opened=frozenset({(), *opened}))
    return tree(of or record(), view)


def state_of(of: CircuitRecord, **changes: object) -> State:
    state = State(opening=Open(id=0), circuits=(of,), circuit=CircuitView(shown=0))
    return msgspec.structs.replace(state, **changes)


def test_causes_stand_under_what_they_cause_the_strongest_first() -> None:
    assert [r.path for r in rows()] == [(), (A,), (B,), (REST,)]
    assert [r.path for r in rows((A,), (A, B))] == [
        (),
        (A,),
        (A, B),
        (A, B, D),
        (A, C),
        (A, D),
        (A, REST),
        (B,),
        (REST,),
    ]


def test_shares_are_of_the_parents_effect_and_add_up() -> None:
    found = {r.path: r for r in rows((A,), (B,))}
    assert found[(A,)].share == pytest.approx(0.6)
    assert found[(B,)].share == pytest.approx(-0.1)
    assert found[(B,)].covered == pytest.approx(0.5)
    assert found[(A, B)].share == pytest.approx(0.5 / 1.2)
    assert found[(A, C)].covered == pytest.approx(0.8 / 1.2)
    assert found[(B, D)].share == pytest.approx(0.5)


def test_the_rest_is_what_is_not_shown() -> None:
    found = {r.path: r for r in rows((A,), (B,))}
    rest = found[(A, REST)]
    assert rest.weight == pytest.approx(0.18)
    assert rest.share == pytest.approx(0.18 / 1.2)
    assert rest.hidden == 0
    assert rest.node is None
    assert (B, REST) not in found, "nothing is known to be missing"
    assert found[(REST,)].weight == pytest.approx(1.0)


def test_a_node_may_stand_in_several_places_and_not_under_itself() -> None:
    places = [r for r in rows((A,), (B,), (A, B)) if r.path and r.path[-1] == D]
    assert len(places) == 3
    round_ = circuit(edges=(CircuitEdge(1, 0, 1.0), CircuitEdge(2, 1, 0.5), CircuitEdge(1, 2, 0.4)))
    found = rows((A,), (A, B), (A, B, A), of=CircuitRecord(samples.AT, round_))
    assert [r.path for r in found if r.node is not None] == [(), (A,), (A, B), (A, B, A)]
    assert found[3].repeated
    assert not found[3].foldable


def test_thresholds_hide_and_pins_stay() -> None:
    view = CircuitView(node_threshold=0.4)
    assert [r.path for r in rows((A,), view=view)] == [(), (A,), (A, B), (A, REST), (B,), (REST,)]
    assert rows((A,), view=view)[3].hidden == 2
    assert shown(record(), view).counts() == (2, 3)
    pinned = record(pins=(D,))
    assert (A, D) in [r.path for r in rows((A,), view=view, of=pinned)]
    view = CircuitView(edge_threshold=0.3)
    assert [r.path for r in rows((A,), view=view)] == [(), (A,), (A, B), (A, C), (A, REST), (REST,)]
    assert shown(record(), view).counts() == (4, 3)


def test_a_threshold_below_what_was_kept_shows_what_was_kept() -> None:
    assert shown(record(), CircuitView(node_threshold=1e-9)).node_threshold == 0.01
    assert shown(record(), CircuitView(node_threshold=1e-9)).counts() == (4, 6)


def test_without_edges_the_causes_are_listed_by_effect() -> None:
    """The first part of a growing circuit has none; whole effects overlap and sum up to nothing."""
    found = rows(of=CircuitRecord(samples.AT, circuit(edges=())))
    assert [r.path for r in found] == [(), (A,), (B,), (C,), (D,)]
    assert found[1].share == pytest.approx(0.6)
    assert {r.covered for r in found} == {None}
    assert shown(CircuitRecord(samples.AT, circuit(edges=())), CircuitView()).counts() == (4, 0)


def test_what_is_explained_comes_from_features() -> None:
    edges = (CircuitEdge(1, 0, 1.2), CircuitEdge(3, 0, 0.6))
    assert shown(CircuitRecord(samples.AT, circuit(edges=edges)), CircuitView()).explained() == pytest.approx(0.6)
    assert shown(CircuitRecord(samples.AT, circuit(edges=())), CircuitView()).explained() is None


@pytest.mark.parametrize(
    "edges",
    [
        (CircuitEdge(99, 0, 1.0), CircuitEdge(1, 99, 1.0), CircuitEdge(-7, -9, 1.0)),
        (CircuitEdge(0, 1, 1.0), CircuitEdge(1, 0, math.nan), CircuitEdge(1, 1, math.inf)),
        (CircuitEdge(1, 1, 1.0), CircuitEdge(1, 0, 0.0)),
    ],
)
def test_damaged_circuits_are_shown_as_far_as_they_go(edges: tuple[CircuitEdge, ...]) -> None:
    of = CircuitRecord(samples.AT, circuit(edges=edges))
    found = rows((A,), of=of)
    assert found[0].path == ()
    for width in WIDTHS:
        for row in found:
            circuit_tree.draw(state_of(of), row, width, lambda _: Style())


def test_an_empty_circuit_has_no_rows() -> None:
    bare = msgspec.structs.replace(circuit(), nodes=(), edges=())
    assert rows(of=CircuitRecord(samples.AT, bare)) == ()


def test_the_cursor_stays_where_it_is_or_goes_up() -> None:
    found = rows((A,))
    assert found[row_at(found, (A, C))].path == (A, C)
    assert found[row_at(found, (A, B, D))].path == (A, B)
    assert found[row_at(found, (D, A))].path == ()


def test_the_way_to_a_node_is_the_shortest() -> None:
    at = shown(record(), CircuitView())
    assert path_to(at, 4) == (A, D)
    assert path_to(at, 0) == ()
    assert path_to(shown(record(), CircuitView(edge_threshold=0.25)), 4) == (A, B, D)


def test_rows_are_made_once() -> None:
    of = record()
    assert rows((A,), of=of) is rows((A,), of=of)


# --- thresholds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [
        (1, 2, 0.5),
        (0.05, 0.1, 0.02),
        (0.2, 0.5, 0.1),
        (0.03, 0.05, 0.02),
        (7, 10, 5),
        (1e-6, 2e-6, 5e-7),
        (999, 1000, 500),
    ],
)
def test_steps_are_1_2_5(value: float, up: float, down: float) -> None:
    assert stepped(value, 1) == pytest.approx(up)
    assert stepped(value, -1) == pytest.approx(down)


@given(st.floats(1e-9, 1e9))
def test_a_step_goes_on(value: float) -> None:
    assert stepped(value, -1) < value < stepped(value, 1)
    assert stepped(value, 1) <= 2.51 * value


def test_a_threshold_keeps_between_what_was_kept_and_the_largest() -> None:
    assert moved_threshold(0.03, 0.03, 2, 1) == 0.05
    assert moved_threshold(0.05, 0.03, 2, -1) == 0.03
    assert moved_threshold(0.03, 0.03, 2, -1) is None
    assert moved_threshold(1, 0.03, 1.2, 1) == 1.2
    assert moved_threshold(1.2, 0.03, 1.2, 1) == 1.2
    assert moved_threshold(0, 0, 1.2, 1) == pytest.approx(0.002)
    assert moved_threshold(0, 0, 0, 1) == 0


# --- verdicts, names, groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "measured", "agreed"),
    [
        (1, 1.2, True),
        (1, 0.8, True),
        (1, 1.21, False),
        (1, -1, False),
        (0.01, -0.01, True),
        (0.01, 0.03, False),
        (0, 0, True),
    ],
)
def test_a_claim_holds_within_a_fifth_or_where_both_are_small(predicted: float, measured: float, agreed: bool) -> None:
    assert agrees(Check(A, None, predicted, measured, ""), 2.0) is agreed


def test_a_row_shows_the_check_of_its_own_claim_first() -> None:
    whole, edge = Check(B, None, -0.5, -0.5, ""), Check(B, A, 0.5, 0.4, "")
    assert check_of(record(checks=(whole, edge)), (A, B)) == edge
    assert check_of(record(checks=(whole,)), (A, B)) == whole
    assert check_of(record(checks=(whole, edge)), (B,)) == whole
    assert check_of(record(checks=(Check(B, NodeRef(""), 1, 1, ""),)), (B,)) is not None
    assert check_of(record(checks=(edge,)), (B,)) is None
    assert check_of(record(checks=(edge,)), (A, REST)) is None


def test_a_name_is_of_a_feature_and_a_group_of_nodes() -> None:
    assert name_key(A) == name_key(msgspec.structs.replace(A, position=5)) == "2-res:7"
    assert name_key(C) == "1-res:error@0"
    assert group_effect(record(groups={str(A): "x", str(B): "x", str(D): "y"}), "x") == (2, pytest.approx(0.7))


# --- lines --------------------------------------------------------------------------------------------------------


def line(state: State, row: TreeRow, width: int) -> str:
    return "".join(s.text for s in circuit_tree.draw(state, row, width, lambda _: Style()))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_line_keeps_its_numbers_and_its_width(width: int) -> None:
    of = samples.circuit_record()
    state = state_of(of)
    opened = {row.path for row in state.tree}
    state = msgspec.structs.replace(state, circuit=msgspec.structs.replace(state.circuit, opened=frozenset(opened)))
    assert len(state.tree) > 60
    for row in state.tree:
        text = line(state, row, width)
        if width > 60:
            assert cell_len(text) <= width - 1, "the bar of the cursor stands before it"
        if row.node is not None and row.depth and width > 60:
            node = of.circuit.nodes[row.node]
            assert f"{circuit_tree.share_text(row.share)}" in text
            assert node.ref.source in text
            assert node.ref.is_error or f":{node.ref.index}" in text


def test_signs_and_bars_say_without_colour_what_pushes_which_way() -> None:
    texts = {r.path: line(state_of(record()), r, 100) for r in rows()}
    assert "+1.20" in texts[(A,)]
    assert "█" in texts[(A,)]
    assert "−.200" in texts[(B,)]
    assert "▒" in texts[(B,)]
    assert "rest +1.00 · 50 %" in texts[(REST,)]
    assert "unexplained 1-res @ ∅(0)" in line(state_of(msgspec.structs.replace(
        record(), circuit=msgspec.structs.replace(circuit(), tokens=tuple(
            msgspec.structs.replace(t, text="") for t in circuit().tokens)))), rows((A,))[3], 100)  # fmt: skip


def test_positions_and_estimates_and_checks_and_names_show() -> None:
    bare = CircuitNode(msgspec.structs.replace(A, position=None), 1.2, estimated=True)
    of = CircuitRecord(
        samples.AT,
        circuit(nodes=(CircuitNode(NodeRef(""), 2.0, inflow=2.0), bare), edges=(CircuitEdge(1, 0, 1.2),)),
        checks=(Check(bare.ref, None, 1.2, 0.4, "set to 0"),),
        pins=(bare.ref,),
        names={"2-res:7": "mine"},
        groups={"2-res:7": "cities"},
    )
    state = state_of(of, marks=(FeatureRef("2-res", 7),))
    text = line(state, state.tree[1], 198)
    for part in ("●", "◆", "2-res:7 ", "+1.20~", "“mine”", "‹cities›", "checked +.400 ≈"):
        assert part in text
    assert "@" not in text
    assert "≈ +.400" in line(state, state.tree[1], 79)
    first, second = circuit_tree.details(state, state.tree[1])
    assert "(estimate)" in first
    assert "measured +.400 ≈ set to 0" in second


@pytest.mark.parametrize("text", NASTY)
def test_nasty_tokens_sources_and_names_fit(text: str) -> None:
    of = samples.circuit_record("one two")
    tokens = tuple(msgspec.structs.replace(t, text=text) for t in of.circuit.tokens)
    metric = msgspec.structs.replace(of.circuit.metric, targets=tokens, against=tokens)
    traced = msgspec.structs.replace(of.circuit, tokens=tokens, metric=metric)
    keys = [str(n.ref) for n in traced.nodes]
    of = CircuitRecord(samples.AT, traced, groups=dict.fromkeys(keys, text), names=dict.fromkeys(keys, text))
    state = state_of(of)
    for width in (62, 79, 104):
        for row in state.tree:
            shown_line = line(state, row, width)
            assert cell_len(shown_line) <= width - 1
            assert shown_line.isprintable()
        grid = circuit_grid.grid_of(state)
        assert grid is not None
        for n in range(len(grid.sources)):
            drawn = "".join(s.text for s in circuit_grid.draw(state, grid, n, width, lambda _: Style()))
            assert cell_len(drawn) <= width
            assert drawn.isprintable()
        head = "".join(s.text for s in circuit_grid.header(state, grid, width, lambda _: Style()))
        assert cell_len(head) <= width
        assert head.isprintable()


@pytest.mark.parametrize("width", [20, 62, 79, 198])
@pytest.mark.parametrize("column", [0, 3, 40, 79])
def test_the_grid_scrolls_with_the_token_cursor(width: int, column: int) -> None:
    of = CircuitRecord(samples.AT, samples.circuit(" ".join(f"w{n}" for n in range(80))))
    state = state_of(of, circuit=CircuitView(shown=0, column=column))
    grid = circuit_grid.grid_of(state)
    assert grid is not None
    window = circuit_grid.Window(grid, column, width)
    assert window.first <= column < window.last
    head = "".join(s.text for s in circuit_grid.header(state, grid, width, lambda _: Style()))
    assert f"▾·w{column}"[:4] in head.replace("▾w0", "▾·w0")
    row = "".join(s.text for s in circuit_grid.draw(state, grid, 0, width, lambda _: Style()))
    assert "[" in row
    assert cell_len(row) <= width


def test_the_grid_counts_and_sums() -> None:
    state = state_of(record())
    grid = circuit_grid.grid_of(state)
    assert grid is not None
    assert grid.cells[("1-res", 1)].features == 1
    assert grid.cells[("1-res", 1)].effect == -0.5
    assert grid.cells[("1-res", 0)].errors == 1
    texts = [
        "".join(s.text for s in circuit_grid.draw(state, grid, n, 80, lambda _: Style()))
        for n in range(len(grid.sources))
    ]
    assert any(re.search("−.×1", t) for t in texts)
    assert any(re.search("[+].[?]", t) for t in texts)
