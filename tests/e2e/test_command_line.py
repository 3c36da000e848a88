"""`features` and `steer` as a user runs them: what they print, as JSON and as plain text, and what they leave."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.hashes import sha256_of
from engine.text import visible_token
from tests.e2e.command import COMMAND, Home, document, here, hidden_characters, opening
from tests.e2e.terminal import Terminal

PROMPT = "the end of \x1b[31mred\x1b]0;t\x07 and \u202eabc\u2066, in the é"
STEER = ("in the end of the", "--feature", "1-res-tiny:3", "--add", "6", "--feature", "2-res-tiny:5", "--add", "-2.5")
SEEDED = ("--tokens", "12", "--seed", "7", "--temperature", "0.9")
_PROGRESS = re.compile(rb"\r\x1b\[2K[^\r]*(?=\r\x1b\[2K)|\r\x1b\[2K")


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> Iterator[Home]:
    """A home in which the tiny model and its dictionaries are also a set called `mine`; it must stay tidy."""
    made = Home(tmp_path_factory.mktemp("command"))
    made.add_set("mine", llama_folder, dictionary_folders)
    before = _files(llama_folder, *dictionary_folders)
    yield made
    assert made.strays() == []
    assert _files(llama_folder, *dictionary_folders) == before


def _files(*folders: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*")}


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> list[str]:
    return opening(llama_folder, dictionary_folders)


# --- features -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strongest(home: Home, opened: list[str]) -> Any:
    return document(home.answer("features", PROMPT, *opened, "--json", "--per-token", "--top", "7"))


@pytest.fixture(scope="module")
def summed(home: Home, opened: list[str]) -> Any:
    asked = ("--rank", "sum", "--bos", "on", "--keep-first", "--site", "2-res-tiny", "--json")
    return document(home.answer("features", "-", *opened, *asked, stdin=b"in the end\r\n"))


@pytest.fixture(scope="module")
def averaged(home: Home) -> Any:
    asked = ("--rank", "mean", "--site", "blocks.1.hook_resid_post", "--json")
    return document(home.answer("features", PROMPT, "-m", "mine", *asked))


def _sorted(numbers: list[float]) -> bool:
    return numbers == sorted(numbers, reverse=True)


def test_features_have_their_values_on_every_token(strongest: dict[str, Any]) -> None:
    assert strongest["model"] == "llama"
    assert strongest["prompt"] == PROMPT
    assert all({"id", "text"} <= token.keys() for token in strongest["tokens"])
    assert "\x1b" in [token["text"] for token in strongest["tokens"]]
    found = strongest["features"]
    assert len(found) == 7
    assert _sorted([f["activation"] for f in found])
    for feature in found:
        assert set(feature) == {"source", "index", "activation", "position", "values"}
        assert len(feature["values"]) == len(strongest["tokens"])
        assert feature["activation"] == pytest.approx(max(feature["values"][1:]), rel=1e-5)
        assert feature["activation"] == pytest.approx(feature["values"][feature["position"]], rel=1e-5)
        assert feature["position"] > 0
    assert {f["source"] for f in found} == {"1-res-tiny", "2-res-tiny"}


def test_every_token_has_its_features_and_continuations(strongest: dict[str, Any]) -> None:
    tokens = strongest["tokens"]
    assert len(strongest["per_token"]) == len(strongest["next_tokens"]) == len(tokens)
    for features, following in zip(strongest["per_token"], strongest["next_tokens"], strict=True):
        assert _sorted([f["activation"] for f in features])
        assert max(sum(f["source"] == s for f in features) for s in ("1-res-tiny", "2-res-tiny")) == 7
        assert _sorted([n["probability"] for n in following])
        assert 0 < sum(n["probability"] for n in following) < 1
    best = strongest["features"][0]
    there = strongest["per_token"][best["position"]]
    assert {"source": best["source"], "index": best["index"]}.items() <= there[0].items()


def test_what_produced_the_numbers_is_named(
    strongest: dict[str, Any], summed: dict[str, Any], llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    origin = strongest["provenance"]
    assert origin["model_sha256"] == sha256_of(llama_folder / "model.safetensors")
    assert origin["dictionaries"] == {f.name: sha256_of(f / "sae_weights.safetensors") for f in dictionary_folders}
    assert origin["hooks"] == {f"{layer}-res-tiny": f"blocks.{layer}.hook_resid_post" for layer in (1, 2)}
    assert (origin["device"], origin["dtype"], origin["bos"]) == ("cpu", "float32", "off")
    assert origin["settings"] == {"rank": "max", "first_position": "left out", "top": 7, "activations": "raw"}
    assert origin["versions"].keys() == {"saescope", "torch", "transformers", "transformer-lens"}
    other = summed["provenance"]
    assert (other["bos"], other["settings"]["rank"], other["settings"]["first_position"]) == ("on", "sum", "ranked")


def test_sums_count_every_position_that_is_ranked(summed: dict[str, Any]) -> None:
    assert [token["text"] for token in summed["tokens"]][-2:] == ["\r", "\n"], "standard input is taken as it is"
    assert summed["tokens"][0] | {"id": 256, "special": True} == summed["tokens"][0]
    assert len(summed["features"]) == 10
    for feature in summed["features"]:
        assert feature["activation"] == pytest.approx(sum(feature["values"]), rel=1e-4)
    assert 0 in [feature["position"] for feature in summed["features"]]


def test_a_site_is_named_by_source_or_hook(summed: dict[str, Any], averaged: dict[str, Any]) -> None:
    for found, source in ((summed, "2-res-tiny"), (averaged, "1-res-tiny")):
        assert {f["source"] for f in found["features"]} == {source}
        assert [s["source"] for s in found["sites"]] == list(found["provenance"]["dictionaries"]) == [source]
    assert "per_token" not in averaged


def test_means_leave_the_first_token_out(averaged: dict[str, Any]) -> None:
    assert _sorted([f["activation"] for f in averaged["features"]])
    for feature in averaged["features"]:
        counted = feature["values"][1:]
        assert feature["activation"] == pytest.approx(sum(counted) / len(counted), rel=1e-4)


def test_on_a_terminal_nothing_in_a_prompt_acts(home: Home, opened: list[str], strongest: dict[str, Any]) -> None:
    terminal = Terminal([*COMMAND, "features", PROMPT, *opened, "--per-token"], (100, 80), home.environment)
    try:
        assert terminal.wait(60) == 0
        terminal.settle(0.1)
    finally:
        terminal.close()
    assert b"\x1b[2Kloading llama" in terminal.received
    printed = _PROGRESS.sub(b"", bytes(terminal.received)).decode().replace("\r\n", "\n")
    assert hidden_characters(printed) == set()
    heading, columns, best, *_ = printed.splitlines()
    assert heading == f"{len(strongest['tokens'])} tokens, ranked by max, first position left out"
    assert columns.split() == ["source", "index", "activation", "at"]
    first = strongest["features"][0]
    assert best.split()[:2] == [first["source"], str(first["index"])]
    shown, _, notes = printed.partition("\n\n* ")
    assert notes.rstrip().endswith("decoder rows are not unit norm")
    table = shown.splitlines()[-len(strongest["tokens"]) :]
    assert [line[5:21].rstrip() for line in table] == [visible_token(token["text"]) for token in strongest["tokens"]]


# --- steer --------------------------------------------------------------------------------------------------------


def test_steering_gives_the_same_texts_from_the_same_seed(home: Home, opened: list[str]) -> None:
    first = document(home.answer("steer", *STEER, *SEEDED, *opened, "--json"))
    again = json.loads(here("steer", *STEER, *SEEDED, *opened, "--json"))
    assert first.keys() == again.keys()
    for field in ("prompt_ids", "interventions", "plain", "steered", "first_divergence", "acted", "provenance"):
        assert first[field] == again[field]
    assert first["kl"] == pytest.approx(again["kl"], rel=1e-3)
    assert first["plain"]["ids"] != first["steered"]["ids"]
    assert 1 <= len(first["kl"]) <= 12
    assert len(first["kl"]) == min(len(first[arm]["ids"]) for arm in ("plain", "steered"))
    assert all(divergence > 0 for divergence in first["kl"])
    assert all(isinstance(first[arm]["text"], str) for arm in ("plain", "steered"))
    assert len(first["prompt_ids"]) > 3
    added = {f"{i['feature']['source']}:{i['feature']['index']}": i["strength"] for i in first["interventions"]}
    assert added == {"1-res-tiny:3": 6, "2-res-tiny:5": -2.5}
    settings = first["provenance"]["settings"]
    assert (settings["seed"], settings["temperature"], settings["tokens"]) == (7, 0.9, 12)
    assert first["provenance"]["dictionaries"].keys() == {"1-res-tiny", "2-res-tiny"}
    other = json.loads(here("steer", *STEER, *SEEDED, "--seed", "8", *opened, "--json"))
    assert other["plain"]["ids"] != first["plain"]["ids"]


def test_adding_nothing_changes_nothing(home: Home, opened: list[str]) -> None:
    asked = ("steer", "in the", "--feature", "1-res-tiny:3", "--add", "0", "--tokens", "6", "--temperature", "0")
    found = document(home.answer(*asked, *opened, "--json"))
    assert found["plain"] == found["steered"]
    assert found["kl"] == pytest.approx([0.0] * len(found["plain"]["ids"]), abs=1e-6)
    assert found["first_divergence"] is None
    printed = here(*asked, *opened)
    assert hidden_characters(printed) == set()
    assert printed.startswith("1-res-tiny:3 add +0 at all tokens")
    assert "texts part never" in printed
    assert "caution: 1-res-tiny:3: add 0 changes nothing." in printed
    assert re.search(r"^plain:   (.*)\n\nsteered: \1\Z", printed.rstrip("\n"), re.MULTILINE | re.DOTALL)
