"""Attribution-graph JSON: it fits the schema, its ids are unique, and the circuit can be read back out of it."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.circuit_results import Circuit, Metric, NodeRef
from engine.errors import BadRequest
from engine.results import Token
from sessions.circuit_graph import graph_json
from sessions.circuit_influence import influence
from tests.nasty import NASTY
from tests.sessions.test_circuit_quicklist import circuit_of

TEXT: dict[str, Any] = {"type": ["string"]}
NUMBER: dict[str, Any] = {"type": ["number"]}
NAME: dict[str, Any] = {"type": ["string"], "pattern": r"[A-Za-z0-9_.-]+"}
FEATURE_TYPES = (
    "cross layer transcoder", "lorsa", "mlp reconstruction error", "lorsa error", "embedding", "logit", "bias",
    "unknown", "unexplored node",
)  # fmt: skip


def obj(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": ["object"], "required": list(required), "properties": {**required, **optional}}


def array(items: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": ["array"], "items": items or {}}


SCHEMA = obj(
    {
        "metadata": obj(
            {"slug": NAME, "scan": NAME, "prompt_tokens": array(TEXT), "prompt": TEXT},
            node_threshold=NUMBER,
            schema_version={"enum": (1,)},
            transcoder_list=array(TEXT),
            feature_details=obj({}, feature_json_base_url=TEXT, neuronpedia_source_set=TEXT),
            info=obj(
                {},
                description=TEXT,
                creator_name=TEXT,
                creator_url=TEXT,
                source_urls=array(TEXT),
                generator=obj({}, name=TEXT, version=TEXT, url=TEXT, email=TEXT),
                create_time_ms=NUMBER,
                neuronpedia_source_set=TEXT,
            ),
            generation_settings=obj({}, max_n_logits={"type": ["integer"]}, max_feature_nodes={"type": ["integer"]}),
            pruning_settings=obj({}, node_threshold=NUMBER, edge_threshold=NUMBER),
        ),
        "qParams": obj(
            {}, pinnedIds=array(TEXT), supernodes=array(array(TEXT)), linkType={"enum": ("both",)}, clickedId=TEXT,
            sg_pos=TEXT,
        ),
        "nodes": array(
            obj(
                {
                    "node_id": {"type": ["string"], "pattern": r"(\d+|E)_\d+_\d+"},
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": ["integer"]},
                    "feature_type": {"enum": FEATURE_TYPES},
                    "jsNodeId": {"type": ["string"], "pattern": r"(L|E|\d+)_\d+-\d+"},
                    "clerp": TEXT,
                },
                token_prob=NUMBER,
                is_target_logit={"type": ["boolean"]},
                influence={"type": ["number", "null"]},
                activation={"type": ["number", "null"]},
            )
        ),
        "links": array(obj({"source": TEXT, "target": TEXT, "weight": NUMBER})),
    }
)  # fmt: skip
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None),
    "boolean": bool,
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What of a value does not fit a schema of the words used above."""
    kinds = tuple(TYPES[kind] for kind in schema.get("type", ()))
    flat = tuple(k for kind in kinds for k in (kind if isinstance(kind, tuple) else (kind,)))
    if flat and (not isinstance(value, flat) or (isinstance(value, bool) and bool not in flat)):
        return [f"{where}: {value!r} is not {schema['type']}"]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{where}: {value!r} is not JSON"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        found.append(f"{where}: {value!r} is not like {schema['pattern']}")
    if isinstance(value, dict):
        found += [f"{where}: no {key}" for key in schema.get("required", ()) if key not in value]
        for key, part in schema.get("properties", {}).items():
            found += faults(value[key], part, f"{where}.{key}") if key in value else []
    if isinstance(value, list):
        for n, item in enumerate(value):
            found += faults(item, schema.get("items", {}), f"{where}[{n}]")
    return found


def unpaired(number: int) -> tuple[int, int]:
    """Layer and index out of a Cantor pair."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def read_back(graph: dict[str, Any], circuit: Circuit) -> tuple[dict[NodeRef, float], dict[Any, float]]:
    """Effects by node and weights by edge, told by `feature_type` and the sources in the metadata."""
    rows = graph["metadata"]["saescope"]["sources"]
    stride = graph["metadata"]["saescope"]["stride"]
    by_row = {(row["layer"], row["offset"]): source for source, row in rows.items()}
    refs: dict[str, NodeRef] = {}
    for node in graph["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            layer, number = unpaired(node["feature"])
            assert node["layer"] == str(layer)
            source = by_row[layer, number // stride * stride]
            refs[node["node_id"]] = NodeRef(source, number % stride, node["ctx_idx"])
        elif node["feature_type"] == "mlp reconstruction error":
            refs[node["node_id"]] = NodeRef(node["clerp"].removeprefix("error of "), -1, node["ctx_idx"])
        elif node["feature_type"] == "logit":
            refs[node["node_id"]] = circuit.nodes[0].ref
    effects = {refs[n["node_id"]]: n["effect"] for n in graph["nodes"] if "effect" in n}
    return effects, {(refs[e["source"]], refs[e["target"]]): e["weight"] for e in graph["links"]}


def check(graph: dict[str, Any]) -> None:
    """What the schema does not say but readers need."""
    assert faults(graph, SCHEMA) == []
    assert msgspec.json.decode(msgspec.json.encode(graph)) == graph
    for key in ("node_id", "jsNodeId"):
        ids = [node[key] for node in graph["nodes"]]
        assert len(set(ids)) == len(ids)
    known = {node["node_id"] for node in graph["nodes"]}
    assert all({link["source"], link["target"]} <= known for link in graph["links"])
    assert set(graph["qParams"]["pinnedIds"]) <= known
    assert all(set(ids) <= known for _, *ids in graph["qParams"]["supernodes"])
    (logit,) = [node for node in graph["nodes"] if node["feature_type"] == "logit"]
    assert float(logit["clerp"].split("(p=")[1].split(")")[0]) == pytest.approx(logit["token_prob"], abs=1e-3)
    assert "token_prob" in logit
    others = [node for node in graph["nodes"] if node["feature_type"] != "logit"]
    assert any(node["layer"].isdigit() and int(node["layer"]) >= 1 for node in others)
    assert all(0 <= node["ctx_idx"] < len(graph["metadata"]["prompt_tokens"]) for node in graph["nodes"])
    metadata = graph["metadata"]
    sets = [metadata[part].get("neuronpedia_source_set") for part in ("feature_details", "info")]
    assert sets[0] == sets[1]


NODES: list[tuple[str, int, int | None, float]] = [
    ("embed", 3, 0, 0.5), ("attn_0", 3, 1, -0.25), ("resid_0", 3, 1, 1.0), ("resid_0", 1, 1, 0.125),
    ("resid_0", -1, 1, 0.75), ("attn_0", -1, 1, 0.5), ("attn_1", 3, 1, 2.0), ("attn_1", -1, 1, 0.5),
    ("resid_1", -1, 1, -3.0), ("resid_1", 9, 2, 4.0),
]  # fmt: skip
EDGES = [(1, 3, 0.25), (3, 7, 1.0), (7, 10, 1.0), (10, 0, 3.0), (9, 0, -1.0), (5, 10, 0.5)]
PAGES = {"resid_0": "tiny/0-res-sm", "resid_1": "tiny/1-res-sm", "attn_1": "tiny/1-att-sm"}


def example(**how: Any) -> Circuit:
    return circuit_of(NODES, EDGES, tokens=("<s>", "The", " tower"), **how)


def test_the_example() -> None:
    circuit = example()
    graph = graph_json(circuit, pages=PAGES)
    check(graph)
    assert read_back(graph, circuit) == (
        {node.ref: node.effect for node in circuit.nodes},
        {(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref): e.weight for e in circuit.edges},
    )
    metadata = graph["metadata"]
    assert (metadata["scan"], metadata["slug"]) == ("tiny", "tiny-s-The-tower")
    assert metadata["feature_details"]["neuronpedia_source_set"] == "res-sm"
    assert metadata["prompt_tokens"] == ["<s>", "The", " tower"]
    assert metadata["saescope"]["settings"]["method"] == "ig"


def test_ids_keep_the_grammar_and_pages() -> None:
    """Of a layer's dictionaries the one with pages keeps its indices; the error of layer 1 is like a feature of 0."""
    circuit = example()
    graph = graph_json(circuit, pages=PAGES)
    by_id = {node["node_id"]: node for node in graph["nodes"]}
    assert by_id["0_3_1"]["feature"] == 9
    assert by_id["0_1_1"]["feature_type"] == "cross layer transcoder"
    assert by_id["1_9_2"]["feature"] == 64
    errors = [node for node in graph["nodes"] if node["feature_type"] == "mlp reconstruction error"]
    assert [node["feature"] for node in errors] == [-1] * 4
    assert {node["layer"] for node in errors} == {"0", "1"}
    assert sum(node["node_id"] == "0_0_1" for node in errors) == 1
    assert by_id["3_7_2"]["feature_type"] == "logit"
    assert by_id["E_10_0"]["feature"] == 0
    assert all(int(n["node_id"].split("_")[1]) >= 4096 for n in graph["nodes"] if "attn" in n["clerp"])


def test_a_page_says_its_layer() -> None:
    """`12-res-jb` reads block 11, and its page is found at layer 12."""
    circuit = circuit_of([("resid_2", 5, 0, 1.0)])
    graph = graph_json(circuit, pages={"resid_2": "gpt2-small/3-res-jb"}, layers=3)
    assert [node["node_id"] for node in graph["nodes"]] == ["3_5_0", "5_7_0"]
    assert graph["metadata"]["scan"] == "gpt2-small"


def test_plain_indices_belong_to_the_source_set() -> None:
    """Without pages of its own a dictionary must not show those of another."""
    circuit = circuit_of([("attn_1", 5, 0, 1.0), ("resid_2", 5, 0, 1.0)])
    graph = graph_json(circuit, pages={"resid_2": "tiny/2-res-sm"})
    assert [node["node_id"] for node in graph["nodes"]][:2] == ["1_4101_0", "2_5_0"]
    assert [node["clerp"] for node in graph["nodes"]][:2] == ["attn_1:5", ""]
    plain = graph_json(circuit)
    assert [node["node_id"] for node in plain["nodes"]][:2] == ["1_5_0", "2_5_0"]
    assert plain["metadata"]["scan"] == "tiny-model"


def test_names() -> None:
    circuit = example()
    given_names = graph_json(circuit, scan="gemma-2-2b", slug="a.b_c-1", source_set="x", created_ms=5)
    check(given_names)
    assert given_names["metadata"]["scan"] == "gemma-2-2b"
    assert given_names["metadata"]["info"]["create_time_ms"] == 5
    for wrong in ("google/gemma-2-2b", "a b", "é", "\x1b", "x\n"):
        with pytest.raises(BadRequest, match="is no scan"):
            graph_json(circuit, scan=wrong)
        with pytest.raises(BadRequest, match="is no slug"):
            graph_json(circuit, slug=wrong)
    with pytest.raises(BadRequest, match="several models"):
        graph_json(circuit, pages={"resid_0": "a/0-x", "resid_1": "b/1-x"})


def test_pins_and_supernodes() -> None:
    circuit = example()
    a, b, metric = circuit.nodes[3].ref, circuit.nodes[9].ref, circuit.nodes[0].ref
    graph = graph_json(circuit, pages=PAGES, pinned=[a, b, metric], supernodes={"towers": [a, b]})
    check(graph)
    assert graph["qParams"]["pinnedIds"] == ["0_3_1", graph["qParams"]["supernodes"][0][2], "3_7_2"]
    assert graph["qParams"]["supernodes"][0][:2] == ["towers", "0_3_1"]
    with pytest.raises(BadRequest, match="resid_9:1@0 is no node"):
        graph_json(circuit, pinned=[NodeRef("resid_9", 1, 0)])


@pytest.mark.parametrize(
    ("metric", "probability", "expected"),
    [
        (Metric("logprob", (Token(7, " a"),), clean=math.log(0.25)), None, 0.25),
        (Metric("logit", (Token(7, " a"),), clean=9.0), None, 1.0),
        (Metric("logit", (Token(7, " a"),), clean=9.0), 0.5, 0.5),
        (Metric("difference", (Token(7, " (p=1)"),), (Token(8, "b"),)), None, 1.0),
        (Metric("kl"), None, 1.0),
    ],
)
def test_the_metric_is_a_logit(metric: Metric, probability: float | None, expected: float) -> None:
    graph = graph_json(example(metric=metric), probability=probability)
    check(graph)
    logit = graph["nodes"][-1]
    assert logit["token_prob"] == pytest.approx(expected)
    assert logit["feature"] == (7 if metric.targets else None)
    assert logit["clerp"].count("(p=") == 1


def test_influence_is_cumulative() -> None:
    """By hand: v is .75 of node 10, .5 of 7, 3 and 1, .25 of 9 and 5, and 0 of the others."""
    shares = influence(example())
    assert shares[10 - 1] == pytest.approx(0.75 / 2.75)
    assert sorted(shares[n - 1] for n in (7, 3, 1)) == pytest.approx([1.25 / 2.75, 1.75 / 2.75, 2.25 / 2.75])
    assert sorted(shares[n - 1] for n in (9, 5)) == pytest.approx([2.5 / 2.75, 1.0])
    assert {shares[n - 1] for n in (2, 4, 6, 8)} == {1.0}
    alone = circuit_of([("resid_0", 1, 0, 1.0), ("resid_1", 1, 0, -3.0)])
    assert influence(alone) == [1.0, 0.75]


def test_a_cycle_ends() -> None:
    circuit = circuit_of([("resid_0", 1, 0, 1.0), ("resid_1", 1, 0, 3.0)], [(1, 2, 1.0), (2, 1, 1.0), (2, 0, 1.0)])
    assert influence(circuit)[1] <= 1.0
    check(graph_json(circuit))


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text(text: str) -> None:
    circuit = example(metric=Metric("logit", (Token(7, text),)), prompt=text)
    circuit = msgspec.structs.replace(circuit, tokens=(Token(1, text), *circuit.tokens[1:]))
    ref = circuit.nodes[3].ref
    graph = graph_json(circuit, labels={ref: text}, supernodes={text: [ref]}, description=text)
    check(graph)
    assert graph["metadata"]["prompt_tokens"][0] == text
    shown = [node["clerp"] for node in graph["nodes"]] + graph["qParams"]["supernodes"][0][:1]
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for s in shown for c in s)


def test_prompts_that_differ_have_numbered_positions() -> None:
    circuit = msgspec.structs.replace(circuit_of(NODES, EDGES), length=5)
    graph = graph_json(circuit)
    check(graph)
    assert graph["metadata"]["prompt_tokens"] == ["[0]", "[1]", "[2]", "[3]", "[4]"]
    assert graph["nodes"][-1]["ctx_idx"] == 4


def test_half_surrogates_are_shown_as_glyphs() -> None:
    circuit = msgspec.structs.replace(example(), tokens=(Token(1, "a\ud800"),) * 3, prompt="\udfff")
    check(graph_json(circuit))


def test_what_is_refused() -> None:
    with pytest.raises(BadRequest, match="aggregated"):
        graph_json(circuit_of([("resid_1", 5, None, 1.0)]))
    for nodes in ([("resid_0", 5, 0, 1.0)], []):
        with pytest.raises(BadRequest, match="layer 1 or later"):
            graph_json(circuit_of(nodes))
    with pytest.raises(BadRequest, match="not finite"):
        graph_json(circuit_of([("resid_1", 5, 0, math.nan)]))
    with pytest.raises(BadRequest, match="not finite"):
        graph_json(circuit_of([("resid_1", 5, 0, 1.0)], [(1, 0, math.inf)]))


def test_the_schema_is_checked_at_all() -> None:
    graph = graph_json(example())
    graph["nodes"][0]["feature"] = "3"
    graph["nodes"][1].pop("clerp")
    graph["metadata"]["scan"] = "a/b"
    graph["links"][0]["weight"] = math.nan
    assert len(faults(graph, SCHEMA)) == 4


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    sources = st.sampled_from(["embed", "attn_0", "mlp_0", "resid_0", "attn_1", "resid_1", "mlp_2", "resid_2"])
    place = st.tuples(sources, st.integers(-1, 6), st.integers(0, 3))
    places = draw(st.lists(place, unique=True, min_size=1, max_size=25))
    effect = st.floats(-5, 5, allow_subnormal=False)
    nodes = [(*one, draw(effect)) for one in places] + [("resid_2", 99, 0, 1.0)]
    ends = st.integers(0, len(nodes))
    pairs = draw(st.lists(st.tuples(ends, ends), unique=True, max_size=30))
    edges = [(a, b, draw(effect)) for a, b in pairs if a and a != b]
    return circuit_of(nodes, edges, tokens=draw(st.sampled_from([(), ("a", "b", "c", "d")])))


@settings(max_examples=60, deadline=None)
@given(circuits(), st.sampled_from([{}, PAGES, {"attn_0": "m/1-x"}, {"embed": "m/e-res-sm"}]))
def test_any_circuit_is_read_back(circuit: Circuit, pages: dict[str, str]) -> None:
    graph = graph_json(circuit, pages=pages)
    check(graph)
    effects, weights = read_back(graph, circuit)
    assert effects == {node.ref: node.effect for node in circuit.nodes}
    assert weights == {(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref): e.weight for e in circuit.edges}
