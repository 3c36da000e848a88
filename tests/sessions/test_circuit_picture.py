"""Pictures of a circuit: well-formed whatever the names, nothing overlaps, and signs are seen without colour."""

from __future__ import annotations

import itertools
import re
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.circuit_results import Circuit, CircuitNode, Metric, NodeRef
from engine.results import Token
from sessions.circuit_layout import HEIGHT, WIDTH, lay_out, shown_of
from sessions.circuit_picture import to_dot, to_svg
from tests.nasty import NASTY
from tests.sessions.test_circuit_quicklist import circuit_of

SVG = "{http://www.w3.org/2000/svg}"
NODES: list[tuple[str, int, int | None, float]] = [
    ("embed", 3, 0, 0.5), ("resid_0", 3, 1, 1.0), ("resid_0", -1, 1, -0.75), ("resid_1", 9, 2, 4.0),
    ("resid_1", 10, 2, -2.0),
]  # fmt: skip
EDGES = [(1, 2, 0.25), (2, 4, 1.0), (3, 4, -0.5), (4, 0, 4.0), (5, 0, -2.0)]
DOT_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\n])*"'
DOT_LINE = re.compile(
    rf"""digraph\ circuit\ \{{ | \}} | \s+rankdir={DOT_STRING}; .* | \s+\{{\ rank=same;(\ n\d+;)+\ \}}
    | \s+n\d+(\ ->\ n\d+)?\ \[[a-z]+={DOT_STRING}(,\ [a-z]+={DOT_STRING})*\];""",
    re.VERBOSE,
)


def example(**how: Any) -> Circuit:
    return circuit_of(NODES, EDGES, tokens=("<s>", "The", " tower"), **how)


def drawn(svg: str) -> ElementTree.Element:
    """The picture, parsed; it holds nothing that loads or runs anything."""
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "rect", "g", "path", "polygon", "text", "line",
    }  # fmt: skip
    assert not any("href" in key or key.startswith("on") for element in root.iter() for key in element.attrib)
    return root


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in drawn(svg).iter(f"{SVG}text")]


def edges(svg: str) -> dict[str, ElementTree.Element]:
    """Curves by what their tooltip says."""
    return {path[0].text or "": path for path in drawn(svg).iter(f"{SVG}path")}


def test_what_is_drawn() -> None:
    svg = to_svg(example())
    assert len(edges(svg)) == len(EDGES)
    shown = texts(svg)
    for text in ("embed:3", "@ <s>", "+0.5", "resid_0:3", "@ The", "resid_0:ε", "-0.75", "resid_1:9", "@ ·tower", "+4"):
        assert text in shown
    for text in ("0 <s>", "1 The", "2 ·tower", "embed", "resid_0", "resid_1", "logit ·Paris", "5 nodes, 5 edges"):
        assert text in shown
    shapes = [element.tag.removeprefix(SVG) for group in drawn(svg).iter(f"{SVG}g") for element in group]
    assert shapes.count("polygon") == 2
    assert shapes.count("rect") == 4


def test_signs_are_seen_without_colour() -> None:
    svg = to_svg(example())
    for name, path in edges(svg).items():
        assert ("stroke-dasharray" in path.attrib) == (" -" in name)
    widths = {name: float(path.attrib["stroke-width"]) for name, path in edges(svg).items()}
    assert widths["resid_1:9@2 → metric +4"] == 5.0
    assert widths["resid_1:10@2 → metric -2"] == 2.75
    dot = to_dot(example())
    assert dot.count('style="dashed"') == 2
    assert 'tooltip="-0.5"' in dot


def test_colours() -> None:
    """White at nothing, blue or red at the strongest; text that is read on it."""
    circuit = circuit_of([("mlp_1", 1, 0, 2.0), ("mlp_1", 2, 0, -2.0), ("mlp_1", 3, 0, 0.0), ("mlp_1", 4, 0, 1.0)])
    dot = to_dot(circuit)
    found = {
        m[1]: (m[2], m[3]) for m in re.finditer(r'label="mlp_1:(\d)[^"]*".*fillcolor="(#\w+)", fontcolor="(#\w+)"', dot)
    }
    assert found == {
        "1": ("#0000ff", "#ffffff"),
        "2": ("#ff0000", "#ffffff"),
        "3": ("#ffffff", "#000000"),
        "4": ("#8080ff", "#000000"),
    }
    fills = [element.attrib["fill"] for group in drawn(to_svg(circuit)).iter(f"{SVG}g") for element in group[1:2]]
    assert sorted(fills) == sorted(["#ffffff", *(fill for fill, _ in found.values())])


def test_thresholds() -> None:
    svg = to_svg(example(), node_threshold=0.75, edge_threshold=1.0)
    assert set(edges(svg)) == {
        "resid_0:3@1 → resid_1:9@2 +1",
        "resid_1:9@2 → metric +4",
        "resid_1:10@2 → metric -2",
    }
    assert "4 nodes, 3 edges; below the thresholds 1 and 2" in texts(svg)
    assert "embed:3" not in to_dot(example(), node_threshold=0.75)
    assert to_dot(example(), node_threshold=0.75, edge_threshold=1.0).count("->") == 3
    nothing = to_svg(example(), node_threshold=99)
    assert "0 nodes, 0 edges; below the thresholds 5 and 5" in texts(nothing)


def test_labels_are_split_and_cut() -> None:
    ref, other = example().nodes[4].ref, example().nodes[5].ref
    labels = {ref: "promotes plural verb forms", other: "x" * 60}
    shown = texts(to_svg(example(), labels=labels))
    assert shown[shown.index("promotes plural") :][:3] == ["promotes plural", "verb forms", "@ ·tower +4"]
    assert any(re.fullmatch("x{17}…", text) for text in shown)
    assert r'label="promotes plural\nverb forms\n@ ·tower +4"' in to_dot(example(), labels=labels)


def test_aggregated_nodes_stand_by_their_effect() -> None:
    circuit = circuit_of([("mlp_1", n, None, (-1) ** n * (n + 1)) for n in range(10)])
    layout = lay_out(shown_of(circuit, None, 0.0, 0.0))
    first = sorted(range(1, 11), key=lambda place: (layout.centres[place][1], layout.centres[place][0]))
    assert first == list(range(10, 0, -1))
    assert layout.columns == {}
    assert not any("@" in text for text in texts(to_svg(circuit)))


def test_sites_rise_from_the_embedding_to_the_metric() -> None:
    circuit = example()
    layout = lay_out(shown_of(circuit, None, 0.0, 0.0))
    heights = [layout.rows[site.source] for site in circuit.sites]
    assert heights == sorted(heights, reverse=True)
    assert layout.centres[0][1] < min(heights)
    middles = [middle for middle, _ in layout.columns.values()]
    assert middles == sorted(middles)
    dot = to_dot(circuit)
    assert 'rankdir="BT"' in dot
    assert dot.index("{ rank=same; n1; }") < dot.index("{ rank=same; n2; n3; }") < dot.index("{ rank=same; n4; n5; }")


def test_positions_without_tokens_are_numbered() -> None:
    shown = texts(to_svg(circuit_of(NODES, EDGES)))
    assert "position 2" in shown
    assert "@ 2" in shown


def test_an_empty_and_an_unfinished_circuit() -> None:
    assert "0 nodes, 0 edges" in texts(to_svg(circuit_of([])))
    bare = msgspec.structs.replace(example(), nodes=(), edges=())
    assert "0 nodes, 0 edges" in texts(to_svg(bare))
    assert to_dot(bare).startswith("digraph circuit {")
    assert any("not finished" in text for text in texts(to_svg(msgspec.structs.replace(example(), finished=False))))


@pytest.mark.parametrize("text", [*NASTY, '<&>"\\', "</text><script>alert(1)</script>", '"];}', "&lt;", "a\\"])
def test_nasty_text(text: str) -> None:
    circuit = example(metric=Metric("logit", (Token(7, text),)), prompt=text)
    circuit = msgspec.structs.replace(circuit, model=text, tokens=(Token(1, text),) * 3)
    bad = NodeRef(text + ":x", 5, 1)
    circuit = msgspec.structs.replace(circuit, nodes=(*circuit.nodes, CircuitNode(bad, 1.0)))
    labels = {circuit.nodes[1].ref: text, circuit.nodes[3].ref: text}
    for written in (to_svg(circuit, labels=labels), to_dot(circuit, labels=labels)):
        written.encode()
        assert not any((ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in written)
    drawn(to_svg(circuit, labels=labels))
    for line in to_dot(circuit, labels=labels).splitlines():
        assert DOT_LINE.fullmatch(line), line
        assert not re.search(r"&(?!amp;)", line)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["embed", "attn_0", "resid_0", "mlp_1", "resid_1"]),
            st.integers(-1, 40),
            st.integers(0, 4),
            st.floats(-3, 3),
        ),
        unique_by=lambda node: node[:3],
        max_size=60,
    ),
    st.booleans(),
)
def test_no_two_nodes_overlap(nodes: list[tuple[str, int, int | None, float]], aggregated: bool) -> None:
    if aggregated:
        nodes = [(source, n, None, effect) for n, (source, _, _, effect) in enumerate(nodes)]
    circuit = circuit_of(nodes)
    layout = lay_out(shown_of(circuit, None, 0.0, 0.0))
    assert set(layout.centres) == set(range(len(circuit.nodes)))
    for (x1, y1), (x2, y2) in itertools.combinations(layout.centres.values(), 2):
        assert abs(x1 - x2) >= WIDTH or abs(y1 - y2) >= HEIGHT + 14
    root = drawn(to_svg(circuit))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for x, y in layout.centres.values():
        assert WIDTH / 2 <= x <= width - WIDTH / 2
        assert HEIGHT / 2 <= y <= height - HEIGHT / 2
