"""Circuits as they grow, claims put beside interventions, and how faithful a circuit is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.headless import Headless
from engine.protocol import (
    Circuit,
    Done,
    MeasureFaithfulness,
    NodeRef,
    Pair,
    Trace,
    TraceGrown,
    Verify,
    event_from_line,
    to_line,
)
from tests import tiny
from tests.circuit_asking import (
    EVERY,
    ONE,
    PAIRS,
    PROMPT,
    SHORT,
    at_most,
    measured,
    nodes_of,
    opened_engine,
    plain_run,
    stopped_after,
    tokens_of,
    traced,
    verified,
)

SOURCES = ("1-res-tiny", "2-res-tiny", "3-res-tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, dictionary_folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """TopK dictionaries of layers 1, 2 and 3."""
    last_one = tiny.save_dictionary(tmp_path_factory.mktemp("last") / "3-res-tiny", "topk", layer=3)
    return (*dictionary_folders, last_one)


@pytest.fixture(scope="module")
def opened(llama_folder: Path, folders: tuple[Path, ...]) -> Callable[..., Headless]:
    def opening(dtype: str = "float32", dictionaries: Sequence[Path] = folders) -> Headless:
        return opened_engine(llama_folder, dictionaries, dtype)

    return opening


@pytest.fixture(scope="module")
def engine(opened: Callable[..., Headless]) -> Headless:
    return opened()


@pytest.fixture(scope="module")
def double(opened: Callable[..., Headless]) -> Headless:
    return opened("float64")


# --- growing ------------------------------------------------------------------------------------------------------


def _growth(headless: Headless, **asked: Any) -> list[Circuit]:
    return [e.circuit for e in headless.ask(Trace(id=2, **asked)) if isinstance(e, TraceGrown)]


@pytest.mark.parametrize("method", ["attrib", "ig", "exact"])
def test_every_snapshot_is_a_circuit(engine: Headless, method: Any) -> None:
    growth = _growth(engine, **ONE, method=method)
    for circuit in growth:
        assert event_from_line(to_line(TraceGrown(id=2, circuit=circuit))).circuit == circuit  # type: ignore[union-attr]
        assert circuit.nodes[0].ref.is_metric
        sizes = [abs(node.effect) for node in circuit.nodes[1:]]
        assert 0 < len(sizes) <= 100
        assert sizes == sorted(sizes, reverse=True)
        assert len({node.ref for node in circuit.nodes}) == len(circuit.nodes)
        assert [site.source for site in circuit.sites] == list(SOURCES)
        assert sum(site.kept for site in circuit.sites) == len(sizes)
        for edge in circuit.edges:
            assert edge.source in range(1, len(circuit.nodes))
            assert edge.target in range(len(circuit.nodes))
        weights = [abs(edge.weight) for edge in circuit.edges]
        assert weights == sorted(weights, reverse=True)
    assert [circuit.finished for circuit in growth] == [False] * (len(growth) - 1) + [True]
    assert [len(c.edges) for c in growth] == sorted(len(c.edges) for c in growth)
    assert growth[-1].edges


def test_the_site_to_which_most_is_attributed_is_refined_first(engine: Headless) -> None:
    sizes = dict.fromkeys(SOURCES, 0.0)
    for ref, effect in nodes_of(traced(engine, **ONE, method="attrib", **EVERY)).items():
        sizes[ref.source] += abs(effect)
    order: list[str] = []
    for circuit in _growth(engine, **ONE, method="ig", **EVERY):
        refined = {node.ref.source for node in circuit.nodes[1:] if not node.estimated}
        order += sorted(refined - set(order))
    assert order == sorted(sizes, key=lambda source: -sizes[source])
    assert not any(node.estimated for node in traced(engine, **ONE, method="attrib").nodes)


@pytest.mark.parametrize("snapshots", [1, 2, 4, 5])
def test_a_cancelled_trace_ends_at_once_and_the_engine_lives_on(engine: Headless, snapshots: int) -> None:
    with at_most(engine, 10**9) as blocks:
        seen, run_until_then = stopped_after(engine, snapshots, blocks)
        assert len(seen) == snapshots
        assert len(blocks) == run_until_then > 0, "no block runs after the cancelling"
    node = seen[-1].nodes[1]
    assert verified(engine, node.ref).predicted == node.effect, "what was found until then can be asked about"
    assert traced(engine, **ONE).nodes[1:]


# --- claims -------------------------------------------------------------------------------------------------------


def test_a_verified_effect_is_the_exact_one(double: Headless) -> None:
    exact = traced(double, **ONE, method="exact", budget=10**6, node_threshold=0.0)
    estimated = traced(double, **ONE, method="attrib", node_threshold=0.0)
    for node in estimated.nodes[1:12]:
        check = verified(double, node.ref)
        assert (check.source, check.target, check.predicted) == (node.ref, None, node.effect)
        assert check.measured == pytest.approx(nodes_of(exact)[node.ref], rel=1e-4, abs=1e-5)


def test_an_aggregated_node_is_changed_everywhere(double: Headless, folders: tuple[Path, ...]) -> None:
    circuit = traced(double, **ONE, method="attrib", aggregate="sum")
    the, a = tokens_of(double, " the", " a")
    plain = plain_run(double, folders, lambda logits: logits[the] - logits[a])
    for node in circuit.nodes[1:8]:
        part, state = plain.parts[node.ref.source], plain.states[node.ref.source]
        if node.ref.is_error:
            x = state.x + state.delta_rest
        else:
            x = state.x + state.delta[:, node.ref.index, None] * part.sae.W_dec[node.ref.index]
        with torch.no_grad():
            changed = float(plain.run({node.ref.source: lambda *_, x=x: x}))
        assert verified(double, node.ref).measured == pytest.approx(plain.clean - changed, rel=1e-4, abs=1e-6)


def test_a_verified_edge_is_what_its_target_loses(double: Headless, folders: tuple[Path, ...]) -> None:
    """Source at its baseline, nothing else touched up to the target: its activation there, times its slope."""
    circuit = traced(double, **ONE, method="attrib", **EVERY)
    the, a = tokens_of(double, " the", " a")
    plain = plain_run(double, folders, lambda logits: logits[the] - logits[a])
    effects = plain.attrib()
    refs = [(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref, e.weight) for e in circuit.edges]
    features = [entry for entry in refs if not any(r.is_error or r.is_metric for r in entry[:2])]
    for source, target, weight in features[:8]:
        own, part = plain.states[source.source], plain.parts[source.source]
        assert source.position is not None
        assert target.position is not None
        x = own.x.clone()
        x[source.position] += own.delta[source.position, source.index] * part.sae.W_dec[source.index]
        arrived: list[Tensor] = []

        def look(read: Tensor, _: Tensor, target: NodeRef = target, arrived: list[Tensor] = arrived) -> None:
            arrived.append(plain.parts[target.source].sae.encode(read)[target.position, target.index])

        with torch.no_grad():
            plain.run({source.source: lambda *_, x=x: x, target.source: look})
        state = plain.states[target.source]
        place = (target.position, target.index)
        slope = effects[target.source][0][place] / -state.delta[place]
        lost = state.c[place] - arrived[0]
        check = verified(double, source, target)
        assert check.predicted == pytest.approx(weight)
        assert check.measured == pytest.approx(float(lost * slope), rel=1e-3, abs=1e-5)
        assert check.activation_change == pytest.approx((-weight / float(slope), -float(lost)), rel=1e-3, abs=1e-5)


def test_an_edge_into_the_metric_is_measured_directly(double: Headless) -> None:
    circuit = traced(double, **ONE, method="attrib", **EVERY)
    direct = [circuit.nodes[e.source].ref for e in circuit.edges if e.target == 0]
    assert {ref.source for ref in direct} == {"3-res-tiny"}
    for ref in direct[:4]:
        assert verified(double, ref, NodeRef("")).measured == pytest.approx(verified(double, ref).measured, rel=1e-6)


def test_every_edge_over_examples_of_different_lengths_can_be_verified(double: Headless) -> None:
    """A node may be there in some of the examples only."""
    circuit = traced(double, pairs=PAIRS, method="attrib", aggregate="sum", max_nodes=30)
    assert circuit.edges
    for edge in circuit.edges:
        source, target = circuit.nodes[edge.source].ref, circuit.nodes[edge.target].ref
        assert verified(double, source, target).predicted == edge.weight


def test_claims_that_cannot_be_checked_say_why(engine: Headless, opened: Callable[..., Headless]) -> None:
    with pytest.raises(BadRequest, match=r"No circuit has been traced yet\. Trace one first"):
        verified(opened(), NodeRef("1-res-tiny", 3, 1))
    circuit = traced(engine, **ONE, node_threshold=0.0)
    refs = {source: next(n.ref for n in circuit.nodes[1:] if n.ref.source == source) for source in SOURCES}
    first, second, third = refs.values()
    for missing in (NodeRef("9-res", 1, 1), NodeRef("1-res-tiny", 10**9, 1), NodeRef("1-res-tiny", 3), NodeRef("")):
        with pytest.raises(BadRequest, match="is not a node of the last circuit"):
            verified(engine, missing)
        with pytest.raises(BadRequest, match="is not a node of the last circuit"):
            verified(engine, missing, third)
    with pytest.raises(BadRequest, match="is not a node of the last circuit"):
        verified(engine, first, NodeRef("2-res-tiny", 10**9, 1))
    for source, target in ((first, third), (second, first), (second, second), (first, NodeRef(""))):
        with pytest.raises(BadRequest, match="is not directly upstream of"):
            verified(engine, source, target)
    loudest = traced(engine, **ONE, aggregate="max").nodes[1].ref
    with pytest.raises(BadRequest, match="A maximum over positions cannot be measured"):
        verified(engine, loudest)


def test_a_refused_trace_leaves_nothing_to_ask_about(opened: Callable[..., Headless]) -> None:
    """The circuit of before is gone: a claim about it would be measured on another prompt."""
    headless = opened()
    node = traced(headless, **ONE).nodes[1].ref
    with pytest.raises(BadRequest, match="not one"):
        traced(headless, prompt=PROMPT, target=("end",))
    with pytest.raises(BadRequest, match="No circuit has been traced yet"):
        verified(headless, node)


# --- faithfulness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["mean", "zero", "resample"])
@pytest.mark.parametrize("asked", [ONE, {"pairs": SHORT, "aggregate": "none"}, {"prompt": PROMPT, "target": (" a",)}])
def test_all_nodes_are_the_model_and_none_is_nothing(double: Headless, asked: dict[str, Any], ablation: Any) -> None:
    circuit = traced(double, **asked, method="attrib", node_threshold=0.0)
    found = measured(double, thresholds=(0.0, 1e9), ablation=ablation)
    every, none = found.points
    assert (every.nodes, none.nodes) == (len(circuit.nodes) - 1, 0)
    assert (every.faithfulness, none.faithfulness) == pytest.approx((1, 0), abs=1e-4)
    assert none.completeness == pytest.approx(1, abs=1e-4)
    assert found.model == pytest.approx(circuit.metric.clean)
    assert found.examples == circuit.examples
    against_itself = "patch" not in asked and "pairs" not in asked
    assert found.ablation == ("zero" if against_itself else ablation)


def test_errors_can_be_nodes_or_kept_or_removed(double: Headless, folders: tuple[Path, ...]) -> None:
    """Against the obvious runs: everything ablated, with the errors of the dictionaries kept or replaced."""
    traced(double, **ONE, method="attrib")
    the, a = tokens_of(double, " the", " a")
    plain = plain_run(double, folders, lambda logits: logits[the] - logits[a])

    def emptied(source: str, errors: str) -> Any:
        state, part = plain.states[source], plain.parts[source]
        base, base_rest = state.c + state.delta, state.rest + state.delta_rest

        def change(read: Tensor, x: Tensor) -> Tensor:
            c, _, _ = part.apart(read, x)
            rest = x - c @ part.sae.W_dec if errors == "keep" else base_rest
            return base @ part.sae.W_dec + rest

        return change

    for errors in ("nodes", "keep", "remove"):
        found = measured(double, thresholds=(1e9,), errors=errors)
        with torch.no_grad():
            expected = float(plain.run({s: emptied(s, errors) for s in plain.parts}))
            free = float(plain.run({"3-res-tiny": emptied("3-res-tiny", errors)}))
        assert found.empty == pytest.approx(expected, rel=1e-4)
        assert found.points[0].circuit == pytest.approx(expected, rel=1e-4)
        late = measured(double, thresholds=(1e9,), errors=errors, start_layer=3)
        assert late.empty == pytest.approx(free, rel=1e-4)


def test_the_curve_halves_the_nodes(engine: Headless) -> None:
    circuit = traced(engine, **ONE, max_nodes=40)
    points = measured(engine).points
    assert [point.nodes for point in points] == [40, 20, 10, 5, 2, 1]
    assert points[0].threshold == circuit.settings.node_threshold
    strongest = measured(engine, thresholds=(points[-1].threshold,)).points[0]
    assert strongest == points[-1]


def test_a_circuit_from_a_file_is_measured_like_the_last_trace(
    engine: Headless, opened: Callable[..., Headless]
) -> None:
    circuit = traced(engine, pairs=PAIRS, method="ig")
    here = measured(engine)
    on_the_same = measured(engine, held_out=PAIRS)
    brought = msgspec.json.decode(msgspec.json.encode(circuit), type=Circuit)
    elsewhere = measured(opened(), circuit=brought, held_out=PAIRS)
    assert here.points == on_the_same.points == elsewhere.points
    assert (here.model, here.empty) == (elsewhere.model, elsewhere.empty)
    other = measured(engine, held_out=SHORT)
    assert other.examples == 2
    assert other.points != here.points


def test_what_faithfulness_cannot_be_measured_on_is_refused(engine: Headless, opened: Callable[..., Headless]) -> None:
    with pytest.raises(BadRequest, match="No circuit has been traced yet"):
        measured(opened())
    circuit = traced(engine, pairs=SHORT, aggregate="none")
    with pytest.raises(BadRequest, match=r"nodes at 6 positions; some of these prompts have another"):
        measured(engine, held_out=PAIRS)
    with pytest.raises(BadRequest, match="A circuit from a file needs prompts"):
        measured(engine, circuit=circuit)
    with pytest.raises(BadRequest, match="have no second answer"):
        measured(engine, held_out=(Pair("in the end", " of", "of the bag"),))
    for threshold in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadRequest, match="is not a threshold"):
            measured(engine, thresholds=(threshold,))


def test_another_dictionary_under_the_same_name_is_refused(engine: Headless) -> None:
    circuit = traced(engine, pairs=SHORT)
    hashes = {**circuit.provenance.dictionaries, "2-res-tiny": "0" * 64}
    other = msgspec.structs.replace(
        circuit, provenance=msgspec.structs.replace(circuit.provenance, dictionaries=hashes)
    )
    with pytest.raises(BadRequest, match="2-res-tiny is not the dictionary this circuit was traced with"):
        measured(engine, circuit=other, held_out=SHORT)


@pytest.mark.parametrize(
    "ref",
    [NodeRef("1-res-tiny", 64, 1), NodeRef("1-res-tiny", 3, 99), NodeRef("1-res-tiny", -7, 1), NodeRef("8", 1, 1)],
)
def test_a_circuit_with_nodes_that_cannot_be_is_refused(engine: Headless, ref: NodeRef) -> None:
    circuit = traced(engine, pairs=SHORT, aggregate="none")
    stray = msgspec.structs.replace(circuit.nodes[1], ref=ref)
    edited = msgspec.structs.replace(circuit, nodes=(*circuit.nodes, stray))
    with pytest.raises(BadRequest, match="is not a node of"):
        measured(engine, circuit=edited, held_out=SHORT)


def test_each_answer_ends_with_done(engine: Headless) -> None:
    node = traced(engine, **ONE).nodes[1].ref
    for request in (Trace(id=2, **ONE), Verify(id=3, source=node), MeasureFaithfulness(id=4)):
        events = engine.ask(request)
        assert isinstance(events[-1], Done)
        assert {event.id for event in events} == {request.id}
