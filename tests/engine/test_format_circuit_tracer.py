"""Folders as circuit-tracer's `to_safetensors` writes them and its hub repositories hold them, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.circuit_tracer import read
from engine.formats.circuit_tracer_folders import recognise
from engine.formats.gemma_scope import SUMMED
from engine.loading import open_model
from engine.sites import Site
from tests import tiny

D, F, LAYERS = tiny.D_MODEL, 48, tiny.LAYERS
X = torch.randn(20, D, generator=torch.Generator().manual_seed(2))


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _transcoder(seed: int = 0) -> dict[str, Tensor]:
    """W_enc is [F, d]: the transpose of SAELens'."""
    return {
        "W_enc": _random(seed, F, D) * 0.3,
        "W_dec": _random(seed + 1, F, D) * 0.3,
        "b_enc": _random(seed + 2, F) * 0.2,
        "b_dec": _random(seed + 3, D),
    }


def _config(folder: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    held = {
        "model_name": "Qwen/Qwen3-0.6B",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
    }
    held |= settings
    (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in held.items() if v is not None}))
    return folder


def _set(folder: Path, layers: int = LAYERS, more: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    """A set of transcoders, one file per layer."""
    _config(folder, **settings)
    for layer in range(layers):
        save_file(_transcoder(10 * layer) | (more or {}), folder / f"layer_{layer}.safetensors")
    return folder


def _pre(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    return torch.einsum("nd,fd->nf", x.double(), w["W_enc"].double()) + w["b_enc"].double()


def _rebuilt(f: Tensor, w: dict[str, Tensor]) -> Tensor:
    return torch.einsum("nf,fd->nd", f, w["W_dec"].double()) + w["b_dec"].double()


def test_a_set_is_a_dictionary_per_layer_in_the_order_of_layers(tmp_path: Path) -> None:
    places = recognise(_set(tmp_path / "set", 12))
    assert [place.source for place in places] == [f"{layer}-transcoder" for layer in range(12)]
    assert [place.hook for place in places] == [f"blocks.{layer}.mlp.hook_in" for layer in range(12)]
    assert [place.weights for place in places] == [(tmp_path / f"set/layer_{n}.safetensors",) for n in range(12)]
    (one,) = recognise(tmp_path / "set/layer_11.safetensors")
    assert one == places[11]
    assert recognise(tmp_path / "set/config.yaml") == places


def test_relu_transcoders_are_read_transposed_and_uncentred(tmp_path: Path) -> None:
    for layer, place in enumerate(recognise(_set(tmp_path / "set"))):
        weights = _transcoder(10 * layer)
        dictionary = read(place)
        assert dictionary.site == Site("mlp_in", layer)
        assert dictionary.write_site == Site("mlp_out", layer)
        assert (dictionary.architecture, dictionary.form) == ("transcoder", "circuit-tracer")
        assert dictionary.metadata["model_name"] == "Qwen/Qwen3-0.6B"
        expected = _pre(X, weights).clamp(min=0)
        torch.testing.assert_close(dictionary.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
        found = dictionary.decode(dictionary.encode(X), X)
        torch.testing.assert_close(found.double(), _rebuilt(expected, weights), rtol=1e-4, atol=1e-4)


def test_thresholds_make_it_a_jumprelu(tmp_path: Path) -> None:
    theta = _random(5, F).abs()
    place = recognise(_set(tmp_path / "set", 1, {"activation_function.threshold": theta}))[0]
    dictionary = read(place)
    pre = _pre(X, _transcoder(0))
    expected = torch.where(pre > theta.double(), pre, 0.0)
    torch.testing.assert_close(dictionary.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
    assert (dictionary.architecture, dictionary.notes) == ("jumprelu_transcoder", ())
    negative = read(recognise(_set(tmp_path / "below", 1, {"activation_function.threshold": theta - 5}))[0])
    assert any("circuit-tracer keeps them" in note for note in negative.notes)


@pytest.mark.parametrize("said_by", ["config", "weights"])
def test_top_k_keeps_the_largest(tmp_path: Path, said_by: str) -> None:
    k = 7
    settings = {"activation": "topk", "k": k} if said_by == "config" else {}
    stored = {"k": torch.tensor(k)} if said_by == "weights" else {}
    dictionary = read(recognise(_set(tmp_path / "set", 1, stored, **settings))[0])
    assert (dictionary.kind, dictionary.k, dictionary.architecture) == ("topk", k, "topk_transcoder")
    pre = _pre(X, _transcoder(0))
    border = pre.sort(dim=1, descending=True).values[:, k - 1 : k]
    expected = torch.where(pre >= border, pre, 0.0).clamp(min=0)
    torch.testing.assert_close(dictionary.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
    assert any("top k" in note for note in dictionary.notes)


def test_a_skip_connection_is_added(tmp_path: Path) -> None:
    skip = _random(9, D, D)
    dictionary = read(recognise(_set(tmp_path / "set", 1, {"W_skip": skip}))[0])
    assert dictionary.architecture == "skip_transcoder"
    weights = _transcoder(0)
    expected = _rebuilt(_pre(X, weights).clamp(min=0), weights) + torch.einsum("nd,ed->ne", X.double(), skip.double())
    torch.testing.assert_close(dictionary.decode(dictionary.encode(X), X).double(), expected, rtol=1e-4, atol=1e-4)


def test_equal_to_the_class_that_saelens_opens_them_with(tmp_path: Path) -> None:
    """Its mwhanna loader gives `W_enc` transposed to an architecture called transcoder."""
    from sae_lens import SAE

    ours = read(recognise(_set(tmp_path / "set", 2))[1])
    weights = _transcoder(10)
    config = {"architecture": "transcoder", "d_in": D, "d_out": D, "d_sae": F, "apply_b_dec_to_input": False}
    sae = SAE.from_dict(config | {"dtype": "float32", "device": "cpu"})
    sae.load_state_dict(weights | {"W_enc": weights["W_enc"].T.contiguous()})
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(X), sae.encode(X), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(sae.encode(X), X), sae(X), rtol=1e-5, atol=1e-5)


def test_sets_without_a_configuration_are_known_by_their_training_log(tmp_path: Path) -> None:
    """The 14B set has only `wandb-config.yaml`, others `wanb-config.yaml`."""
    for number, name in enumerate(("wandb-config.yaml", "wanb-config.yaml")):
        folder = _set(tmp_path / str(number), 1)
        (folder / "config.yaml").unlink()
        assert recognise(folder) == []
        (folder / name).write_text("d_model:\n  value: 32\n")
        (place,) = recognise(folder)
        assert (place.hook, read(place).write_site.hook) == ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")


def test_files_can_be_named_by_the_configuration(tmp_path: Path) -> None:
    """In the form of today, a list of paths, and in the first one, whose decoders are transposed."""
    folder = _config(tmp_path / "set", transcoders=["a/first.safetensors", "b.safetensors"])
    (folder / "a").mkdir()
    save_file(_transcoder(0), folder / "a/first.safetensors")
    save_file(_transcoder(10), folder / "b.safetensors")
    new = [read(place) for place in recognise(folder)]
    older = [{"id": "x", "layer": layer, "filepath": f"old_{layer}.safetensors"} for layer in (1, 0)]
    _config(folder, model_kind=None, transcoders=older)
    for layer in (0, 1):
        weights = _transcoder(10 * layer)
        save_file(weights | {"W_dec": weights["W_dec"].T.contiguous()}, folder / f"old_{layer}.safetensors")
    old = [read(place) for place in recognise(folder)]
    assert [d.site.layer for d in old] == [d.site.layer for d in new] == [0, 1]
    for one, other in zip(new, old, strict=True):
        torch.testing.assert_close(one.decoder, other.decoder, rtol=0, atol=0)
        torch.testing.assert_close(one.encoder, other.encoder, rtol=0, atol=0)


def test_files_on_the_hub_are_named_and_not_fetched(tmp_path: Path) -> None:
    uri = "hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"
    folder = _config(tmp_path / "set", transcoders=[uri], feature_input_hook="ln2.hook_normalized")
    (place,) = recognise(folder)
    assert (place.weights, place.extra["uri"]) == ((), uri)
    with pytest.raises(DictionaryMissing, match=r"gemma-scope-2b-pt-transcoders.*--download"):
        read(place)
    # once it is here, it is read as what it is, at the site that circuit-tracer's configuration names
    weights = _transcoder(0)
    arrays: Any = {name: tensor.numpy() for name, tensor in weights.items()} | {
        "threshold": np.full(F, 0.1, np.float32)
    }
    arrays["W_enc"] = weights["W_enc"].T.contiguous().numpy()
    file = tmp_path / "hub/layer_0/width_16k/average_l0_76/params.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **arrays)
    dictionary = read(replace(place, weights=(file,)))
    assert (dictionary.site, dictionary.write_site) == (Site("ln2_normalized", 0), Site("mlp_out", 0))
    assert dictionary.form == "Gemma Scope through circuit-tracer"
    pre = _pre(X, weights)
    torch.testing.assert_close(dictionary.encode(X).double(), torch.where(pre > 0.1, pre, 0.0), rtol=1e-4, atol=1e-5)


# --- across layers ----------------------------------------------------------------------------------------------------


def _cross_layer(folder: Path, thresholds: bool = False, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """A cross-layer transcoder of as many layers as the tiny models have."""
    _config(folder, model_kind="cross_layer_transcoder", feature_input_hook="hook_resid_mid")
    made = []
    for i in range(LAYERS):
        weights = _transcoder(10 * i) | {"W_dec": _random(50 + i, F, LAYERS - i, D), "threshold": _random(i, F).abs()}
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        kept = ["W_enc", "b_enc", "b_dec"] + (["threshold"] if thresholds else [])
        save_file({f"{name}_{i}": weights[name] for name in kept}, folder / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": weights["W_dec"]}, folder / f"W_dec_{i}.safetensors")
        made.append(weights)
    return made


@pytest.mark.parametrize("thresholds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_a_cross_layer_transcoder_are_exact(
    tmp_path: Path, thresholds: bool, dtype: torch.dtype
) -> None:
    """The last layer too, which a loop of circuit-tracer's forgets."""
    made = _cross_layer(tmp_path / "clt", thresholds, dtype)
    places = recognise(tmp_path / "clt")
    assert len(places) == LAYERS
    for layer, (place, weights) in enumerate(zip(places, made, strict=True)):
        dictionary = read(place)
        assert (dictionary.source, dictionary.site) == (f"{layer}-clt", Site("resid_mid", layer))
        pre = _pre(X, weights)
        least = weights["threshold"].double() if thresholds else 0.0
        expected = torch.where(pre > least, pre, 0.0)
        torch.testing.assert_close(dictionary.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
        summed = sum(weights["W_dec"][:, n].float() for n in range(LAYERS - layer))
        torch.testing.assert_close(dictionary.decoder, summed)
        assert dictionary.notes[0] == SUMMED
        assert "cross-layer" in dictionary.form


def test_a_cross_layer_transcoder_without_its_decoders_is_an_error(tmp_path: Path) -> None:
    _cross_layer(tmp_path / "clt")
    (tmp_path / "clt/W_dec_2.safetensors").unlink()
    with pytest.raises(DictionaryMissing, match="W_dec_2"):
        read(recognise(tmp_path / "clt")[2])
    save_file({"W_dec_1": torch.zeros(F, D)}, tmp_path / "clt/W_dec_1.safetensors")
    with pytest.raises(DictionaryMismatch, match="layers"):
        read(recognise(tmp_path / "clt")[1])
    save_file({"W_dec_0": torch.full((F, LAYERS, D), torch.inf)}, tmp_path / "clt/W_dec_0.safetensors")
    with pytest.raises(DictionaryMismatch, match="not finite"):
        read(recognise(tmp_path / "clt")[0])


# --- hooks and refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "writes", "family"),
    [
        ("mlp.hook_in", "mlp.hook_out", "qwen3"),
        ("ln2.hook_normalized", "hook_mlp_out", "gemma2"),
        ("hook_resid_mid", "hook_mlp_out", "llama"),
        ("hook_mlp_in", "hook_mlp_out", "gpt_neox"),
    ],
)
def test_hooks_of_a_set_are_found_in_a_model(tmp_path: Path, reads: str, writes: str, family: str) -> None:
    model = open_model(tiny.save_model(tiny.model(family), tmp_path / "model"), "cpu")
    places = recognise(_set(tmp_path / "set", feature_input_hook=reads, feature_output_hook=writes))
    assert places
    for place in places:
        dictionary = read(place)
        model.check_site(dictionary.write_site)
        assert model.width(dictionary.site) == dictionary.d_in


@pytest.mark.parametrize(
    ("settings", "more", "match"),
    [
        ({"activation": "relu"}, {"activation_function.threshold": torch.ones(F)}, "says relu"),
        ({"activation": "jump_relu"}, {}, "no thresholds"),
        ({"activation": "softmax"}, {}, "softmax"),
        ({"activation": "topk"}, {}, "how many features"),
        ({"activation": "topk", "k": F + 1}, {}, "how many features"),
        ({"feature_input_hook": "hook_somewhere"}, {}, "not known"),
        ({"feature_input_hook": None}, {}, "does not say which hook"),
        ({}, {"W_dec": torch.zeros(F + 1, D)}, "W_dec"),
        ({}, {"activation_function.threshold": torch.ones(F - 1)}, "thresholds"),
        ({}, {"b_enc": torch.full((F,), torch.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, settings: dict[str, Any], more: dict[str, Tensor], match: str
) -> None:
    with pytest.raises(DictionaryMismatch, match=match):
        read(recognise(_set(tmp_path / "set", 1, more, **settings))[0])


def test_other_yaml_files_are_not_taken_for_it(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", 1)
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9))
    for text in ("", "[1, 2]", "model_kind: other", "a: [", "!!python/object/apply:os.system [true]", "[" * 9999, bomb):
        (folder / "config.yaml").write_text(text)
        assert recognise(folder) == []
    (folder / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert recognise(folder) == []


def test_a_damaged_layer_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", 1)
    (place,) = recognise(folder)
    file = folder / "layer_0.safetensors"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DictionaryMissing, match="Copy the file again"):
        read(place)


def test_a_layer_that_is_missing_is_said(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", 7)
    for layer in (1, 3, 4):
        (folder / f"layer_{layer}.safetensors").unlink()
    places = recognise(folder)
    assert [place.source for place in places] == [f"{layer}-transcoder" for layer in (0, 2, 5, 6)]
    for place in places:
        assert any(note.endswith("not in the folder: 1, 3–4") for note in read(place).notes)
    (alone,) = recognise(folder / "layer_2.safetensors")
    assert not any("not in the folder" in note for note in read(alone).notes)


def test_a_pointer_of_git_lfs_is_told_as_such(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", 1)
    (folder / "layer_0.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DictionaryMissing, match="git lfs pull"):
        read(recognise(folder)[0])
