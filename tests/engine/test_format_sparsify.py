"""sparsify's folders, a hookpoint each, against its formulas written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.find import find
from engine.formats.read import read
from engine.places import Place
from tests import writers
from tests.writers import D_MODEL, D_SAE, K, State

X = writers.numbers(99)(64, D_MODEL) * 2


def opened(folder: Path) -> Dictionary:
    (place,) = find(folder)
    return read(place)


def activations(state: State, x: Tensor) -> Tensor:
    f = (torch.einsum("nd,fd->nf", x, state["encoder.weight"]) + state["encoder.bias"]).clamp(min=0)
    least = f.sort(dim=1, descending=True).values[:, K - 1 : K]
    return torch.where(f >= least, f, 0.0)


def agrees(dictionary: Dictionary, state: State, x: Tensor, skip: Tensor | None = None) -> None:
    """`x` is what the encoder gets, X what the model holds."""
    expected = activations(state, x)
    assert float((expected > 0).float().mean()) > 0.9 * K / D_SAE
    torch.testing.assert_close(dictionary.encode(X), expected, rtol=1e-5, atol=1e-5)
    out = torch.einsum("nf,fd->nd", expected, state["W_dec"]) + state["b_dec"]
    if skip is not None:
        out += torch.einsum("nd,ed->ne", X, skip)
    torch.testing.assert_close(dictionary.decode(expected, X), out, rtol=1e-5, atol=1e-4)


def test_an_autoencoder(tmp_path: Path) -> None:
    state = writers.save_sparsify(tmp_path / "layers.3")
    dictionary = opened(tmp_path / "layers.3")
    agrees(dictionary, state, X - state["b_dec"])
    assert (dictionary.form, dictionary.source, dictionary.k) == ("sparsify", "layers.3", K)
    assert dictionary.site.hook == dictionary.write_site.hook == "blocks.3.hook_resid_post"


@pytest.mark.parametrize("skips", [False, True])
def test_a_transcoder_reads_the_input_and_writes_the_output(tmp_path: Path, skips: bool) -> None:
    state = writers.save_sparsify(tmp_path / "layers.3.mlp", transcode=True, skip_connection=skips)
    dictionary = opened(tmp_path)
    agrees(dictionary, state, X, state.get("W_skip"))
    assert (dictionary.site.hook, dictionary.write_site.hook) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    assert dictionary.is_transcoder


@pytest.mark.parametrize("run", [{"transcode": True, "sae": {"k": K}}, {"sae": {"transcode": True}}])
def test_a_transcoder_of_before_it_said_so_takes_b_dec_from_its_input(tmp_path: Path, run: dict[str, Any]) -> None:
    state = writers.save_sparsify(tmp_path / "layers.3.mlp")
    (tmp_path / "config.json").write_text(json.dumps(run))
    dictionary = opened(tmp_path)
    agrees(dictionary, state, X - state["b_dec"])
    assert dictionary.is_transcoder
    assert any("b_dec is taken from its input" in note for note in dictionary.notes)


def test_several_hookpoints_and_seeds_are_several_places(tmp_path: Path) -> None:
    for name in ("layers.10", "layers.2", "embed_in", "layers.2.attention", "layers.2.mlp/seed0", "layers.2.mlp/seed1"):
        writers.save_sparsify(tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "ctx_len": 256}))
    found = {place.source: read(place) for place in find(tmp_path)}
    assert {source: dictionary.site.hook for source, dictionary in found.items()} == {
        "embed_in": "hook_embed",
        "layers.2": "blocks.2.hook_resid_post",
        "layers.2.attention": "blocks.2.hook_attn_out",
        "layers.2.mlp-seed0": "blocks.2.hook_mlp_out",
        "layers.2.mlp-seed1": "blocks.2.hook_mlp_out",
        "layers.10": "blocks.10.hook_resid_post",
    }
    assert list(found)[-1] == "layers.10"
    assert {d.metadata["model_name"] for d in found.values()} == {"EleutherAI/pythia-70m"}


@pytest.mark.parametrize(
    ("name", "model", "hook"),
    [
        ("h.5", "gpt2", "blocks.5.hook_resid_post"),
        ("transformer.h.5.attn", "gpt2", "blocks.5.hook_attn_out"),
        ("model.layers.5.self_attn", "meta-llama/Llama-3.2-1B", "blocks.5.hook_attn_out"),
        ("layers.5.mlp", "google/gemma-2-2b", "blocks.5.mlp.hook_out"),  # hook_mlp_out is after a further norm there
        ("layers.5", "google/gemma-2-2b", "blocks.5.hook_resid_post"),
        ("embed_tokens", "meta-llama/Llama-3.2-1B", "hook_embed"),
    ],
)
def test_the_hook_is_the_output_of_the_module(tmp_path: Path, name: str, model: str, hook: str) -> None:
    writers.save_sparsify(tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    assert opened(tmp_path).site.hook == hook


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("layers.3.mlp.act", {}, "no module whose output is a site"),
        ("lm_head", {}, "no module whose output is a site"),
        ("layers.3.attention", {"transcode": True}, "no module whose input and output"),
        ("layers.3", {"activation": "groupmax"}, "groupmax"),
        ("layers.3", {"signed": True}, "signed"),
        ("layers.3", {"k": None}, "does not say how many"),
        ("layers.3", {"k": D_SAE + 1}, "says 41 for how many"),
        ("layers.3", {"d_in": 768}, "says 768"),
        ("layers.3", {"num_latents": 0, "expansion_factor": 8}, "says 96"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, name: str, settings: dict[str, Any], says: str) -> None:
    writers.save_sparsify(tmp_path / name, **settings)
    with pytest.raises(DictionaryMismatch, match=says) as caught:
        opened(tmp_path)
    assert caught.value.remedy


def test_a_hook_that_was_asked_for(tmp_path: Path) -> None:
    writers.save_sparsify(tmp_path / "layers.3.mlp.act")
    (place,) = find(tmp_path)
    asked = Place(place.form, place.path, hook="blocks.3.mlp.hook_post")
    assert read(asked).site.hook == read(asked).write_site.hook == "blocks.3.mlp.hook_post"
    state = writers.save_sparsify(tmp_path / "layers.1.mlp", transcode=True)
    dictionary = read(Place("sparsify", tmp_path / "layers.1.mlp", hook="blocks.1.hook_resid_mid"))
    assert (dictionary.site.hook, dictionary.write_site.hook) == ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out")
    agrees(dictionary, state, X)


def test_half_precision_weights_are_read_as_they_are(tmp_path: Path) -> None:
    state = writers.save_sparsify(tmp_path / "layers.3", dtype=torch.bfloat16)
    dictionary = opened(tmp_path)
    assert dictionary.encoder.dtype == torch.float32
    agrees(dictionary, type(state)({k: v.float() for k, v in state.items()}), X - state["b_dec"].float())


def without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / "sae.safetensors")
        del state[name]
        save_file(state, folder / "sae.safetensors")

    return damage


def put(name: str, value: Tensor) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        save_file(load_file(folder / "sae.safetensors") | {name: value}, folder / "sae.safetensors")

    return damage


def cut(folder: Path) -> None:
    file = folder / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (without("W_dec"), DictionaryMismatch, r"lacks W_dec, which a dictionary of sparsify needs"),
        (without("W_skip"), DictionaryMismatch, r"lacks W_skip"),
        (put("W_dec", torch.zeros(D_MODEL, D_SAE)), DictionaryMismatch, "12 × 40 where 40 × 12"),
        (put("b_dec", torch.full((D_MODEL,), torch.nan)), DictionaryMismatch, "not finite"),
        (put("encoder.bias", torch.zeros(D_SAE, dtype=torch.int32)), DictionaryMismatch, "floating-point"),
        (cut, DictionaryMissing, "cannot be read"),
        (lambda folder: (folder / "cfg.json").write_bytes(b"[" * 100_000), DictionaryMissing, r"cfg\.json"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], says: str) -> None:
    folder = tmp_path / "layers.3.mlp"
    writers.save_sparsify(folder, transcode=True, skip_connection=True)
    damage(folder)
    with pytest.raises(error, match=says):
        opened(tmp_path)


def test_equals_saelens_with_its_loader_put_right(tmp_path: Path) -> None:
    """SAELens 6.54 turns W_dec round, so that no file of sparsify opens, and would not take b_dec from the input."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting, sparsify_disk_loader

    writers.save_sparsify(tmp_path / "layers.3")
    settings, state = sparsify_disk_loader(tmp_path / "layers.3", cfg_overrides={"dtype": "float32"})
    if state["W_dec"].shape != (D_SAE, D_MODEL):
        state["W_dec"] = state["W_dec"].T.contiguous()
    theirs: Any = SAE.from_dict(handle_config_defaulting(settings | {"apply_b_dec_to_input": True}))
    theirs.load_state_dict(state)
    ours = opened(tmp_path)
    with torch.no_grad():
        expected = theirs.encode(X)
        torch.testing.assert_close(ours.encode(X), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(expected, X), theirs.decode(expected), rtol=1e-5, atol=1e-4)
    assert theirs.cfg.metadata.hook_name == ours.site.hook
