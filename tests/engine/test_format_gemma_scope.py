"""Folders laid out as Gemma Scope and Gemma Scope 2 are published, with random weights."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats import npz
from engine.formats.gemma_scope import SUMMED, read
from engine.formats.gemma_scope_folders import recognise
from engine.loading import open_model
from engine.sites import parse_hook
from tests import tiny

D, F = tiny.D_MODEL, 48
X = torch.randn(20, D, generator=torch.Generator().manual_seed(2))


def _weights(width: int = D, out: int = D, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": random(width, F) * 0.3,
        "W_dec": random(F, out) * 0.3,
        "b_enc": random(F) * 0.2,
        "b_dec": random(out),
        "threshold": random(F).abs() * 0.8,
    }


def _first(root: Path, path: str, weights: dict[str, Tensor]) -> Path:
    """A folder of Gemma Scope."""
    folder = root / path
    folder.mkdir(parents=True)
    arrays: Any = {name: tensor.numpy() for name, tensor in weights.items()}
    np.savez(folder / "params.npz", **arrays)
    return folder


def _second(
    root: Path, path: str, config: dict[str, Any] | None, weights: dict[str, Tensor], file: str = "params"
) -> Path:
    """A folder of Gemma Scope 2: lower-case names."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name.lower() if name != "affine_skip_connection" else name: t for name, t in weights.items()}
    save_file(stored, folder / f"{file}.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def _jumprelu(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Of the paper, in float64: z where z = xW + b > θ, else 0."""
    z = torch.einsum("nd,df->nf", x.double(), w["W_enc"].double()) + w["b_enc"].double()
    return torch.where(z > w["threshold"].double(), z, torch.zeros((), dtype=torch.float64)).clamp(min=0)


# --- Gemma Scope ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "layer", "hook", "source"),
    [
        ("gemma-scope-2b-pt-res", "layer_12", "blocks.12.hook_resid_post", "res"),
        ("gemma-scope-2b-pt-mlp", "layer_3", "blocks.3.hook_mlp_out", "mlp"),
        ("gemma-scope-9b-it-res", "layer_9", "blocks.9.hook_resid_post", "res"),
        ("gemma-scope-2b-pt-att", "layer_0", "blocks.0.attn.hook_z", "att"),
        ("models--google--gemma-scope-2b-pt-att/snapshots/0f3a", "layer_5", "blocks.5.attn.hook_z", "att"),
    ],
)
def test_a_dictionary_is_read_at_the_site_its_repository_names(
    tmp_path: Path, root: str, layer: str, hook: str, source: str
) -> None:
    weights = _weights()
    folder = _first(tmp_path / root, f"{layer}/width_16k/average_l0_82", weights)
    (place,) = recognise(folder)
    assert place.weights == (folder / "params.npz",)
    assert (place.hook, place.source) == (hook, f"{source}-{layer}-width_16k-average_l0_82")
    dictionary = read(place)
    assert dictionary.site == dictionary.write_site == parse_hook(hook)
    assert (dictionary.architecture, dictionary.form) == ("jumprelu", "Gemma Scope")
    assert dictionary.metadata["prepend_bos"] is True
    expected = _jumprelu(X, weights)
    assert 0 < (expected > 0).float().mean() < 0.9
    torch.testing.assert_close(dictionary.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
    rebuilt = expected @ weights["W_dec"].double() + weights["b_dec"].double()
    torch.testing.assert_close(dictionary.decode(dictionary.encode(X), X).double(), rebuilt, rtol=1e-4, atol=1e-4)


def test_the_model_is_named_by_the_repository(tmp_path: Path) -> None:
    for root, model in {"gemma-scope-2b-pt-res": "gemma-2-2b", "gemma-scope-9b-it-res": "gemma-2-9b-it"}.items():
        (place,) = recognise(_first(tmp_path / root, "layer_1/width_16k/average_l0_5", _weights()))
        assert read(place).metadata["model_name"] == model


def test_a_transcoder_reads_inside_the_norm_and_writes_after_the_mlp(tmp_path: Path) -> None:
    weights = _weights()
    folder = _first(tmp_path / "gemma-scope-2b-pt-transcoders", "layer_7/width_16k/average_l0_111", weights)
    (place,) = recognise(folder)
    dictionary = read(place)
    assert dictionary.site.hook == "blocks.7.ln2.hook_normalized"
    assert dictionary.write_site.hook == "blocks.7.hook_mlp_out"
    assert dictionary.architecture == "jumprelu_transcoder"
    assert not dictionary.subtract_b_dec
    torch.testing.assert_close(dictionary.encode(X).double(), _jumprelu(X, weights), rtol=1e-4, atol=1e-5)


def test_the_embedding_dictionary_reads_embeddings_that_gemma_has_scaled(tmp_path: Path) -> None:
    """It was trained on rows of the embedding matrix; `hook_embed` holds them times √d."""
    weights = _weights()
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6", weights)
    (place,) = recognise(folder)
    dictionary = read(place)
    assert dictionary.site.hook == "hook_embed"
    scale = D**0.5
    expected = _jumprelu(X, weights)
    torch.testing.assert_close(dictionary.encode(X * scale).double(), expected, rtol=1e-4, atol=1e-5)
    rebuilt = (expected @ weights["W_dec"].double() + weights["b_dec"].double()) * scale
    torch.testing.assert_close(
        dictionary.decode(dictionary.encode(X * scale), X).double(), rebuilt, rtol=1e-4, atol=1e-3
    )
    assert any("b_dec too" in note for note in dictionary.notes)


def test_every_width_and_l0_is_a_dictionary_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "gemma-scope-2b-pt-res"
    paths = ["layer_2/width_16k/average_l0_82", "layer_2/width_16k/average_l0_141", "layer_10/width_65k/average_l0_70"]
    places = [place for path in paths for place in recognise(_first(root, path, _weights()))]
    assert [place.source for place in places] == [f"res-{path.replace('/', '-')}" for path in paths]
    assert recognise(root) == []
    assert recognise(root / "layer_2") == []


def test_a_folder_that_names_no_site_needs_a_hook(tmp_path: Path) -> None:
    folder = _first(tmp_path / "mine", "layer_4/width_16k/average_l0_9", _weights())
    (place,) = recognise(folder)
    assert place.hook is None
    with pytest.raises(DictionaryMismatch, match=r"which hook it reads.*FOLDER@HOOK"):
        read(place)
    assert read(replace(place, hook="blocks.4.hook_mlp_out")).write_site.hook == "blocks.4.hook_mlp_out"
    transcoder = read(replace(place, hook="blocks.4.ln2.hook_normalized"))
    assert (transcoder.is_transcoder, transcoder.write_site.hook) == (True, "blocks.4.hook_mlp_out")
    with pytest.raises(DictionaryMismatch, match="not known"):
        read(replace(place, hook="blocks.4.hook_elsewhere"))


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "layer_4/width_16k/average_l0_9", _weights())
    assert recognise(folder / "params.npz") == recognise(folder)


@pytest.mark.parametrize("folder", ["res", "att", "transcoders"])
def test_equal_to_saelens(tmp_path: Path, folder: str) -> None:
    """Its configuration and its class, given the arrays as its loader gives them."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as theirs

    name = "layer_2/width_16k/average_l0_76"
    weights = _weights()
    (place,) = recognise(_first(tmp_path / f"gemma-scope-2b-pt-{folder}", name, weights))
    ours = read(place)
    load = (
        theirs.get_gemma_2_transcoder_config_from_hf if folder == "transcoders" else theirs.get_gemma_2_config_from_hf
    )
    sizes = {"d_in": D, "d_sae": F, "normalize_activations": "none"} | ({"d_out": D} if folder == "transcoders" else {})
    config = theirs.handle_config_defaulting(
        load(f"google/gemma-scope-2b-pt-{folder}", name, "cpu", cfg_overrides=sizes)
    )
    sae = SAE.from_dict(config)
    sae.load_state_dict(weights)
    assert ours.site.hook == sae.cfg.metadata.hook_name
    if folder == "transcoders":
        assert ours.write_site.hook == sae.cfg.metadata.hook_name_out
    if ours.site.kind == "hook_z":
        sae.turn_off_forward_pass_hook_z_reshaping()
    with torch.no_grad():
        encoded = sae.encode(X)
        torch.testing.assert_close(ours.encode(X), encoded, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(encoded, X), sae.decode(encoded), rtol=1e-5, atol=1e-5)


# --- Gemma Scope 2 ----------------------------------------------------------------------------------------------------

_IN, _OUT = "model.layers.6.pre_feedforward_layernorm.output", "model.layers.6.post_feedforward_layernorm.output"
_SITES = {
    "resid_post": ("model.layers.6.output", "blocks.6.hook_resid_post"),
    "attn_out": ("model.layers.6.self_attn.o_proj.input", "blocks.6.attn.hook_z"),
    "mlp_out": (_OUT, "blocks.6.hook_mlp_out"),
    "transcoder": (_IN, "blocks.6.mlp.hook_in"),
}


@pytest.mark.parametrize("told_by", ["config", "folder"])
@pytest.mark.parametrize("kind", list(_SITES))
def test_the_second_scope_says_its_site_in_its_configuration_or_by_its_folder(
    tmp_path: Path, kind: str, told_by: str
) -> None:
    weights = _weights()
    theirs, hook = _SITES[kind]
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": theirs}
    root, path = tmp_path / "gemma-scope-2-270m-pt", f"{kind}_all/layer_6_width_16k_l0_small"
    if told_by == "config":
        root, path = tmp_path / "anywhere", "mine"
    folder = _second(root, path, config if told_by == "config" else None, weights)
    (place,) = recognise(folder)
    dictionary = read(place)
    assert dictionary.site.hook == hook
    assert dictionary.write_site.hook == ("blocks.6.hook_mlp_out" if kind == "transcoder" else hook)
    assert dictionary.is_transcoder == (kind == "transcoder")
    assert dictionary.form == "Gemma Scope 2"
    if told_by == "config":
        assert dictionary.metadata["model_name"] == "google/gemma-3-270m"
    else:
        assert place.source == f"{kind}_all-layer_6_width_16k_l0_small"
    torch.testing.assert_close(dictionary.encode(X).double(), _jumprelu(X, weights), rtol=1e-4, atol=1e-5)


def test_an_affine_transcoder_adds_its_skip_connection(tmp_path: Path) -> None:
    """Stored [d_in, d_out], of which SAELens keeps the transpose."""
    from sae_lens import SAE

    weights = _weights()
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(7))
    config = {
        "architecture": "jump_relu",
        "affine_connection": True,
        "hf_hook_point_in": _IN,
        "hf_hook_point_out": _OUT,
    }
    path = "transcoder/layer_6_width_16k_l0_big_affine"
    (place,) = recognise(_second(tmp_path, path, config, weights | {"affine_skip_connection": skip}))
    ours = read(place)
    assert ours.architecture == "jumprelu_skip_transcoder"
    expected = _jumprelu(X, weights)
    rebuilt = expected @ weights["W_dec"].double() + weights["b_dec"].double() + X.double() @ skip.double()
    torch.testing.assert_close(ours.decode(ours.encode(X), X).double(), rebuilt, rtol=1e-4, atol=1e-4)
    sae = SAE.from_dict({"architecture": "jumprelu_skip_transcoder", "d_in": D, "d_sae": F, "d_out": D,
                         "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False})  # fmt: skip
    sae.load_state_dict(weights | {"W_skip": skip.T.contiguous()})
    with torch.no_grad():
        torch.testing.assert_close(ours.decode(ours.encode(X), X), sae(X), rtol=1e-5, atol=1e-5)


def test_a_promised_skip_connection_that_is_absent_is_an_error(tmp_path: Path) -> None:
    config = {"architecture": "jump_relu", "affine_connection": True, "hf_hook_point_in": _IN}
    (place,) = recognise(_second(tmp_path, "transcoder/layer_6_width_16k_l0_big_affine", config, _weights()))
    with pytest.raises(DictionaryMismatch, match="affine_skip_connection"):
        read(place)


def test_a_cross_layer_transcoder_is_a_dictionary_per_layer(tmp_path: Path) -> None:
    """Its w_dec is [F, layers, d]; what is summed is said."""
    weights = {layer: _weights(seed=layer) | {"W_dec": torch.randn(F, 3, D)} for layer in (0, 1, 2, 10)}
    for layer, held in weights.items():
        folder = _second(tmp_path, "clt/width_262k_l0_medium", None, held, f"params_layer_{layer}")
    places = recognise(folder)
    assert [place.hook for place in places] == [f"blocks.{layer}.mlp.hook_in" for layer in weights]
    assert len({place.source for place in places}) == 4
    for place, held in zip(places, weights.values(), strict=True):
        dictionary = read(place)
        assert SUMMED in dictionary.notes
        torch.testing.assert_close(dictionary.encode(X).double(), _jumprelu(X, held), rtol=1e-4, atol=1e-5)
        summed = held["W_dec"][:, 0] + held["W_dec"][:, 1] + held["W_dec"][:, 2]
        torch.testing.assert_close(dictionary.decoder, summed)


def test_the_saelens_name_of_the_transcoders_hook_is_told(tmp_path: Path) -> None:
    (place,) = recognise(_second(tmp_path, "transcoder/layer_6_width_16k_l0_big", None, _weights()))
    assert any("hook_mlp_in" in note for note in read(place).notes)


def test_the_transcoder_is_given_what_enters_the_mlp_of_a_gemma_3(tmp_path: Path) -> None:
    model = open_model(tiny.save_model(tiny.model("gemma3"), tmp_path / "model"), "cpu")
    ids = torch.randint(0, 256, (1, 10), generator=torch.Generator().manual_seed(3))
    (place,) = recognise(_second(tmp_path, "transcoder/layer_2_width_16k_l0_big", None, _weights()))
    site = read(place).site
    caught: list[Tensor] = []
    norm = model.hf.model.layers[2].pre_feedforward_layernorm  # as hf_hook_point_in of the published ones says
    norm.register_forward_hook(lambda _, args, output: caught.append(output))
    found = model.capture(ids, [site])[site]
    torch.testing.assert_close(found, caught[0], rtol=0, atol=0)


# --- files that are not what they seem --------------------------------------------------------------------------------


def _place_of(folder: Path) -> Any:
    (place,) = recognise(folder)
    return place


def test_a_pickle_in_an_archive_is_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "gemma-scope-2b-pt-res"
    folder = _first(root, "layer_1/width_16k/average_l0_9", _weights())
    with zipfile.ZipFile(folder / "params.npz", "a") as archive:
        held = io.BytesIO()
        np.save(held, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        archive.writestr("extra.npy", held.getvalue())
    with pytest.raises(DictionaryMismatch, match=r"extra\.npy"):
        read(_place_of(folder))


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "gemma-scope-2b-pt-res"
    folder = _first(root, "layer_1/width_16k/average_l0_9", _weights())
    file = folder / "params.npz"
    data = file.read_bytes()
    claimed = data.replace(b"'shape': (32, 48), }", b"'shape': (32, 9999)}")
    assert claimed != data
    file.write_bytes(claimed)
    with pytest.raises((DictionaryMismatch, DictionaryMissing)):
        read(_place_of(folder))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_9"
    folder.mkdir(parents=True)
    arrays: Any = {name: tensor.numpy() for name, tensor in _weights().items()}
    np.savez_compressed(folder / "params.npz", **arrays)
    with pytest.raises(DictionaryMismatch, match="compressed"):
        read(_place_of(folder))


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_that_was_cut_off_is_an_error_with_a_remedy(tmp_path: Path, size: int) -> None:
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_9", _weights())
    file = folder / "params.npz"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DictionaryMissing, match="Copy the file again"):
        read(_place_of(folder))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"threshold": torch.zeros(F - 1)}, "threshold"),
        ({"b_dec": torch.zeros(D + 1)}, "b_dec"),
        ({"W_enc": torch.full((D, F), float("nan"))}, "not finite"),
        ({"scaling_factor": torch.full((F,), 2.0)}, "scaling factor"),
        ({"W_dec": torch.zeros(F, D + 3)}, "transcoder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Tensor], match: str) -> None:
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_9", _weights() | change)
    with pytest.raises(DictionaryMismatch, match=match):
        read(_place_of(folder))


def test_a_scaling_factor_of_one_changes_nothing(tmp_path: Path) -> None:
    held = _weights() | {"scaling_factor": torch.ones(F)}
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_9", held)
    torch.testing.assert_close(read(_place_of(folder)).encode(X).double(), _jumprelu(X, held), rtol=1e-4, atol=1e-5)


def test_a_dictionary_without_thresholds_is_none_of_gemma_scope(tmp_path: Path) -> None:
    held = {name: tensor for name, tensor in _weights().items() if name != "threshold"}
    folder = _first(tmp_path / "gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_9", held)
    with pytest.raises(DictionaryMismatch, match="lacks threshold"):
        read(_place_of(folder))
    config = {"architecture": "topk", "hf_hook_point_in": "model.layers.6.output"}
    with pytest.raises(DictionaryMismatch, match="topk"):
        read(_place_of(_second(tmp_path, "resid_post/layer_6_width_16k_l0_big", config, _weights())))


def test_bfloat16_that_numpy_saved_as_two_bytes_is_read(tmp_path: Path) -> None:
    numbers = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.savez(tmp_path / "params.npz", W_enc=numbers.view(torch.uint16).numpy().view("V2"))
    found = npz.load(tmp_path / "params.npz").tensor("W_enc", 3, 5)
    torch.testing.assert_close(found, numbers.float(), rtol=0, atol=0)


def test_an_array_of_objects_is_refused_unopened(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}, None], object))
    with pytest.raises(DictionaryMismatch, match=r"W_enc\.npy in .* holds Python objects.*nothing was run"):
        npz.load(tmp_path / "params.npz")
