"""Circuits of feature-circuits: the published one, ones of both layouts written here, and files that mean harm.

`SAESCOPE_SAMPLES` names a folder with the published circuit; without it its tests are skipped.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.circuit_results import METRIC, Circuit, NodeRef
from engine.circuits.feature_circuits import read_circuit, read_examples
from engine.errors import BadRequest
from engine.protocol import Pair
from tests.feature_circuits_files import WIDTHS, effects, example, node, nodes_of, saved
from tests.nasty import NASTY

SAMPLES = Path(os.environ.get("SAESCOPE_SAMPLES") or "missing")
PUBLISHED = SAMPLES / "circuits" / "gemma-2-2b_rc_train_n100_aggnone_neurons_nodeall.pt"
needs_samples = pytest.mark.skipif(not PUBLISHED.is_file(), reason="SAESCOPE_SAMPLES names no folder with the circuit")


@pytest.fixture
def theirs() -> Iterator[type]:
    """A class that pickles under the name of theirs; their module is gone again when the file is read."""
    module = types.ModuleType("activation_utils")
    act = type("SparseAct", (), {"__module__": "activation_utils"})
    module.SparseAct = act  # type: ignore[attr-defined]
    sys.modules["activation_utils"] = module
    yield act
    sys.modules.pop("activation_utils", None)


def place(name: str, index: tuple[int, ...]) -> NodeRef:
    feature = -1 if index[-1] == WIDTHS[name] else index[-1]
    return NodeRef(name, feature, index[0] if len(index) == 2 else None)


def expected_edges(dense: dict[tuple[str, str], Tensor], kept: set[NodeRef], threshold: float) -> dict[Any, float]:
    expected = {}
    for (up, down), block in dense.items():
        split = 0 if down == "y" else block.ndim // 2
        for at in (block.abs() > threshold).nonzero().tolist():
            target = NodeRef(METRIC) if down == "y" else place(down, tuple(at[:split]))
            source = place(up, tuple(at[split:]))
            if {source, target} <= kept:
                expected[source, target] = float(block[tuple(at)])
    return expected


def edges_of(circuit: Circuit) -> dict[Any, float]:
    return {(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref): e.weight for e in circuit.edges}


# --- the published circuit ----------------------------------------------------------------------------------------


@needs_samples
def test_published_effects() -> None:
    circuit = read_circuit(PUBLISHED, 0.00995)
    strongest = [(str(n.ref), round(n.effect, 4)) for n in circuit.nodes[1:9]]
    assert strongest == [
        ("resid_25:1142@6", 0.1162),
        ("attn_19:845@6", 0.1069),
        ("attn_16:959@6", 0.1021),
        ("attn_19:994@6", 0.0957),
        ("attn_19:935@6", 0.0649),
        ("resid_25:1082@6", 0.0640),
        ("resid_25:833@6", 0.0593),
        ("resid_19:291@6", 0.0571),
    ]
    exported = json.loads((SAMPLES / "circuits" / "gemma_circuit_nodes_gt0.01.json").read_text())
    listed = {NodeRef(name, i, p): e for name, one in exported.items() for p, i, e in one["nodes"]}
    assert {n.ref: round(n.effect, 6) for n in circuit.nodes[1:]} == pytest.approx(listed, abs=1e-6)
    assert [s.source for s in circuit.sites] == list(exported)
    for site in circuit.sites:
        assert site.features == pytest.approx(exported[site.source]["sum"], abs=1e-4)
        assert site.error == 0


@needs_samples
@pytest.mark.parametrize(
    ("threshold", "count"), [(0.00995, 2331), (0.01, 2300), (0.02, 469), (0.05, 15), (0.1, 3), (0.2, 0)]
)
def test_published_counts(threshold: float, count: int) -> None:
    """.01 is .01001 in bfloat16, and 31 effects were rounded to just that."""
    circuit = read_circuit(PUBLISHED, threshold)
    assert len(circuit.nodes) == count + 1
    assert sum(site.kept for site in circuit.sites) == count


@needs_samples
def test_published_facts() -> None:
    circuit = read_circuit(PUBLISHED)
    said = circuit.provenance.settings
    assert (circuit.model, circuit.examples, circuit.length, circuit.edges) == ("gemma-2-2b", 100, 7, ())
    assert (circuit.settings.aggregate, circuit.settings.basis) == ("none", "neurons")
    assert {s.source: round(s.features, 3) for s in circuit.sites}["resid_24"] == 7.937
    assert circuit.sites[0].hook == "blocks.0.attn.hook_z"
    assert circuit.sites[1].hook == "blocks.0.hook_mlp_out"
    assert {"method", "metric"} <= set(said["unknown"])
    assert said["file"] == PUBLISHED.name
    assert len(said["sha256"]) == 64
    examples = read_examples(PUBLISHED)
    assert len(examples) == 100
    assert examples[0] == Pair("The girls that the assistants hate", " have", "The girl that the assistants hate",
                               " has", "plural_plural")  # fmt: skip


# --- both layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hybrid", "sparse", "dense"])
@pytest.mark.parametrize("aggregate", ["none", "sum"])
@pytest.mark.parametrize("zip_file", [True, False])
def test_nodes_and_edges(tmp_path: Path, theirs: type, aggregate: str, layout: str, zip_file: bool) -> None:
    value, dense = example(theirs, aggregate, layout)
    file = saved(tmp_path / "c.pt", value, _use_new_zipfile_serialization=zip_file)
    circuit = read_circuit(file, node_threshold=0.5, edge_threshold=0.3)
    expected = {
        place(name, tuple(at)): float(block[tuple(at)])
        for name, block in effects(aggregate).items()
        for at in (block.abs() > 0.5).nonzero().tolist()
    }
    assert {n.ref: n.effect for n in circuit.nodes[1:]} == expected
    assert circuit.nodes[0].ref == NodeRef(METRIC)
    assert [abs(n.effect) for n in circuit.nodes[1:]] == sorted((abs(e) for e in expected.values()), reverse=True)
    assert edges_of(circuit) == expected_edges(dense, {n.ref for n in circuit.nodes}, 0.3)
    assert circuit.edges
    assert [s.source for s in circuit.sites] == list(WIDTHS)
    assert [s.d_sae for s in circuit.sites] == list(WIDTHS.values())
    assert circuit.settings.aggregate == aggregate
    assert circuit.model == "unknown"
    assert read_examples(file)[1].patch_answer == " is"


@pytest.mark.parametrize("layout", ["hybrid", "sparse", "dense"])
def test_inflow_is_known_where_every_upstream_entry_is_there(tmp_path: Path, theirs: type, layout: str) -> None:
    value, dense = example(theirs, "none", layout)
    circuit = read_circuit(saved(tmp_path / "c.pt", value), node_threshold=0.5)
    total = dense["attn_0", "resid_0"].sum((2, 3)) + dense["mlp_0", "resid_0"].sum((2, 3))
    for one in circuit.nodes:
        if one.ref.source == "resid_0":
            at = one.ref.position, 4 if one.ref.is_error else one.ref.index
            assert one.inflow == (None if layout == "sparse" else pytest.approx(float(total[at])))
    assert circuit.nodes[0].inflow == pytest.approx(float(effects("none")["resid_0"].sum()))


def test_embeddings_come_first_and_hooks_are_named(tmp_path: Path, theirs: type) -> None:
    value, _ = example(theirs, "sum", "hybrid")
    circuit = read_circuit(saved(tmp_path / "c.pt", value), model="pythia-70m")
    assert [s.hook for s in circuit.sites] == [
        "hook_embed",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
    ]
    assert circuit.model == "pythia-70m"
    assert circuit.provenance.settings["model_from"] == "argument"


def test_nodes_alone_the_metric_and_single_contexts(tmp_path: Path, theirs: type) -> None:
    rows = [{"clean_prefix": "The girls", "clean_answer": " have"}]
    nodes = nodes_of(theirs, effects("sum")) | {"y": torch.tensor([1.0, 3.0])}
    circuit = read_circuit(saved(tmp_path / "c.pt", {"examples": rows, "nodes": nodes, "edges": None}))
    assert circuit.nodes[0].effect == 2.0
    assert circuit.edges == ()
    assert (circuit.prompt, circuit.patch, circuit.metric.kind) == ("The girls", None, "logit")
    assert circuit.settings.baseline == "zero"


def test_examples_of_2024_are_counted(tmp_path: Path, theirs: type) -> None:
    rows = [{"clean_prefix": torch.tensor([1, 2]), "clean_answer": 5}] * 3
    file = saved(tmp_path / "c.pt", {"examples": rows, "nodes": nodes_of(theirs, effects("sum")), "edges": None})
    assert read_circuit(file).examples == 3
    assert read_examples(file) == ()


def test_errors_may_be_missing_or_flat(tmp_path: Path, theirs: type) -> None:
    nodes = {
        "attn_0": node(theirs, torch.ones(3, 2), torch.ones(3)),
        "mlp_0": node(theirs, torch.ones(3, 2), None),
        "resid_0": node(theirs, torch.ones(3, 2), None, torch.full((3, 1), 2.0)),
    }
    circuit = read_circuit(saved(tmp_path / "c.pt", {"nodes": nodes}))
    assert [s.error for s in circuit.sites] == [3.0, 0.0, 6.0]


# --- harm ---------------------------------------------------------------------------------------------------------


class Harm:
    """Runs a command when a pickle of it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


class Evaluated(Harm):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.mark)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Harm, Evaluated])
@pytest.mark.parametrize("zip_file", [True, False])
@pytest.mark.parametrize("where", ["examples", "nodes", "edges", "all"])
def test_nothing_of_the_pickle_runs(tmp_path: Path, theirs: type, kind: type[Harm], zip_file: bool, where: str) -> None:
    mark = tmp_path / "was-run"
    value, _ = example(theirs, "sum", "hybrid")
    harm = kind(mark)
    file = saved(
        tmp_path / "c.pt", harm if where == "all" else value | {where: harm}, _use_new_zipfile_serialization=zip_file
    )
    with pytest.raises(BadRequest, match="nothing was run") as caught:
        read_circuit(file)
    assert any(name in str(caught.value) for name in ("posix.system", "nt.system", "eval"))
    assert caught.value.remedy
    assert not mark.exists()
    pickle.loads(pickle.dumps(harm))  # it would have been
    assert mark.exists()


def test_a_bare_malicious_pickle(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    file = tmp_path / "c.pt"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(Harm(mark), protocol))
        with pytest.raises(BadRequest):
            read_circuit(file)
    assert not mark.exists()


def test_the_stand_in_has_no_behaviour(tmp_path: Path, theirs: type) -> None:
    """A state that would overwrite methods is data, and the class is not known to torch afterwards."""
    bad = node(theirs, torch.ones(3), torch.ones(1))
    bad.__dict__.update({"__class__": "x", "__reduce__": "y", "extra": 1})
    file = saved(tmp_path / "c.pt", {"nodes": {"attn_0": bad}})
    assert len(read_circuit(file).nodes) == 5
    assert not any("SparseAct" in str(known) for known in torch.serialization.get_safe_globals())


def test_a_tensor_cannot_claim_more_than_the_file_holds(tmp_path: Path, theirs: type) -> None:
    huge = torch.ones(1).expand(10**6, 10**6)
    file = saved(tmp_path / "c.pt", {"nodes": {"attn_0": node(theirs, huge, torch.ones(1))}})
    with pytest.raises(BadRequest, match="claims more numbers"):
        read_circuit(file)


def test_edges_cannot_point_outside(tmp_path: Path, theirs: type) -> None:
    value, _ = example(theirs, "sum", "hybrid")
    block = torch.sparse_coo_tensor(torch.tensor([[7]]), torch.ones(1, 6), (5, 6), check_invariants=False)
    value["edges"] = {"attn_0": {"resid_0": block}}
    with pytest.raises(BadRequest):
        read_circuit(saved(tmp_path / "c.pt", value))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_edges_in_a_layout_of_others(tmp_path: Path, theirs: type) -> None:
    value, _ = example(theirs, "sum", "hybrid")
    value["edges"] = {"attn_0": {"mlp_0": torch.ones(7, 6).to_sparse_csr()}}
    with pytest.raises(BadRequest, match="layout"):
        read_circuit(saved(tmp_path / "c.pt", value))


def test_a_compressed_archive_is_refused(tmp_path: Path, theirs: type) -> None:
    file = saved(tmp_path / "c.pt", example(theirs, "sum", "hybrid")[0])
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(BadRequest, match="compressed"):
        read_circuit(packed)


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, theirs: type, share: float) -> None:
    file = saved(tmp_path / "c.pt", example(theirs, "none", "hybrid")[0])
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadRequest, match="damaged") as caught:
        read_circuit(file)
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    "data", [b"hello", b"PK\x03\x04", b"\x80\x02.", b"{}", b"\x00" * 1000, *(n.encode() for n in NASTY)]
)
def test_files_that_are_no_pickle(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "c.pt"
    file.write_bytes(data)
    for read in (read_circuit, read_examples):
        with pytest.raises(BadRequest):
            read(file)


def test_a_file_that_does_not_fit_in_memory_is_not_called_damaged(
    tmp_path: Path, theirs: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "c.pt", {"nodes": None})

    def too_full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", too_full)
    with pytest.raises(MemoryError):
        read_circuit(file)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(BadRequest, match="cannot be read"):
            read_circuit(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 5}, "no 'nodes'"),
        ({"nodes": {}}, "no nodes"),
        ({"nodes": {"\x1b[31m": 1}}, "␛"),
        ({"nodes": {"attn_x": 1}}, "that no circuit has"),
        ({"nodes": {"attn_0": torch.ones(2)}}, "that no circuit has"),
        ({"edges": 5}, "no tables of blocks"),
        ({"edges": {"attn_0": 5}}, "no tables of blocks"),
        ({"edges": {"attn_0": {"mlp_7": torch.ones(2)}}}, "join no two nodes"),
        ({"edges": {"attn_7": {"mlp_0": torch.ones(2)}}}, "join no two nodes"),
        ({"edges": {"attn_0": {"mlp_0": 5}}}, "in place of"),
        ({"edges": {"attn_0": {"mlp_0": torch.ones(6, 7)}}}, "in place of"),
        ({"edges": {"attn_0": {"mlp_0": torch.full((7, 6), float("nan"))}}}, "not finite"),
        ({"examples": [{"clean_prefix": "a"}]}, "example 1 has no 'answer'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, theirs: type, change: dict[str, Any], message: str) -> None:
    value, _ = example(theirs, "sum", "hybrid")
    with pytest.raises(BadRequest, match=message) as caught:
        read_circuit(saved(tmp_path / "c.pt", value | change))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("act", "resc", "message"),
    [
        (None, torch.ones(1), "no tensor"),
        (torch.ones(2, dtype=torch.long), torch.ones(1), "no tensor"),
        (torch.full((2,), float("inf")), torch.ones(1), "not finite"),
        (torch.ones(2), torch.ones(2), "shapes"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, 1), "shapes"),
        (torch.tensor(1.0), torch.ones(1), "shapes"),
        (torch.ones(3, 2), torch.ones(3, 1), "different numbers"),
    ],
)
def test_nodes_of_another_shape(tmp_path: Path, theirs: type, act: object, resc: object, message: str) -> None:
    nodes = {"attn_0": node(theirs, act, resc), "mlp_0": node(theirs, torch.ones(2), torch.ones(1))}
    with pytest.raises(BadRequest, match=message):
        read_circuit(saved(tmp_path / "c.pt", {"nodes": nodes}))
