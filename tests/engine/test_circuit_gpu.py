"""A circuit on a GPU is the circuit on the CPU, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.headless import Headless
from engine.protocol import Circuit, FaithfulnessFound, MeasureFaithfulness, NodeRef, Open, Trace, TraceGrown, Verify

pytestmark = pytest.mark.gpu
ONE: dict[str, Any] = {
    "prompt": "in the end of the",
    "patch": "of the bag in a",
    "target": (" the",),
    "against": (" a",),
    "node_threshold": 0.0,
    "edge_threshold": 0.0,
}


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Callable[..., Headless]:
    def opening(device: str, dtype: str = "float32") -> Headless:
        headless = Headless(lambda *_: None)
        places = tuple(map(str, dictionary_folders))
        headless.ask(Open(id=1, model=str(llama_folder), dictionaries=places, device=device, dtype=dtype))
        return headless

    return opening


def _traced(headless: Headless, **asked: Any) -> Circuit:
    events = headless.ask(Trace(id=2, **{**ONE, **asked}))
    return [event.circuit for event in events if isinstance(event, TraceGrown)][-1]


def _nodes(circuit: Circuit) -> dict[Any, float]:
    return {node.ref: node.effect for node in circuit.nodes}


def _edges(circuit: Circuit) -> dict[Any, float]:
    return {(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref): e.weight for e in circuit.edges}


def _close(ours: dict[Any, float], theirs: dict[Any, float], share: float) -> None:
    largest = max(map(abs, theirs.values()))
    assert largest > 1e-4
    for key in ours.keys() | theirs.keys():
        assert abs(ours.get(key, 0.0) - theirs.get(key, 0.0)) < share * largest, key


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-2), ("float64", 1e-4)])
@pytest.mark.parametrize(
    "asked", [{"method": "ig"}, {"method": "exact"}, {"gradients": "dictionaries"}, {"patch": None}]
)
def test_numbers_agree(opened: Callable[..., Headless], dtype: Any, share: float, asked: dict[str, Any]) -> None:
    """TF32 would not: products are taken in the precision that was asked for."""
    cpu, gpu = (_traced(opened(device), dtype=dtype, **asked) for device in ("cpu", "cuda"))
    _close(_nodes(gpu), _nodes(cpu), share)
    _close(_edges(gpu), _edges(cpu), share)


def test_raw_neurons_agree(opened: Callable[..., Headless]) -> None:
    asked = {"neurons": ("resid_post", "attn_out"), "node_threshold": None, "dtype": "float64"}
    cpu, gpu = (_traced(opened(device), **asked) for device in ("cpu", "cuda"))
    _close(_nodes(gpu), _nodes(cpu), 1e-4)


def test_claims_and_faithfulness_agree(opened: Callable[..., Headless]) -> None:
    found = []
    for device in ("cpu", "cuda"):
        headless = opened(device)
        circuit = _traced(headless, dtype="float64")
        node, edge = circuit.nodes[1].ref, circuit.edges[0]
        source, target = circuit.nodes[edge.source].ref, circuit.nodes[edge.target].ref
        checks = [headless.ask(Verify(id=3, source=s, target=t))[0].check for s, t in ((node, None), (source, target))]  # type: ignore[attr-defined]
        curve = next(e.result for e in headless.ask(MeasureFaithfulness(id=4)) if isinstance(e, FaithfulnessFound))
        found.append(([c.measured for c in checks], [(p.nodes, p.faithfulness) for p in curve.points]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert [n for n, _ in found[1][1]] == [n for n, _ in found[0][1]]
    assert [f for _, f in found[1][1]] == pytest.approx([f for _, f in found[0][1]], rel=1e-2, abs=1e-3)


def test_a_model_in_bfloat16_is_left_as_it_was(opened: Callable[..., Headless]) -> None:
    headless = opened("cuda", "bfloat16")
    before = [p.clone() for p in headless.engine.opened.model.hf.parameters()]
    assert _traced(headless).settings.dtype == "float32"
    after = list(headless.engine.opened.model.hf.parameters())
    assert all(a.dtype == torch.bfloat16 and torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_two_traces_on_a_gpu_name_the_same_nodes(opened: Callable[..., Headless]) -> None:
    """Atomic additions may differ in the last bit, not in what is found."""
    headless = opened("cuda")
    first, second = (_traced(headless, node_threshold=None, max_nodes=20) for _ in range(2))
    assert {node.ref for node in first.nodes} == {node.ref for node in second.nodes} != {NodeRef("")}
    _close(_nodes(first), _nodes(second), 1e-4)
