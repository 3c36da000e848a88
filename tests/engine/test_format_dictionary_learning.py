"""dictionary_learning's eight classes, read from files as it writes them, against the formulas written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch
from engine.formats.find import find
from engine.formats.read import read
from engine.places import Place
from tests import writers
from tests.writers import D_MODEL, K, State

X = writers.numbers(99)(64, D_MODEL) * 2
THRESHOLD = 0.6
CLASSES = tuple(writers.TRAINERS)


def relu(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def pre(s: State, x: Tensor) -> Tensor:
    return torch.einsum("nd,fd->nf", x, s["encoder.weight"]) + s["encoder.bias"]


def pre_matrices(s: State, x: Tensor) -> Tensor:
    return torch.einsum("nd,df->nf", x, s["W_enc"]) + s["b_enc"]


def gated(s: State, x: Tensor) -> Tensor:
    pi = torch.einsum("nd,fd->nf", x - s["decoder_bias"], s["encoder.weight"])
    gate = torch.where(pi + s["gate_bias"] > 0, 1.0, 0.0)
    return gate * relu(pi * s["r_mag"].exp() + s["mag_bias"])


def top_k(s: State, x: Tensor) -> Tensor:
    f = relu(pre(s, x - s["b_dec"]))
    least = f.sort(dim=1, descending=True).values[:, K - 1 : K]
    return torch.where(f >= least, f, 0.0)


def above(f: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where(f > threshold, f, 0.0)


def linear_out(s: State, f: Tensor, bias: str) -> Tensor:
    return torch.einsum("nf,df->nd", f, s["decoder.weight"]) + s[bias]


def matrix_out(s: State, f: Tensor) -> Tensor:
    return torch.einsum("nf,fd->nd", f, s["W_dec"]) + s["b_dec"]


FORMULAS: dict[str, tuple[Callable[[State, Tensor], Tensor], Callable[[State, Tensor], Tensor]]] = {
    "AutoEncoder": (lambda s, x: relu(pre(s, x - s["bias"])), lambda s, f: linear_out(s, f, "bias")),
    "AutoEncoderNew": (lambda s, x: relu(pre(s, x)), lambda s, f: linear_out(s, f, "decoder.bias")),
    "GatedAutoEncoder": (gated, lambda s, f: linear_out(s, f, "decoder_bias")),
    "JumpReluAutoEncoder": (lambda s, x: relu(above(pre_matrices(s, x), s["threshold"])), matrix_out),
    "AutoEncoderTopK": (top_k, lambda s, f: linear_out(s, f, "b_dec")),
    "BatchTopKSAE": (
        lambda s, x: above(relu(pre(s, x - s["b_dec"])), THRESHOLD),
        lambda s, f: linear_out(s, f, "b_dec"),
    ),
    "MatryoshkaBatchTopKSAE": (
        lambda s, x: above(relu(pre_matrices(s, x - s["b_dec"])), THRESHOLD),
        matrix_out,
    ),
}


def opened(folder: Path) -> Dictionary:
    (place,) = find(folder)
    return read(place)


def configured(tmp_path: Path, name: str, submodule: str | None = "resid_post_layer_3", layer: int = 3) -> Path:
    config = writers.dictionary_learning_config(name, submodule, layer)
    return writers.save_dictionary_learning(tmp_path / "trainer_0", writers.dictionary_learning_state(name), config)


def agrees(dictionary: Dictionary, name: str, state: State) -> None:
    encode, decode = FORMULAS[name]
    expected = encode(state, X)
    assert 0.02 < float((expected > 0).float().mean()) < 0.9
    found = dictionary.encode(X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dictionary.decode(found, X), decode(state, expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_with_its_configuration(tmp_path: Path, name: str) -> None:
    dictionary = opened(configured(tmp_path, name))
    agrees(dictionary, name, writers.dictionary_learning_state(name))
    assert dictionary.form == f"dictionary_learning {name}"
    assert dictionary.site.hook == "blocks.3.hook_resid_post"
    assert dictionary.metadata["model_name"] == "EleutherAI/pythia-70m-deduped"
    assert not any("class" in note for note in dictionary.notes)


@pytest.mark.parametrize("name", [n for n in CLASSES if n != "BatchTopKSAE"])
def test_an_old_folder_tells_its_class_by_its_weights(tmp_path: Path, name: str) -> None:
    state = writers.dictionary_learning_state(name)
    if name == "AutoEncoderTopK":
        del state["threshold"]  # the first ones had none
    dictionary = opened(writers.save_dictionary_learning(tmp_path / "mlp_out_layer2" / "10_32768", state))
    agrees(dictionary, name, state)
    assert (dictionary.form, dictionary.source) == (f"dictionary_learning {name}", "mlp_out_layer2")
    assert any("told by the names of its weights" in note for note in dictionary.notes)


@pytest.mark.parametrize("name", ["AutoEncoderTopK", "BatchTopKSAE"])
def test_classes_of_the_same_names_are_told_by_their_trainer_or_not_at_all(tmp_path: Path, name: str) -> None:
    folder = configured(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    del config["trainer"]["dict_class"]
    (folder / "config.json").write_text(json.dumps(config))
    dictionary = opened(folder)
    agrees(dictionary, name, writers.dictionary_learning_state(name))
    assert any("name of its trainer" in note for note in dictionary.notes)
    del config["trainer"]["trainer_class"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DictionaryMismatch, match="AutoEncoderTopK or a BatchTopKSAE") as caught:
        opened(folder)
    assert "dict_class" in caught.value.remedy


def test_the_identity_is_the_neurons(tmp_path: Path) -> None:
    config = writers.dictionary_learning_config("IdentityDict", "mlp_out_layer1", 1)
    for folder in (tmp_path / "none", tmp_path / "empty"):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    torch.save({}, tmp_path / "empty" / "ae.pt")
    for folder in (tmp_path / "none", tmp_path / "empty"):
        dictionary = opened(folder)
        torch.testing.assert_close(dictionary.encode(X), X)
        torch.testing.assert_close(dictionary.decode(X, X), X)
        assert (dictionary.form, dictionary.site.hook) == ("dictionary_learning IdentityDict", "blocks.1.hook_mlp_out")
    del config["trainer"]["activation_dim"], config["buffer"]["d_submodule"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DictionaryMismatch, match="how wide"):
        opened(folder)


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_never_set_cuts_nothing_and_says_so(tmp_path: Path, name: str) -> None:
    state = writers.dictionary_learning_state(name, threshold=-1.0)
    config = writers.dictionary_learning_config(name, "resid_post_layer_3", 3)
    dictionary = opened(writers.save_dictionary_learning(tmp_path / "a", state, config))
    encode = pre if "encoder.weight" in state else pre_matrices
    torch.testing.assert_close(dictionary.encode(X), relu(encode(state, X - state["b_dec"])), rtol=1e-5, atol=1e-5)
    assert any("never set" in note for note in dictionary.notes)


def test_features_are_raw_and_the_screen_can_say_so(tmp_path: Path) -> None:
    state = writers.dictionary_learning_state("AutoEncoder")
    assert any("activations are raw" in note for note in opened(configured(tmp_path, "AutoEncoder")).notes)
    state["decoder.weight"] /= state["decoder.weight"].norm(dim=0)
    config = writers.dictionary_learning_config("AutoEncoder", "resid_post_layer_3", 3)
    unit = opened(writers.save_dictionary_learning(tmp_path / "unit", state, config))
    assert not any("raw" in note for note in unit.notes)


# --- which hook ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "layer", "hook"),
    [
        ("resid_post_layer_3", 3, "blocks.3.hook_resid_post"),
        ("attn_out_layer2", 2, "blocks.2.hook_attn_out"),
        ("attention_out_layer_2", 2, "blocks.2.hook_attn_out"),
        ("mlp_out_layer4", 4, "blocks.4.hook_mlp_out"),
        ("resid_out_layer5", 5, "blocks.5.hook_resid_post"),
        ("resid_12", 12, "blocks.12.hook_resid_post"),
        ("embed", 0, "hook_embed"),
    ],
)
def test_the_hook_is_told_by_submodule_or_folder(tmp_path: Path, said: str, layer: int, hook: str) -> None:
    assert opened(configured(tmp_path, "AutoEncoder", said, layer)).site.hook == hook
    state = writers.dictionary_learning_state("AutoEncoder")
    dictionary = opened(writers.save_dictionary_learning(tmp_path / "pythia" / said / "10_32768", state))
    assert (dictionary.site.hook, dictionary.source) == (hook, said)


def test_a_hook_that_was_asked_for_counts_before_any_other(tmp_path: Path) -> None:
    folder = configured(tmp_path, "AutoEncoder")
    place = Place("dictionary_learning", folder, "mine", "blocks.1.hook_mlp_out")
    assert (read(place).site.hook, read(place).source) == ("blocks.1.hook_mlp_out", "mine")
    with pytest.raises(DictionaryMismatch, match="not known"):
        read(Place("dictionary_learning", folder, hook="blocks.1.nowhere"))


@pytest.mark.parametrize(
    ("submodule", "layer", "io", "says"),
    [
        (None, 3, "out", "Nothing says which hook"),
        ("mlp_act_layer_3", 3, "out", "its submodule is called mlp_act_layer_3"),
        ("resid_post_layer_3", 4, "out", "says layer 4"),
        ("mlp_out_layer3", 3, "in", "goes in"),
        ("mlp_out_layer3", 3, "in_and_out", "goes in_and_out"),
    ],
)
def test_a_hook_that_is_not_certain_is_asked_for(
    tmp_path: Path, submodule: str | None, layer: int, io: str, says: str
) -> None:
    config = writers.dictionary_learning_config("AutoEncoder", submodule, layer)
    config["buffer"]["io"] = io
    state = writers.dictionary_learning_state("AutoEncoder")
    folder = writers.save_dictionary_learning(tmp_path / "sae" / "trainer_0", state, config)
    with pytest.raises(DictionaryMismatch, match=says) as caught:
        opened(folder)
    assert "FOLDER@" in caught.value.remedy


@pytest.mark.parametrize(
    ("submodule", "layer", "io", "hook"),
    [
        ("mlp_act_layer_3", 3, "out", "blocks.3.mlp.hook_post"),
        ("model.layers.2.mlp", None, "out", "blocks.2.hook_mlp_out"),
        ("self_attention", 4, "out", "blocks.4.hook_attn_out"),
        ("mlp_out_layer3", 3, "in", "blocks.3.mlp.hook_in"),
        ("somewhere", 7, "out", "blocks.3.hook_resid_post"),
    ],
)
def test_the_hook_that_seems_to_be_meant_is_proposed(
    tmp_path: Path, submodule: str, layer: int | None, io: str, hook: str
) -> None:
    config = writers.dictionary_learning_config("AutoEncoder", submodule, 0)
    config["trainer"]["layer"], config["buffer"]["io"] = layer, io
    state = writers.dictionary_learning_state("AutoEncoder")
    with pytest.raises(DictionaryMismatch) as caught:
        opened(writers.save_dictionary_learning(tmp_path / "sae", state, config))
    assert caught.value.remedy.endswith(f"FOLDER@{hook}.")


def test_weights_one_level_down_are_told(tmp_path: Path) -> None:
    state = {"step": 3, "ae": dict(writers.dictionary_learning_state("AutoEncoder"))}
    for config in (None, writers.dictionary_learning_config("AutoEncoder", "resid_post_layer_3", 3)):
        folder = tmp_path / f"resid_post_layer_3{'' if config is None else 'b'}"
        folder.mkdir()
        torch.save(state, folder / "ae.pt")
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(DictionaryMismatch) as caught:
            opened(folder)
        assert "one level down, in 'ae' (bias, encoder.weight" in caught.value.remedy


# --- against SAELens' own loader -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CLASSES if n != "AutoEncoderNew"])  # for it their loader finds no b_dec
def test_equals_saelens_loader(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    folder = configured(tmp_path, name)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda repo_id, filename, force_download: str(tmp_path / filename))
    settings, state, _ = loaders.dictionary_learning_sae_huggingface_loader_1("any/one", folder.name)
    theirs: Any = SAE.from_dict(loaders.handle_config_defaulting(settings))
    theirs.process_state_dict_for_loading(state)
    theirs.load_state_dict(state)
    ours = opened(folder)
    with torch.no_grad():
        expected = theirs.encode(X)
        torch.testing.assert_close(ours.encode(X), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(expected, X), theirs.decode(expected), rtol=1e-5, atol=1e-4)
    assert theirs.cfg.metadata.hook_name == ours.site.hook
