"""The registry of releases: complete, quick the second time, and helpful about names that are nearly right."""

from __future__ import annotations

import json
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from engine.commands import getting
from engine.commands.completing import complete_dictionary, complete_model, complete_set
from engine.errors import DictionaryMissing
from engine.names import registry
from engine.names.layout import files_of, hook_of
from tests.conftest import RunPython

yaml: Any = import_module("yaml")


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    """The list itself, as its authors wrote it."""
    spec = find_spec("sae_lens")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "pretrained_saes.yaml").read_text()
    loaded: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def test_every_release_and_every_id_is_there(listed: dict[str, Any]) -> None:
    assert len(registry.releases()) == 170
    assert list(registry.releases()) == list(listed)
    assert len(registry.all_entries()) == 13_857
    for name, release in listed.items():
        found = registry.entries(name)
        assert [(e.id, e.path) for e in found] == [(str(s["id"]), str(s["path"])) for s in release["saes"]]
        assert [e.neuronpedia for e in found] == [s.get("neuronpedia") for s in release["saes"]]
        assert [e.norm_scaling_factor for e in found] == [s.get("norm_scaling_factor") for s in release["saes"]]
        assert registry.releases()[name].repo == release["repo_id"]
        assert registry.releases()[name].loader == (release["conversion_func"] or "sae_lens")
        assert registry.releases()[name].overrides == (release.get("config_overrides") or {})


def test_every_dictionary_has_files_and_all_but_one_kind_a_hook() -> None:
    for entry in registry.all_entries():
        wanted = files_of(entry)
        assert any(want.weights for want in wanted), entry.name
        if registry.release_of(entry).loader != "mntss_clt_layer_transcoder":
            assert hook_of(entry) is not None, entry.name


def test_the_second_reading_is_quick_and_imports_neither_sae_lens_nor_torch(
    run_python: RunPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys, time\n"
        "from engine.hub import finding; from engine.names import neuronpedia, registry\n"
        "from engine.commands import completing\n"
        "started = time.perf_counter(); n = len(registry.all_entries()); took = time.perf_counter() - started\n"
        "heavy = {'torch', 'sae_lens', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "print(n, took, 'yaml' in sys.modules, *heavy)"
    )
    first, second = (run_python(code).stdout.split() for _ in range(2))
    assert first[0] == second[0] == "13857"
    assert (first[2], second[2]) == ("True", "False")
    assert first[3:] == second[3:] == []
    assert float(second[1]) < float(first[1]) / 3


def test_a_cache_of_another_list_or_a_broken_one_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path))
    store = tmp_path / "registry.json"
    for content in ('{"key": "older", "releases": {}, "entries": {}}', "not JSON"):
        store.write_text(content)
        registry._registry.cache_clear()
        assert len(registry.releases()) == 170
        assert json.loads(store.read_bytes())["key"] != "older"
    registry._registry.cache_clear()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2-small-res-jb", 13),
        ("gpt2-small-res-jb/blocks.7.hook_resid_pre", 1),
        ("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical", 1),
        ("gemma-scope-2b-pt-res/layer_12/width_16k", 5),
        ("gemma-scope-2b-pt-res/*/width_1m/*", 18),
    ],
)
def test_names(name: str, count: int) -> None:
    found = registry.look_up(name)
    assert len(found) == count
    assert all(entry.release == name.split("/")[0] for entry in found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt2-res-jb", "gpt2-small-res-jb"),
        ("pythia-70m-deduped-re-sm", "Did you mean pythia-70m-deduped-res-sm"),
        ("PYTHIA-70M-DEDUPED-RES-SM", "pythia-70m-deduped-res-sm"),
        ("gpt2-small-res-jb/blocks.7.hook_resid_prr", "blocks.7.hook_resid_pre"),
        ("gpt2-small-res-jb/nothing", "It has 13"),
        ("what", "saescope dictionaries"),
    ],
)
def test_names_that_are_nearly_right(name: str, words: str) -> None:
    with pytest.raises(DictionaryMissing) as caught:
        registry.look_up(name)
    assert words in caught.value.remedy


# --- completion and the list ----------------------------------------------------------------------------------------


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2-own").mkdir()
    assert "gpt2-small-res-jb" in complete_dictionary("gpt2-small-r")
    assert complete_dictionary("gpt2-small-res-jb/blocks.11") == [
        "gpt2-small-res-jb/blocks.11.hook_resid_pre",
        "gpt2-small-res-jb/blocks.11.hook_resid_post",
    ]
    assert "gpt2-own/" in complete_dictionary("gpt2-o")
    assert complete_dictionary("hf") == ["hf://"]
    assert len(complete_dictionary("")) == 170
    assert "gpt2-small" in complete_model("gpt2")
    assert complete_set("smol") == ["smollm2"]


def test_completion_is_quick() -> None:
    complete_dictionary("gemma")
    started = time.perf_counter()
    assert len(complete_dictionary("gemma-scope-9b-pt-res/")) == 536
    assert time.perf_counter() - started < 0.2


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("SAESCOPE_MIRROR", str(tmp_path / "mirror"))
    app = typer.Typer()
    app.command()(getting.dictionaries)
    return app


def test_the_list_says_what_is_here(listing: typer.Typer, tmp_path: Path) -> None:
    run = CliRunner()
    everything = json.loads(run.invoke(listing, ["--json"]).output)
    assert len(everything) == 170
    assert sum(row["neuronpedia"] for row in everything) == 2441
    assert not any(row["here"] for row in everything)
    folder = tmp_path / "mirror" / "ctigges/pythia-70m-deduped__mlp-sm_processed" / "2-mlp-sm"
    folder.mkdir(parents=True)
    for name in ("cfg.json", "sae_weights.safetensors"):
        (folder / name).write_text("")
    (row,) = json.loads(run.invoke(listing, ["--here", "--json"]).output)
    assert row == {
        "release": "pythia-70m-deduped-mlp-sm", "model": "pythia-70m-deduped", "count": 6, "neuronpedia": 6, "here": 1,
    }  # fmt: skip
    ids = run.invoke(listing, ["pythia-70m-deduped-mlp-sm"]).output.splitlines()
    assert len(ids) == 6
    assert [line.endswith("here") for line in ids] == [False, False, True, False, False, False]
    assert "pythia-70m-deduped-mlp-sm" in run.invoke(listing, ["deduped-mlp"]).output
    assert "Near: gpt2-small-res-jb" in run.invoke(listing, ["gpt2-res-jb"]).output
    forms = [row["form"] for row in json.loads(run.invoke(listing, ["--forms", "--json"]).output)]
    assert {"saelens", "gemma_scope", "circuit_tracer", "released"} <= set(forms)
    assert len(set(forms)) == len(forms)
