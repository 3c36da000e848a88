"""`circuit` and `faithfulness` as a user runs them: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import main
from tests.e2e.command import COMMAND, Home, document, here, hidden_characters
from tests.e2e.conftest import ROWS
from tests.e2e.terminal import Terminal

ONE = ("in the end of the", "--patch", "of the bag in a", "--target", " the", "--against", " a")
NASTY = "the \x1b[31mend\x1b]0;t\x07 of \u202eabc\u2066 in the"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home that must stay tidy."""
    made = Home(tmp_path_factory.mktemp("command"))
    yield made
    assert made.strays() == []


@pytest.fixture(scope="module")
def one(home: Home, opened: list[str]) -> Any:
    """One prompt against another, with its strongest edges verified, in a process of its own."""
    return document(home.answer("circuit", *ONE, *opened, "--verify", "5", "--json"))


# --- circuit ------------------------------------------------------------------------------------------------------


def test_a_circuit_as_json(one: dict[str, Any], dictionary_folders: tuple[Path, ...]) -> None:
    assert set(one) == {"circuit", "checks"}
    circuit = one["circuit"]
    assert (circuit["model"], circuit["prompt"], circuit["patch"]) == ("llama", ONE[0], ONE[2])
    assert circuit["finished"] is True
    assert len(circuit["tokens"]) == circuit["length"] == 8
    metric = circuit["metric"]
    assert [metric["kind"], metric["targets"][0]["text"], metric["against"][0]["text"]] == ["difference", " the", " a"]
    root, *nodes = circuit["nodes"]
    assert root["ref"] == {"source": ""}
    assert root["effect"] == pytest.approx(metric["clean"] - metric["baseline"], rel=1e-4)
    assert len(nodes) == circuit["settings"]["max_nodes"] == 100
    sizes = [abs(node["effect"]) for node in nodes]
    assert sizes == sorted(sizes, reverse=True)
    for node in nodes:
        assert {"source", "position"} <= node["ref"].keys() <= {"source", "index", "position"}
        assert node["ref"]["source"] in {"1-res-tiny", "2-res-tiny"}
        assert 0 <= node["ref"]["position"] < 8
        assert "estimated" not in node
    for source, target, weight in circuit["edges"]:
        assert 0 <= target < source or circuit["nodes"][source]["ref"]["source"] == "1-res-tiny"
        assert abs(weight) > circuit["settings"]["edge_threshold"]
    assert [site["source"] for site in circuit["sites"]] == [folder.name for folder in dictionary_folders]
    assert circuit["settings"] | {"method": "ig", "steps": 10, "baseline": "patch"} == circuit["settings"]
    assert circuit["provenance"]["dictionaries"].keys() == {"1-res-tiny", "2-res-tiny"}


def test_the_strongest_edges_are_verified(one: dict[str, Any]) -> None:
    nodes, edges = one["circuit"]["nodes"], one["circuit"]["edges"]
    assert len(one["checks"]) == 5
    for check, (source, target, weight) in zip(one["checks"], edges, strict=False):
        assert check["source"] == nodes[source]["ref"]
        assert check["target"] == nodes[target]["ref"]
        assert check["predicted"] == weight
        assert check["measured"] != 0
        assert "patch value" in check["how"]


def test_a_circuit_as_text(home: Home, opened: list[str], one: dict[str, Any]) -> None:
    """A heading, the sites' totals, the tree from the metric upstream, and the checks."""
    printed = home.answer("circuit", *ONE, *opened, "--verify", "5")
    circuit = one["circuit"]
    heading, how, _, columns, *rest = printed.splitlines()
    assert heading.startswith(f"logit ·the − ·a = {circuit['metric']['clean']:+.4g}, baseline ")
    assert how.startswith("ig 10, pass-through gradients, against patch, float32; 100 nodes over ")
    assert columns.split() == ["site", "features", "error", "nodes"]
    assert [line.split()[0] for line in rest[:2]] == ["1-res-tiny", "2-res-tiny"]
    assert rest[3] == f"logit ·the − ·a  {circuit['nodes'][0]['effect']:+.3f}"
    direct = max((edge for edge in circuit["edges"] if edge[1] == 0), key=lambda edge: abs(edge[2]))
    ref = circuit["nodes"][direct[0]]["ref"]
    first = rest[4]
    assert first.startswith(f"  {ref['source']}:{ref.get('index', 'unexplained')} @ ")
    assert f"({ref['position']})" in first
    assert f"{direct[2]:+.3f}" in first
    assert re.search(r"-?\d+ %$", first)
    assert rest[5].startswith("    1-res-tiny:"), "its own causes stand under it"
    table = rest[rest.index("") + 1 :]
    checks = table[table.index("") + 1 :]
    assert checks[0].split() == ["predicted", "measured", "edge"]
    assert len(checks) == 1 + 5 + 1
    assert all(" → " in line for line in checks[1:6])
    assert re.fullmatch(r"correlation -?\d\.\d\d", checks[6])


def test_a_circuit_is_written_and_measured_again(home: Home, opened: list[str], pairs: Path, tmp_path: Path) -> None:
    file = tmp_path / "circuit.json"
    asked = ("--pairs", str(pairs))
    printed = document(home.answer("circuit", *asked, *opened, "--verify", "1", "--json", "--out", str(file)))
    assert json.loads(file.read_text()) == printed["circuit"]
    assert printed["circuit"]["examples"] == 3
    assert printed["circuit"]["settings"]["aggregate"] == "sum"
    assert printed["circuit"]["tokens"] == []
    assert all("position" not in node["ref"] for node in printed["circuit"]["nodes"])
    measured = document(home.answer("faithfulness", "--circuit", str(file), *asked, *opened, "--json"))
    both = tmp_path / "with-checks.json"
    both.write_text(json.dumps(printed))
    again = json.loads(here("faithfulness", "--circuit", str(both), *asked, *opened, "--json"))
    traced = json.loads(here("faithfulness", *asked, "--max-nodes", "100", *opened, "--json"))
    assert measured["points"][0]["nodes"] == len(printed["circuit"]["nodes"]) - 1 > 50
    for other in (again, traced):
        for point, theirs in zip(measured["points"], other["points"], strict=True):
            assert point == pytest.approx(theirs, rel=1e-3)


def test_examples_are_drawn_by_seed(opened: list[str], pairs: Path) -> None:
    found = [
        json.loads(here("circuit", "--pairs", str(pairs), "--examples", "1", *more, *opened, "--json"))
        for more in ([], ["--seed", "1"], ["--seed", "1"])
    ]
    assert [circuit["examples"] for circuit in found] == [1, 1, 1]
    assert found[1]["nodes"] == found[2]["nodes"]


def test_pairs_that_are_left_out_are_named(opened: list[str], tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    broken = {**ROWS[0], "answer": "two\x1b[31m"}
    file.write_text("\n".join(map(json.dumps, (broken, ROWS[0]))))
    done = CliRunner().invoke(main.app, ["circuit", "--pairs", str(file), *opened, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["examples"] == 1
    first, second = done.stderr.splitlines()
    assert first == "saescope: 1 of 2 pairs left out"
    assert second.startswith("saescope: 'in the end': 'two")
    assert hidden_characters(done.stderr) == set()


def test_raw_neurons_and_single_sites(opened: list[str]) -> None:
    neurons = json.loads(here("circuit", *ONE, *opened, "--neurons", "resid_post", "--method", "attrib", "--json"))
    assert [site["source"] for site in neurons["sites"]] == [f"{layer}-resid_post" for layer in range(4)]
    assert neurons["settings"]["basis"] == "neurons"
    for named in ("2-res-tiny", "blocks.2.hook_resid_post"):
        found = json.loads(here("circuit", *ONE, *opened, "--site", named, "--json"))
        assert {node["ref"]["source"] for node in found["nodes"]} == {"", "2-res-tiny"}


@pytest.mark.parametrize("rest", [(), ("--json",)])
def test_on_a_terminal_nothing_in_a_prompt_acts(home: Home, opened: list[str], rest: tuple[str, ...]) -> None:
    asked = ("circuit", NASTY, "--target", "\x1b", "--against", "\x07", "--method", "attrib", "--max-nodes", "400")
    terminal = Terminal([*COMMAND, *asked, "--verify", "2", *opened, *rest], (120, 80), home.environment)
    try:
        assert terminal.wait(60) == 0
        terminal.settle(0.1)
    finally:
        terminal.close()
    printed = re.sub(rb"\r\x1b\[2K[^\r]*(?=\r\x1b\[2K)|\r\x1b\[2K", b"", bytes(terminal.received)).decode()
    assert hidden_characters(printed.replace("\r\n", "\n")) == set()
    if not rest:
        assert printed.startswith("logit ␛ − ␇ = ")
        assert b"\x1b[2Kedges into" in terminal.received


# --- faithfulness -------------------------------------------------------------------------------------------------


def test_faithfulness_as_text_and_json(home: Home, opened: list[str], pairs: Path) -> None:
    asked = ("faithfulness", "--pairs", str(pairs), "--threshold", "0", "--threshold", "1000", "--node-threshold", "0")
    found = document(home.answer(*asked, *opened, "--json"))
    assert (found["examples"], found["ablation"], found["errors"], found["start_layer"]) == (3, "mean", "nodes", 0)
    every, none = found["points"]
    assert (none["nodes"], none["faithfulness"], none["completeness"]) == (0, 0.0, pytest.approx(1, abs=1e-3))
    assert every["nodes"] > 50
    assert every["faithfulness"] == pytest.approx(1, abs=1e-3)
    printed = home.answer(*asked, *opened)
    heading, _, columns, *rows = printed.splitlines()
    assert heading.startswith(
        f"logit answer − other answer = {found['model']:+.4g}, everything ablated {found['empty']:+.4g} (mean; errors: "
    )
    assert heading.endswith("3 examples")
    assert columns.split() == ["threshold", "nodes", "faithfulness", "completeness"]
    assert [row.split()[1] for row in rows] == [str(every["nodes"]), "0"]
    assert rows[1].split()[2] == "0.000"


def test_faithfulness_on_held_out_pairs(opened: list[str], pairs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[1]))
    asked = ("--held-out", str(other), "--errors", "keep", "--ablation", "zero", "--start-layer", "2")
    found = json.loads(here("faithfulness", "--pairs", str(pairs), *asked, *opened, "--json"))
    assert (found["examples"], found["settings"]["held_out"]) == (1, True)
    assert (found["ablation"], found["errors"], found["start_layer"]) == ("zero", "keep", 2)
    printed = here("faithfulness", "--pairs", str(pairs), *asked, *opened)
    assert "(zero; errors: keep; free before layer 2), 1 example held out\n" in printed
