"""A circuit known in closed form is recovered exactly: nodes, effects, edges, and what interventions measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.circuit_results import ERROR, METRIC, NodeRef
from engine.circuits.assemble import assemble
from engine.circuits.examples import Example
from engine.circuits.goal import Goal, token_ids
from engine.circuits.scrutiny import check_edge, check_node
from engine.circuits.trace import Plan, Traced, trace
from engine.job import Job
from tests import planted
from tests.planted import A_FEATURE, B_FEATURE, C_FEATURE, E_FEATURE, YES, A, B, D

PROMPT = (A, B, D, A)
"""b is 6, 3, 2, 3 at the four positions; c at the last is 5 · (6 + 3 + 2 + 3) / 4 = 17.5; e there is 14; d at 2."""
TIGHT: dict[str, Any] = {"rel": 1e-9, "abs": 1e-10}


def _trace(method: Any, prompt: tuple[int, ...] = PROMPT, patch: tuple[int, ...] | None = None, **plan: Any) -> Traced:
    goal = Goal("logit", token_ids([[YES]], torch.device("cpu")))
    batches = [[Example(prompt, patch, (YES,))]]
    settings = Plan(method=method, node_threshold=1e-6, edge_threshold=1e-6, keep_sinks=False, **plan)
    return trace(planted.model(), planted.bases(), batches, lambda *_: goal, settings, Job(), lambda _: None)


def _nodes_and_edges(traced: Traced) -> tuple[dict[NodeRef, float], dict[tuple[NodeRef, NodeRef], float]]:
    _, nodes, edges, _ = assemble(traced)
    weights = {(nodes[e.source].ref, nodes[e.target].ref): e.weight for e in edges}
    return {node.ref: node.effect for node in nodes[1:]}, weights


def _expected_nodes() -> dict[NodeRef, float]:
    # A's 2·a at position s is worth, through b at t ≥ s: 3 · 2 / (t + 1), each worth 5 / 4 of the logit
    through = {s: sum(6 / (t + 1) for t in range(s, 4)) * 5 / 4 for s in (0, 3)}
    return {
        NodeRef("embed", A_FEATURE, 0): through[0],
        NodeRef("embed", A_FEATURE, 3): through[3] + 7,
        **{NodeRef("0-res", B_FEATURE, t): b * 5 / 4 for t, b in enumerate((6, 3, 2, 3))},
        NodeRef("0-res", A_FEATURE, 3): 7,
        NodeRef("1-res", C_FEATURE, 3): 17.5,
        NodeRef("1-res", E_FEATURE, 3): 7,
    }


def _expected_edges() -> dict[tuple[NodeRef, NodeRef], float]:
    c, e, metric = NodeRef("1-res", C_FEATURE, 3), NodeRef("1-res", E_FEATURE, 3), NodeRef(METRIC)
    b = {t: NodeRef("0-res", B_FEATURE, t) for t in range(4)}
    a0, a3 = NodeRef("embed", A_FEATURE, 0), NodeRef("embed", A_FEATURE, 3)
    return {
        (c, metric): 17.5,
        (e, metric): 7,
        **{(b[t], c): amount * 5 / 4 for t, amount in enumerate((6, 3, 2, 3))},
        (NodeRef("0-res", A_FEATURE, 3), e): 7,
        **{(a0, b[t]): 6 / (t + 1) * 5 / 4 for t in range(4)},
        (a3, b[3]): 6 / 4 * 5 / 4,
        (a3, NodeRef("0-res", A_FEATURE, 3)): 7,
    }


@pytest.mark.parametrize("method", ["attrib", "ig", "exact"])
def test_nodes_and_edges_are_those_that_were_planted(method: str) -> None:
    nodes, edges = _nodes_and_edges(_trace(method))
    assert nodes == pytest.approx(_expected_nodes(), **TIGHT)
    assert edges == pytest.approx(_expected_edges(), **TIGHT)


def test_what_no_dictionary_knows_is_an_error_node() -> None:
    """Token D last: its d reaches the logit at every site as error, from error to error."""
    nodes, edges = _nodes_and_edges(_trace("ig", (A, D)))
    errors = {ref: effect for ref, effect in nodes.items() if ref.is_error}
    chain = [NodeRef(source, ERROR, 1) for source in ("embed", "0-res", "1-res")]
    assert errors == pytest.approx(dict.fromkeys(chain, 4.0), **TIGHT)
    between = {pair: weight for pair, weight in edges.items() if pair[0].is_error}
    links = zip(chain, [*chain[1:], NodeRef(METRIC)], strict=True)
    assert between == pytest.approx(dict.fromkeys(links, 4.0), **TIGHT)


def test_against_a_patch_only_the_difference_counts() -> None:
    """Without its first A the prompt has b = 0, 0, 0, 1.5: position 0 explains all the rest."""
    nodes, _ = _nodes_and_edges(_trace("ig", PROMPT, (B, B, D, A)))
    gone = {0: 6.0, 1: 3.0, 2: 2.0, 3: 1.5}
    expected = {
        NodeRef("embed", A_FEATURE, 0): sum(gone.values()) * 5 / 4,
        **{NodeRef("0-res", B_FEATURE, t): amount * 5 / 4 for t, amount in gone.items()},
        NodeRef("1-res", C_FEATURE, 3): sum(gone.values()) * 5 / 4,
    }
    assert nodes == pytest.approx(expected, **TIGHT)


def test_summed_over_positions() -> None:
    nodes, edges = _nodes_and_edges(_trace("ig", aggregate="sum"))
    b, c = NodeRef("0-res", B_FEATURE), NodeRef("1-res", C_FEATURE)
    assert nodes[b] == pytest.approx(17.5, **TIGHT)
    assert edges[b, c] == pytest.approx(17.5, **TIGHT)
    assert all(ref.position is None for ref in nodes)


def test_the_strongest_position() -> None:
    nodes, edges = _nodes_and_edges(_trace("ig", aggregate="max"))
    b, c = NodeRef("0-res", B_FEATURE), NodeRef("1-res", C_FEATURE)
    assert nodes[b] == pytest.approx(7.5, **TIGHT)
    assert edges[b, c] == pytest.approx(7.5, **TIGHT)


@pytest.mark.parametrize("aggregate", ["none", "sum"])
def test_interventions_measure_what_was_predicted(aggregate: str) -> None:
    traced = _trace("ig", aggregate=aggregate)
    nodes, edges = _nodes_and_edges(traced)
    for ref, effect in nodes.items():
        assert check_node(traced, ref, effect).measured == pytest.approx(effect, **TIGHT)
    for (source, target), weight in edges.items():
        check = check_edge(traced, source, target, weight)
        assert check.measured == pytest.approx(weight, **TIGHT)


def test_an_edge_also_tells_the_change_of_activation() -> None:
    check = check_edge(_trace("ig"), NodeRef("embed", A_FEATURE, 0), NodeRef("0-res", B_FEATURE, 1), 3.75)
    assert check.activation_change == pytest.approx((-3.0, -3.0), **TIGHT)


def test_inflow_is_the_whole_of_an_effect() -> None:
    """Nothing is lost between neighbouring sites of a linear model: what flows in is the effect."""
    _, nodes, _, _ = assemble(_trace("ig"))
    for node in nodes:
        if node.ref.source != "embed":
            assert node.inflow == pytest.approx(node.effect, **TIGHT)


def test_effects_alone_are_a_finished_answer() -> None:
    """Nodes only: the same effects, no edges, and the last snapshot says that nothing is to come."""
    traced = _trace("ig", nodes_only=True)
    nodes, edges = _nodes_and_edges(traced)
    assert nodes == pytest.approx(_expected_nodes(), **TIGHT)
    assert not edges
    assert traced.finished
