"""Our reading of a SAELens folder computes what SAELens computes, for every architecture we read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.saelens import read_dictionary
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("standard", {"normalize_activations": "constant_norm_rescale"}),
    ("topk", {}),
    ("topk", {"apply_b_dec_to_input": False, "k": 3}),
    ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
    ("topk", {"normalize_activations": "layer_norm"}),
    ("abstopk", {}),
    ("abstopk", {"rescale_acts_by_decoder_norm": True, "normalize_activations": "constant_norm_rescale"}),
    ("jumprelu", {}),
    ("jumprelu", {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}),
    ("gated", {}),
    ("gated", {"apply_b_dec_to_input": False, "normalize_activations": "constant_norm_rescale"}),
    ("transcoder", {}),
    ("transcoder", {"d_out": 48}),
    ("transcoder", {"normalize_activations": "layer_norm"}),
    ("skip_transcoder", {}),
    ("skip_transcoder", {"normalize_activations": "constant_norm_rescale"}),
    ("jumprelu_transcoder", {}),
    ("jumprelu_skip_transcoder", {"d_out": 48}),
    ("matching_pursuit", {}),
    ("matching_pursuit", {"residual_threshold": 6.0}),
    ("matching_pursuit", {"residual_threshold": 0.0, "max_iterations": 5, "apply_b_dec_to_input": False}),
    ("matching_pursuit", {"stop_on_duplicate_support": False, "residual_threshold": 3.0, "max_iterations": 40}),
    ("matching_pursuit", {"normalize_activations": "layer_norm"}),
]
TEMPORAL: list[dict[str, Any]] = [
    {},
    {"sae_diff_type": "relu"},
    {"kval_topk": None},
    {"n_attn_layers": 2, "tied_weights": False},
    {"tied_weights": False, "apply_b_dec_to_input": False},
    {"apply_b_dec_to_input": False},
    {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.4},
    {"normalize_activations": "layer_norm"},
]


OLD = {
    "d_in": tiny.D_MODEL,
    "d_sae": tiny.D_SAE,
    "dtype": "torch.float32",
    "device": "cpu",
    "model_name": "gpt2-small",
    "hook_point": HOOK,
    "hook_point_layer": 1,
    "hook_point_head_index": None,
}
"""What a configuration from before version 6 says, in one level."""


def _inputs(rows: int = 40, width: int = tiny.D_MODEL) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3)) * 2 + 0.3


def _theirs(folder: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder, dtype="float32")


def test_every_architecture_of_saelens_is_held_equal() -> None:
    from sae_lens.registry import SAE_CLASS_REGISTRY

    assert {architecture for architecture, _ in CASES} | {"temporal"} == set(SAE_CLASS_REGISTRY)


@pytest.mark.parametrize(("architecture", "settings"), CASES, ids=lambda c: str(c))
def test_encode_and_decode_equal_saelens(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", architecture, **settings)
    theirs = _theirs(folder)
    ours = read_dictionary(folder)
    x = _inputs()
    with torch.no_grad():
        expected = theirs.encode(x)
        reconstruction = theirs(x)
    activations = ours.encode(x)
    assert (expected != 0).any()
    assert (expected == 0).any()
    assert bool((expected < 0).any()) == ours.signed
    torch.testing.assert_close(activations, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(activations, x), reconstruction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode_active(activations, x), reconstruction, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", TEMPORAL, ids=lambda c: str(c))
def test_temporal_dictionaries_equal_saelens_on_a_whole_prompt(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "temporal", **settings)
    theirs, ours, x = _theirs(folder), read_dictionary(folder), _inputs()
    with torch.no_grad():
        expected, predicted = theirs.encode_with_predictions(x[None])
        novel, reconstruction = theirs.decode(expected)[0], theirs(x[None])[0]
    assert (expected > 0).any()
    assert predicted.abs().max() > 1e-3
    activations = ours.encode(x, whole=True)
    torch.testing.assert_close(activations, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.decode(activations, x), reconstruction, rtol=1e-4, atol=1e-4)
    if "normalize_activations" not in settings:  # what undoes it is known from x alone
        torch.testing.assert_close(ours.decode(activations), novel, rtol=1e-5, atol=1e-5)
    if ours.selects:
        sparse = ours.encode_sparse(x, whole=True)
        torch.testing.assert_close(ours.densify(sparse), activations)
        torch.testing.assert_close(ours.decode_sparse(sparse, x), reconstruction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["standard", "topk", "abstopk", "jumprelu", "gated", "matching_pursuit"])
def test_head_outputs_are_read_flat(tmp_path: Path, architecture: str) -> None:
    hook = "blocks.1.attn.hook_z"
    folder = tiny.save_dictionary(tmp_path / "d", architecture, hook=hook, reshape_activations="hook_z")
    theirs, ours, x = _theirs(folder), read_dictionary(folder), _inputs()
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x.view(-1, 4, 8)), theirs(x.view(-1, 4, 8))
    torch.testing.assert_close(ours.encode(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(ours.encode(x), x), rebuilt.flatten(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "matching_pursuit"])
def test_other_precisions_on_disk_compute_in_float32(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", architecture)
    file = folder / "sae_weights.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(file).items()}, file)
    theirs, ours, x = _theirs(folder), read_dictionary(folder), _inputs()
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x), theirs(x)
    assert ours.encode(x).dtype == torch.float32
    torch.testing.assert_close(ours.encode(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(ours.encode(x), x), rebuilt, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "settings"), CASES, ids=lambda c: str(c))
def test_a_few_features_are_columns_of_encode(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    ours = read_dictionary(tiny.save_dictionary(tmp_path / "d", architecture, **settings))
    x = _inputs()
    activations = ours.encode(x)
    some = torch.tensor([0, int(activations.amax(0).argmax()), tiny.D_SAE - 1])
    torch.testing.assert_close(ours.feature_rows(x, some), activations[:, some].T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
def test_sparse_and_dense_agree(tmp_path: Path, rescale: bool) -> None:
    ours = read_dictionary(tiny.save_dictionary(tmp_path / "d", "topk", rescale_acts_by_decoder_norm=rescale))
    x = _inputs()
    sparse = ours.encode_sparse(x)
    torch.testing.assert_close(ours.densify(sparse), ours.encode(x))
    dense = ours.encode(x)
    for few in (ours.decode_sparse(sparse, x), ours.decode_active(dense, x)):
        torch.testing.assert_close(few, ours.decode(dense, x), rtol=1e-5, atol=1e-5)
    dense[1] = 0
    torch.testing.assert_close(ours.decode_active(dense, x), ours.decode(dense, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", ["batchtopk", "matryoshka_batchtopk", "jumprelu", "topk", "gated", "standard"])
def test_what_training_classes_save_opens(tmp_path: Path, trained: str) -> None:
    """BatchTopK and Matryoshka exist only while training; their inference form is JumpReLU."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    training_class, config_class = get_sae_training_class(trained)
    options: dict[str, Any] = {"d_in": tiny.D_MODEL, "d_sae": tiny.D_SAE}
    if "topk" in trained:
        options["k"] = 4
    if "matryoshka" in trained:
        options["matryoshka_widths"] = [16, tiny.D_SAE]
    torch.manual_seed(0)
    training = training_class(config_class(**options, metadata=SAEMetadata(hook_name=HOOK)))
    training.save_inference_model(tmp_path / "d")
    ours, theirs = read_dictionary(tmp_path / "d"), SAE.load_from_disk(tmp_path / "d")
    with torch.no_grad():
        expected = theirs.encode(_inputs())
    torch.testing.assert_close(ours.encode(_inputs()), expected, rtol=1e-5, atol=1e-5)


def test_a_configuration_from_before_version_6_opens(tmp_path: Path) -> None:
    from sae_lens import SAE

    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    flat = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(OLD | flat))
    ours, theirs = read_dictionary(folder), SAE.load_from_disk(folder)
    assert (ours.kind, ours.k, ours.site.hook, ours.metadata["prepend_bos"]) == ("topk", 5, HOOK, True)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(_inputs()), theirs.encode(_inputs()), rtol=1e-5, atol=1e-5)


def test_centring_is_honoured_and_said(tmp_path: Path) -> None:
    """res-jb was trained on a model with centred writing weights: x loses its mean before the encoder."""
    kwargs = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    centred = read_dictionary(tiny.save_dictionary(tmp_path / "c", "standard", metadata=kwargs))
    plain = read_dictionary(tiny.save_dictionary(tmp_path / "p", "standard"))
    x = _inputs()
    mean = x.mean(1, keepdim=True)
    torch.testing.assert_close(centred.encode(x), plain.encode(x - mean))
    torch.testing.assert_close(centred.decode(centred.encode(x), x), plain.decode(plain.encode(x - mean)) + mean)
    assert "centred" in centred.formula


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"normalize_activations": "expected_average_only_in"}, DictionaryMismatch, "not folded"),
        ({"normalize_activations": "covariance_whitening"}, DictionaryMismatch, "whitening is not folded"),
        ({"normalize_activations": "constant_scalar_rescale"}, DictionaryMismatch, "not known"),
        ({"architecture": "temporal"}, DictionaryMismatch, "lacks attn_layers"),
        ({"architecture": "skip_transcoder", "apply_b_dec_to_input": False}, DictionaryMismatch, "lacks W_skip"),
        ({"architecture": "matching_pursuit"}, DictionaryMismatch, "holds W_enc, b_enc"),
        ({"architecture": "crosscoder"}, DictionaryMismatch, "crosscoder"),
        ({"architecture": "topk"}, DictionaryMismatch, "how many features"),
        ({"architecture": "topk", "k": 0}, DictionaryMismatch, "no number of features"),
        ({"reshape_activations": "hook_q"}, DictionaryMismatch, "hook_q"),
        ({"architecture": "transcoder", "apply_b_dec_to_input": True}, DictionaryMismatch, "subtract b_dec"),
        ({"metadata": {"hook_name": "blocks.1.hook_nothing"}}, DictionaryMismatch, "hook_nothing"),
        ({"metadata": {"hook_name": HOOK, "hook_head_index": 2}}, DictionaryMismatch, "head"),
        ({"metadata": {"sae_lens_version": "6"}}, DictionaryMismatch, "which hook"),
        ({"architecture": "jumprelu"}, DictionaryMismatch, "threshold"),
    ],
)
def test_what_would_give_wrong_numbers_is_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    config = json.loads((folder / "cfg.json").read_text()) | change
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(error, match=words):
        read_dictionary(folder)


@pytest.mark.parametrize(
    ("architecture", "flat"),
    [
        ("standard", {"activation_fn_str": "relu"}),
        ("standard", {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}),
        ("topk", {"architecture": "topk", "activation_fn_kwargs": {"k": 3}}),
        ("gated", {"architecture": "gated", "normalize_activations": "constant_norm_rescale"}),
        ("jumprelu", {"architecture": "jumprelu", "normalize_activations": None}),
    ],
)
def test_flat_configurations_mean_what_saelens_makes_of_them(
    tmp_path: Path, architecture: str, flat: dict[str, Any]
) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", architecture)
    (folder / "cfg.json").write_text(json.dumps(OLD | flat))
    theirs, ours, x = _theirs(folder), read_dictionary(folder), _inputs()
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x), theirs(x)
    torch.testing.assert_close(ours.encode(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(ours.encode(x), x), rebuilt, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"normalize_activations": True}, "not folded"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"activation_fn_str": "topk"}, "activation function topk"),
        ({"hook_point_head_index": 3}, "single attention head"),
    ],
)
def test_flat_configurations_that_saelens_would_misread_are_refused(
    tmp_path: Path, flat: dict[str, Any], words: str
) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    (folder / "cfg.json").write_text(json.dumps(OLD | flat))
    with pytest.raises(DictionaryMismatch, match=words):
        read_dictionary(folder)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DictionaryMissing, match="no folder"):
        read_dictionary(tmp_path / "nowhere")
    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    (folder / "cfg.json").write_text("{")
    with pytest.raises(DictionaryMissing, match="not valid JSON"):
        read_dictionary(folder)
    folder = tiny.save_dictionary(tmp_path / "e", "standard")
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DictionaryMissing, match="cannot be read"):
        read_dictionary(folder)
    header = b'{"W_dec":{"dtype":"F6_E2M3","shape":[2,4],"data_offsets":[0,6]}}'  # a type that torch does not have
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    with pytest.raises(DictionaryMissing, match="cannot be read"):
        read_dictionary(folder)
    weights.unlink()
    with pytest.raises(DictionaryMissing, match=r"sae_weights\.safetensors"):
        read_dictionary(folder)
