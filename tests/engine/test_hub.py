"""Names to dictionaries on this machine; downloads from a real HTTP server on loopback, and all that can go wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from engine.commands.getting import get_app
from engine.errors import BadRequest, Cancelled, DictionaryMissing, DownloadFailed
from engine.hub.finding import download_model, find_for_model, find_reference, find_release, is_here, parse_reference
from engine.names.registry import entries
from engine.places import Place
from tests.hub_server import Hub, running

REPO = "ctigges/pythia-70m-deduped__mlp-sm_processed"
RELEASE = "pythia-70m-deduped-mlp-sm"
ID = f"{RELEASE}/blocks.2.hook_mlp_out"


def silent(text: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of our own, an empty Hugging Face cache, and no token; the process itself stays off the network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SAESCOPE_MIRROR", raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running(tmp_path / "served") as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def serve(hub: Hub, layer: int = 2, width: int = 4) -> bytes:
    """A dictionary in the layout of its repository; returns the bytes of its weights."""
    settings = {"architecture": "standard", "hook_name": f"blocks.{layer}.hook_mlp_out", "d_in": width, "d_sae": 8}
    hub.put(REPO, f"{layer}-mlp-sm/cfg.json", json.dumps(settings))
    weights: bytes = save({"W_enc": torch.zeros(width, 8), "W_dec": torch.zeros(8, width)})
    hub.put(REPO, f"{layer}-mlp-sm/sae_weights.safetensors", weights)
    return weights


def refusal(name: str = ID) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        find_release(name, True, silent)
    return caught.value


# --- offline --------------------------------------------------------------------------------------------------------


def test_absent_offline_says_at_once_what_is_missing_and_how_to_get_it(hub: Hub) -> None:
    serve(hub)
    started = time.monotonic()
    with pytest.raises(DictionaryMissing) as caught:
        find_release(ID, False, silent)
    assert time.monotonic() - started < 1
    assert hub.asked == []
    for text in (REPO, "2-mlp-sm/cfg.json", "2-mlp-sm/sae_weights.safetensors"):
        assert text in caught.value.message
    for text in (f"saescope get dictionary {ID}", "models--ctigges--pythia-70m-deduped__mlp-sm_processed", "MIRROR"):
        assert text in caught.value.remedy


def test_a_release_that_is_here_in_part_says_how_much_of_it(hub: Hub) -> None:
    serve(hub)
    find_release(ID, True, silent)
    with pytest.raises(DictionaryMissing, match="Only 1 of the 6 dictionaries"):
        find_release(RELEASE, False, silent)


def test_of_many_files_that_are_missing_two_are_named(hub: Hub) -> None:
    with pytest.raises(DictionaryMissing) as caught:
        find_release(RELEASE, False, silent)
    assert caught.value.message == (
        f"None of the 6 dictionaries of {RELEASE} is on this machine; {REPO} holds 12 files, 0-mlp-sm/cfg.json, "
        "0-mlp-sm/sae_weights.safetensors, …."
    )


def test_a_short_name_alone_says_whose_it_is(hub: Hub) -> None:
    with pytest.raises(BadRequest, match="short name, of dictionaries of gpt2-small") as caught:
        find_release("res-jb", True, silent)
    assert "-m gpt2-small" in caught.value.remedy
    with pytest.raises(BadRequest, match="pythia-70m-deduped"):
        find_release("3-res-sm", True, silent)
    with pytest.raises(DictionaryMissing, match="no release called 'res-nobody'"):
        find_release("res-nobody", True, silent)
    assert hub.asked == []


def test_a_mirror_is_a_folder_with_the_repository_in_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub)
    monkeypatch.setenv("SAESCOPE_MIRROR", str(hub.root))
    (place,) = find_release(ID, False, silent)
    assert place.weights == (hub.root / REPO / "2-mlp-sm" / "sae_weights.safetensors",)
    assert hub.asked == []


# --- downloading ----------------------------------------------------------------------------------------------------


def test_a_download_brings_exactly_the_files_and_tells_how_far_it_is(hub: Hub) -> None:
    weights = serve(hub, width=100_000)
    serve(hub, layer=3)
    told: list[tuple[str, int, int]] = []
    (place,) = find_release(ID, True, lambda *progress: told.append(progress))
    assert place.weights[0].read_bytes() == weights
    assert len(hub.bodies()) == 2
    assert not any("3-mlp-sm" in line for line in hub.asked)
    total = len(weights) + (hub.root / REPO / "2-mlp-sm/cfg.json").stat().st_size
    assert {progress[2] for progress in told} == {0, total}
    assert [p[1] for p in told] == sorted(p[1] for p in told)
    assert "downloading 6 MB, file 2 of 2" in {progress[0] for progress in told}


def test_every_file_is_asked_for_before_any_byte_of_weights_comes(hub: Hub) -> None:
    for layer in range(6):
        serve(hub, layer)
    find_release(RELEASE, True, silent)
    first = next(i for i, line in enumerate(hub.asked) if line.startswith("GET"))
    assert len(set(hub.asked[:first])) == 12
    assert all(line.startswith("HEAD") for line in hub.asked[:first])


def test_what_was_downloaded_opens_without_the_hub(hub: Hub) -> None:
    serve(hub)
    find_release(ID, True, silent)
    hub.asked.clear()
    (again,) = find_release(ID, True, silent)
    assert hub.asked == []
    assert is_here(next(e for e in entries(RELEASE) if e.name == ID))
    assert again.release == ID
    assert (again.source, again.neuronpedia) == ("2-mlp-sm", "pythia-70m-deduped/2-mlp-sm")
    assert again.hook == "blocks.2.hook_mlp_out"
    assert again.extra["loader"] == "sae_lens"


def test_what_came_before_the_branch_moved_on_is_still_found(hub: Hub, tmp_path: Path) -> None:
    serve(hub)
    find_release(ID, True, silent)
    (tmp_path / "hf" / f"models--{REPO.replace('/', '--')}" / "refs" / "main").write_text("f" * 40)
    assert find_release(ID, False, silent)


def test_a_line_that_breaks_is_taken_up_where_it_broke(hub: Hub) -> None:
    weights = serve(hub, width=400_000)  # what came is kept in pieces of 10 MiB
    hub.trouble = {"2-mlp-sm/sae_weights": "cut"}
    (place,) = find_release(ID, True, silent)
    assert place.weights[0].read_bytes() == weights
    assert hub.trouble == {}
    assert [start for start in hub.starts if start > 0], hub.starts


def test_a_stopped_download_ends_its_process_and_leaves_nothing_half_done(hub: Hub, tmp_path: Path) -> None:
    weights = serve(hub, width=400_000)
    hub.trouble = {"2-mlp-sm/sae_weights": "stall"}

    def stop(text: str, done: int, total: int) -> None:
        if done > 1_000_000:
            raise Cancelled

    started = time.monotonic()
    with pytest.raises(Cancelled):
        find_release(ID, True, stop)
    assert time.monotonic() - started < 5
    assert [f for f in (tmp_path / "hf").rglob("*") if f.is_file() and f.stat().st_size > 1000] == []
    hub.trouble = {}
    (place,) = find_release(ID, True, silent)
    assert place.weights[0].read_bytes() == weights


# --- refusals, each before any byte ---------------------------------------------------------------------------------


def test_a_licence_that_was_not_accepted_names_its_page(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub)
    hub.gated.add(REPO)
    without = refusal()
    assert "licence" in without.message
    assert "no token" in without.message
    assert f"https://huggingface.co/{REPO}" in without.remedy
    assert "HF_TOKEN" in without.remedy
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.known.add("hf_mine")
    with_token = refusal()
    assert "has not accepted the licence" in with_token.message
    assert f"https://huggingface.co/{REPO}" in with_token.remedy
    assert hub.bodies() == []
    hub.accepted.add("hf_mine")
    assert find_release(ID, True, silent)


def test_a_token_that_is_not_valid(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(hub)
    hub.known.add("hf_other")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    error = refusal()
    assert error.message == "The hub does not accept your token."
    assert "settings/tokens" in error.remedy
    assert "hf auth login" in error.remedy


def test_a_private_repository_without_a_token(hub: Hub) -> None:
    serve(hub)
    hub.private.add(REPO)
    error = refusal()
    assert f"There is no repository {REPO}" in error.message
    assert "HF_TOKEN" in error.remedy


def test_an_absent_repository_and_an_absent_file(hub: Hub) -> None:
    assert f"no repository {REPO}" in refusal().message
    serve(hub)
    (hub.root / REPO / "2-mlp-sm" / "sae_weights.safetensors").unlink()
    assert f"{REPO} has no file 2-mlp-sm/sae_weights.safetensors" in refusal().message
    assert hub.bodies() == []


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("429", "asked too often"),
        ("503", "out of order (503)"),
        ("slow", "cannot be reached"),
        ("nonsense", "does not answer as a hub"),
    ],
)
def test_a_hub_in_trouble(hub: Hub, trouble: str, words: str) -> None:
    serve(hub)
    hub.trouble = {"cfg.json": trouble}
    started = time.monotonic()
    assert words in refusal().message
    assert time.monotonic() - started < 5


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    error = refusal()
    assert "http://127.0.0.1:9 cannot be reached" in error.message
    assert "Traceback (most recent call last)" in error.detail
    assert "engine/hub/preflight.py" in error.detail
    for text in ("saescope get", "models--ctigges--pythia-70m-deduped__mlp-sm_processed", "SAESCOPE_MIRROR"):
        assert text in error.remedy
    assert time.monotonic() - started < 5


def test_a_disk_without_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.hub.preflight import check_room

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 << 20))
    with pytest.raises(DownloadFailed, match=r"40 MB are to come and .* has 105 MB free"):
        check_room(40_000_000)
    check_room(30_000_000)


# --- names ----------------------------------------------------------------------------------------------------------


def sources(places: list[Place]) -> list[str | None]:
    return [place.source for place in places]


def test_the_short_names_of_a_models_sets(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_MIRROR", str(hub.root))
    for name in [f"{n}-res-sm" for n in ("e", *range(6))]:
        for file in ("cfg.json", "sae_weights.safetensors"):
            hub.put("ctigges/pythia-70m-deduped__res-sm_processed", f"{name}/{file}", "{}")
    found = find_for_model("pythia-70m-deduped", "res-sm", False, silent)
    assert sources(found) == ["e-res-sm", *(f"{n}-res-sm" for n in range(6))]
    assert found[0].hook == "blocks.0.hook_resid_pre"
    assert found[1].hook == "blocks.0.hook_resid_post"
    assert sources(find_for_model("EleutherAI/pythia-70m-deduped", "3-res-sm", False, silent)) == ["3-res-sm"]
    with pytest.raises(BadRequest, match="It has") as caught:
        find_for_model("gpt2-small", "res-sm", False, silent)
    assert "res-jb" in str(caught.value)


def test_references(hub: Hub) -> None:
    assert parse_reference("hf://a/b") == ("a/b", "", "main")
    assert parse_reference("hf://a/b/c/d@v1") == ("a/b", "c/d", "v1")
    assert parse_reference("hf://a/b@refs/pr/1") == ("a/b", "", "refs/pr/1")
    for wrong in ("hf://a", "a/b", "hf://a/../../b/c"):
        with pytest.raises(BadRequest):
            parse_reference(wrong)


def test_a_reference_to_a_folder_brings_its_dictionaries_and_nothing_else(hub: Hub) -> None:
    serve(hub, 2)
    serve(hub, 3)
    hub.put(REPO, "3-mlp-sm/picture.png", b"x" * 1000)
    with pytest.raises(DictionaryMissing, match="not on this machine"):
        find_reference(f"hf://{REPO}/3-mlp-sm", False, silent)
    (place,) = find_reference(f"hf://{REPO}/3-mlp-sm", True, silent)
    assert place.form == "saelens"
    assert place.path.name == "3-mlp-sm"
    assert sorted(path.rpartition("/")[2] for path in hub.bodies()) == ["cfg.json", "sae_weights.safetensors"]
    both = find_reference(f"hf://{REPO}", True, silent)
    assert [place.path.name for place in both] == ["2-mlp-sm", "3-mlp-sm"]
    assert find_reference(f"hf://{REPO}/3-mlp-sm", False, silent)


def test_a_reference_to_a_file_brings_what_describes_it(hub: Hub) -> None:
    for run in (25, 47):
        hub.put("NeelNanda/sparse_autoencoder", f"{run}.pt", b"weights")
        hub.put("NeelNanda/sparse_autoencoder", f"{run}_cfg.json", "{}")
    (place,) = find_reference("hf://NeelNanda/sparse_autoencoder/47.pt", True, silent)
    assert place.path.name == "47.pt"
    assert {path.rpartition("/")[2] for path in hub.bodies()} == {"47.pt", "47_cfg.json"}


def test_an_answer_that_is_no_listing(hub: Hub) -> None:
    serve(hub)
    hub.trouble = {"/api/": "nonsense"}
    with pytest.raises(DownloadFailed, match="cannot be read"):
        find_reference(f"hf://{REPO}", True, silent)


def test_a_model_is_settings_tokenizer_and_weights_in_one_form(hub: Hub, llama_folder: Path) -> None:
    for file in llama_folder.iterdir():
        hub.put("someone/llama", file.name, file.read_bytes())
    hub.put("someone/llama", "pytorch_model.bin", b"pickled")
    hub.put("someone/llama", "onnx/model.onnx", b"other")
    folder = download_model("someone/llama", silent)
    assert {file.name for file in folder.iterdir()} == {file.name for file in llama_folder.iterdir()}
    assert (folder / "config.json").read_text() == (llama_folder / "config.json").read_text()


def test_a_model_that_is_here_needs_no_hub(
    hub: Hub, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="cannot be reached") as caught:
        download_model("gpt2-small", silent)
    for text in ("models--openai-community--gpt2", "SAESCOPE_MIRROR"):
        assert text in caught.value.remedy
    shutil.copytree(llama_folder, tmp_path / "copy" / "openai-community" / "gpt2")
    monkeypatch.setenv("SAESCOPE_MIRROR", str(tmp_path / "copy"))
    assert download_model("gpt2-small", silent) == tmp_path / "copy" / "openai-community" / "gpt2"
    ran = CliRunner().invoke(get_app, ["model", "gpt2-small"])
    assert ran.exit_code == 0
    assert str(tmp_path / "copy") in ran.stdout.replace("\n", "")
    assert "is on this machine already" in ran.stderr
    (tmp_path / "copy" / "openai-community" / "gpt2" / "model.safetensors").unlink()
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        download_model("gpt2-small", silent)


# --- the commands ---------------------------------------------------------------------------------------------------


def test_get_dictionary_and_get_model(hub: Hub, llama_folder: Path) -> None:
    run = CliRunner()
    weights = serve(hub)
    (row,) = json.loads(run.invoke(get_app, ["dictionary", ID, "--json"]).stdout)
    assert (row["name"], row["bytes"]) == (ID, len(weights))
    assert Path(row["folder"], "cfg.json").is_file()
    by_set = json.loads(run.invoke(get_app, ["dictionary", "2-mlp-sm", "-m", "pythia-70m-deduped", "--json"]).stdout)
    assert by_set == [row]
    for file in llama_folder.iterdir():
        hub.put("someone/llama", file.name, file.read_bytes())
    got = json.loads(run.invoke(get_app, ["model", "someone/llama", "--json"]).stdout)
    assert Path(got["folder"], "config.json").is_file()


def test_a_refused_download_is_one_line_and_a_code(hub: Hub) -> None:
    serve(hub)
    hub.gated.add(REPO)
    result = CliRunner().invoke(get_app, ["dictionary", ID])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"https://huggingface.co/{REPO}" in result.stderr


def test_a_downloaded_set_of_a_model_resolves_by_its_short_name(hub: Hub) -> None:
    from engine.resolving import resolve

    serve(hub)
    with pytest.raises(DictionaryMissing, match="not on this machine"):
        resolve(None, (ID,))
    opening = find_for_model("pythia-70m-deduped", "2-mlp-sm", True, silent)
    assert opening == find_release(ID, False, silent)
