"""Folding decoder norms and input scales gives SAELens' numbers, and reconstructs what it did before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.folding import fold_input_scale
from engine.encoding.identity import neurons
from engine.errors import BadRequest, DictionaryMismatch
from engine.formats.saelens import build, read_dictionary
from engine.formats.saelens_settings import read_settings
from engine.places import Place
from engine.sites import Site
from tests import tiny

FOLDABLE: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}),
    ("gated", {}),
    ("jumprelu", {}),
    ("topk", {"rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"rescale_acts_by_decoder_norm": True}),
    ("transcoder", {"d_out": 48}),
    ("skip_transcoder", {}),
    ("jumprelu_transcoder", {}),
    ("jumprelu_skip_transcoder", {}),
]
SCALABLE: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("gated", {}),
    ("jumprelu", {}),
    ("topk", {}),
    ("topk", {"rescale_acts_by_decoder_norm": True}),
    ("matching_pursuit", {}),
    ("skip_transcoder", {}),
]


def _inputs(rows: int = 40) -> Tensor:
    return torch.randn(rows, tiny.D_MODEL, generator=torch.Generator().manual_seed(5)) * 2 + 0.3


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("architecture", "settings"), FOLDABLE, ids=lambda c: str(c))
def test_folded_norms_are_those_of_saelens(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    from sae_lens import SAE

    folder = tiny.save_dictionary(tmp_path / "d", architecture, **settings)
    plain, x = read_dictionary(folder), _inputs()
    folded, theirs = plain.folded(), SAE.load_from_disk(folder, fold_W_dec_norm=True)
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x), theirs(x)
    _close(folded.encode(x), expected)
    _close(folded.decode(folded.encode(x), x), rebuilt)
    _close(folded.decode(folded.encode(x), x), plain.decode(plain.encode(x), x))
    norm = plain.decoder.norm(dim=1)
    scaled = plain.encode(x) if plain.rescale_by_decoder_norm else plain.encode(x) * norm
    _close(folded.encode(x), scaled)
    _close(folded.decoder.norm(dim=1), torch.ones(tiny.D_SAE))
    assert float((norm - 1).abs().max()) > 0.1
    some = torch.tensor([0, int(scaled.abs().amax(0).argmax())])
    _close(folded.feature_rows(x, some), scaled[:, some].T)


def test_folding_says_so_and_leaves_the_dictionary_alone(tmp_path: Path) -> None:
    plain = read_dictionary(tiny.save_dictionary(tmp_path / "d", "jumprelu"))
    before = plain.encoder.clone()
    folded = plain.folded()
    assert torch.equal(plain.encoder, before)
    assert folded.is_folded
    assert "f·‖W_dec‖" in folded.formula
    assert any("folded" in note for note in folded.notes)
    assert any("not unit norm" in note for note in plain.notes)
    assert not any("not unit norm" in note for note in folded.notes)
    assert folded.folded() is folded


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("topk", "8 strongest"),
        ("abstopk", "8 strongest"),
        ("matching_pursuit", "matching pursuit encodes"),
        ("temporal", "temporal encodes"),
    ],
)
def test_what_cannot_be_folded_is_refused_as_saelens_refuses_it(tmp_path: Path, architecture: str, why: str) -> None:
    from sae_lens import SAE

    folder = tiny.save_dictionary(tmp_path / "d", architecture)
    with pytest.raises(NotImplementedError):
        SAE.load_from_disk(folder, fold_W_dec_norm=True)
    with pytest.raises(BadRequest, match=why) as refused:
        read_dictionary(folder).folded()
    assert refused.value.remedy


def test_a_decoder_row_of_zeros_does_no_harm(tmp_path: Path) -> None:
    plain = read_dictionary(tiny.save_dictionary(tmp_path / "d", "topk", rescale_acts_by_decoder_norm=True))
    plain.decoder[3] = 0
    x = _inputs()
    for dictionary in (plain, plain.folded()):
        rebuilt = dictionary.decode(dictionary.encode(x), x)
        assert rebuilt.isfinite().all()
        assert dictionary.encode(x)[:, 3].abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated"])
def test_activations_times_norm_are_those_of_the_folded_dictionary(tmp_path: Path, kind: str) -> None:
    """A dictionary whose format wants f·‖W_dec‖ says so with a setting, whatever its kind."""
    plain, x = read_dictionary(tiny.save_dictionary(tmp_path / "d", kind)), _inputs()
    rescaled = read_dictionary(tmp_path / "d")
    rescaled.rescale_by_decoder_norm = True
    _close(rescaled.encode(x), plain.folded().encode(x))
    _close(rescaled.folded().encode(x), plain.folded().encode(x))
    _close(rescaled.decode(rescaled.encode(x), x), plain.decode(plain.encode(x), x))
    features = torch.tensor([1, 2, 5])
    _close(rescaled.feature_rows(x, features), rescaled.encode(x)[:, features].T)
    _close(rescaled.activation_of(x[:3], features), rescaled.encode(x[:3])[torch.arange(3), features])


# --- a scale of the input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "settings"), SCALABLE, ids=lambda c: str(c))
def test_a_scale_of_the_input_is_folded_as_saelens_does(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    from sae_lens import SAE

    settings = settings | {"normalize_activations": "expected_average_only_in"}
    folder = tiny.save_dictionary(tmp_path / "d", architecture, **settings)
    with pytest.raises(DictionaryMismatch, match="not folded"):
        read_dictionary(folder)
    theirs, x, factor = SAE.load_from_disk(folder), _inputs(), 0.37
    theirs.fold_activation_norm_scaling_factor(factor)
    ours = _built(Place("saelens", folder, extra={"norm_scaling_factor": factor}))
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x), theirs(x)
    assert (expected > 0).any()
    _close(ours.encode(x), expected)
    _close(ours.decode(ours.encode(x), x), rebuilt)
    assert ours.normalisation == "none"
    assert any("0.37" in note for note in ours.notes)


def _built(place: Place) -> Dictionary:
    from safetensors.torch import load_file

    return build(place, read_settings(place.path), load_file(place.path / "sae_weights.safetensors"), "")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_no_scale_is_refused(tmp_path: Path, factor: float) -> None:
    plain = read_dictionary(tiny.save_dictionary(tmp_path / "d", "standard"))
    with pytest.raises(DictionaryMismatch, match="scaled by"):
        fold_input_scale(plain, factor)


def test_a_temporal_dictionary_absorbs_no_scale(tmp_path: Path) -> None:
    plain = read_dictionary(tiny.save_dictionary(tmp_path / "d", "temporal"))
    with pytest.raises(DictionaryMismatch, match="temporal"):
        fold_input_scale(plain, 2.0)


def test_neurons_are_folded_already() -> None:
    raw = neurons(Site("mlp_post", 1), 6, source="1-mlp-neurons", folder=Path("."))
    assert raw.folded() is raw
