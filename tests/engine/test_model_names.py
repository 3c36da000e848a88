"""Names of models: what they mean, which mean the same, and where they are found without a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from engine.errors import ModelMissing
from engine.names.models import find_model, known_names, mismatch, repo_of, same_model, short_name
from tests.conftest import RunPython

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache and no mirrors."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("SAESCOPE_MIRROR", raising=False)
    return tmp_path / "hub"


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def cache(hub: Path, repo: str, *names: str) -> Path:
    """A snapshot as huggingface_hub leaves it: a folder by commit, and a reference to it."""
    root = hub / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(SHA)
    return fill(root / "snapshots" / SHA, *names)


WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


def test_every_model_of_saelens_registry_has_a_repository() -> None:
    spec = importlib.util.find_spec("sae_lens")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml"
    models = {line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("  model:")}
    assert len(models) >= 38
    for model in models:
        repo = repo_of(model)
        assert repo is not None, model
        assert repo.count("/") == 1, model
        assert "/" not in model or same_model(model, repo)
        assert short_name(repo) in known_names(), model


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2", "openai-community/gpt2"),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("gemma-3-4b", "google/gemma-3-4b-pt"),
        ("gelu-1l", "NeelNanda/GELU_1L512W_C4_Code"),
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("someone/their-model", "someone/their-model"),
    ],
)
def test_names_mean_repositories(name: str, repo: str) -> None:
    assert repo_of(name) == repo


@pytest.mark.parametrize("name", ["", "nothing-like-it", "a/b/c", "../etc", "./x", "a b/c", "x/y\n"])
def test_what_is_no_name_means_none(name: str) -> None:
    assert repo_of(name) is None


def test_one_model_has_many_names() -> None:
    assert same_model("gpt2", "gpt2-small")
    assert same_model("openai-community/gpt2", "gpt2-small")
    assert same_model("google/gemma-3-4b-pt", "gemma-3-4b")
    assert not same_model("gemma-3-4b", "gemma-3-4b-it")
    assert not same_model("pythia-70m", "pythia-70m-deduped")


def test_a_dictionary_of_another_model_is_told() -> None:
    said = mismatch("pythia-70m-deduped", "gelu-1l")
    assert said == "It was made for gelu-1l; the model that is open is pythia-70m-deduped."
    assert mismatch("gpt2", "gpt2-small") is None
    assert mismatch("my-finetune", "gpt2-small") is None, "a folder may have any name"
    assert mismatch("gpt2", None) is None


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mine", *WHOLE)
    place = find_model(str(folder))
    assert (place.folder, place.name, place.repo) == (folder, "mine", None)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_the_hugging_face_cache_is_searched(hub: Path, name: str) -> None:
    snapshot = cache(hub, "openai-community/gpt2", *WHOLE)
    place = find_model(name)
    assert (place.folder, place.name, place.repo) == (snapshot, "gpt2-small", "openai-community/gpt2")
    for folder in (snapshot, snapshot.parent.parent):
        assert find_model(str(folder)) == place, "a cache folder by its path is the same model"


def test_a_snapshot_without_a_reference_is_found(hub: Path) -> None:
    snapshot = cache(hub, "openai-community/gpt2", *WHOLE)
    (snapshot.parent.parent / "refs" / "main").unlink()
    assert find_model("gpt2").folder == snapshot


def test_a_mirror_is_searched_and_a_whole_copy_preferred(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "mirror" / "google/gemma-2-2b", *WHOLE)
    monkeypatch.setenv("SAESCOPE_MIRROR", str(tmp_path / "mirror"))
    assert find_model("gemma-2-2b").folder == folder
    (folder / "model.safetensors").unlink()
    snapshot = cache(hub, "google/gemma-2-2b", *WHOLE)
    assert find_model("gemma-2-2b").folder == snapshot


def test_what_is_missing_is_named(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"EleutherAI/pythia-70m-deduped is not on this machine") as caught:
        find_model("pythia-70m-deduped")
    assert "saescope get model pythia-70m-deduped" in caught.value.remedy
    assert "SAESCOPE_MIRROR" in caught.value.remedy
    with pytest.raises(ModelMissing, match="no model called what-is-this"):
        find_model("what-is-this")
    cache(hub, "openai-community/gpt2", "config.json")
    with pytest.raises(ModelMissing, match=r"config\.json but no weights") as caught:
        find_model("gpt2")
    assert "saescope get model openai-community/gpt2" in caught.value.remedy
    with pytest.raises(ModelMissing, match=r"has no tokenizer\.json"):
        find_model(str(fill(tmp_path / "mute", "config.json", "model.safetensors")))
    with pytest.raises(ModelMissing, match="are pickled"):
        find_model(str(fill(tmp_path / "old", "config.json", "pytorch_model.bin", "tokenizer.json")))
    with pytest.raises(ModelMissing, match=r"no config\.json"):
        find_model(str(fill(tmp_path / "empty")))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "sharded", "config.json", "model-1.safetensors", "tokenizer.json")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelMissing, match=r"model-2\.safetensors is missing"):
        find_model(str(folder))
    (folder / "model-2.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelMissing, match=r"model-2\.safetensors is missing"):
        find_model(str(folder))


def test_a_checkpoint_of_transformer_lens_is_whole_without_a_tokenizer(hub: Path) -> None:
    snapshot = cache(hub, "NeelNanda/GELU_1L512W_C4_Code", "config.json", "model_final.pth")
    assert find_model("gelu-1l").folder == snapshot


def test_names_need_no_torch_and_no_network(run_python: RunPython, hub: Path) -> None:
    done = run_python(
        "import sys, socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from engine.names.models import find_model\n"
        "from engine.errors import ModelMissing\n"
        "import os; os.makedirs(os.environ['HF_HUB_CACHE'] + '/models--openai-community--gpt2')\n"
        "for name in ('gpt2', 'gemma-2-2b'):\n"
        "    try: find_model(name)\n"
        "    except ModelMissing as error: print(error)\n"
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "openai-community/gpt2 is not on this machine" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
