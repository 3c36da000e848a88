"""Every kind of dictionary in what reads and steers with it: right, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.circuits.basis import DictionaryBasis
from engine.dictionary import Dictionary
from engine.encoding import describing
from engine.encoding.identity import neurons
from engine.encoding.kinds import KINDS
from engine.errors import BadRequest, DictionaryMismatch
from engine.formats.find import find
from engine.formats.read import read
from engine.formats.saelens import build, read_dictionary
from engine.formats.saelens_settings import read_settings
from engine.places import Place
from engine.reading import Reading
from engine.results import FeatureRef
from engine.sites import Site
from engine.steering.group import Group, Resolved
from engine.steering_results import Intervention
from tests import tiny

SAELENS = sorted(KINDS.keys() - {"identity"})
CPU = torch.device("cpu")


def _inputs(rows: int = 12) -> Tensor:
    return torch.randn(rows, tiny.D_MODEL, generator=torch.Generator().manual_seed(5)) * 2 + 0.3


def _of_kind(kind: str, folder: Path, **settings: Any) -> Dictionary:
    if kind == "identity":
        return neurons(Site("resid_post", 1), tiny.D_MODEL, source="raw", folder=folder)
    return read_dictionary(tiny.save_dictionary(folder / "d", kind, **settings))


@pytest.fixture(params=sorted(KINDS))
def dictionary(request: pytest.FixtureRequest, tmp_path: Path) -> Dictionary:
    return _of_kind(request.param, tmp_path)


def test_batchtopk_is_jumprelu_with_one_threshold_below_zero_too() -> None:
    """dictionary_learning keeps f where f > θ, f = relu(pre); θ is −1 where it was never set."""
    x = _inputs(50)
    drawn = torch.randn(tiny.D_SAE, tiny.D_MODEL, generator=torch.Generator().manual_seed(1))
    pre = x @ drawn.T
    for theta in (-1.0, 0.0, 2.5):
        f = pre.relu()
        site, nothing = Site("resid_post", 1), torch.zeros(tiny.D_SAE)
        made = Dictionary(
            "d", site, site, "jumprelu", "batchtopk", drawn, drawn, nothing, torch.zeros(tiny.D_MODEL), Path("."), "",
            threshold=torch.full((tiny.D_SAE,), theta),
        )  # fmt: skip
        torch.testing.assert_close(made.encode(x), f * (f > theta))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("trained", ["batchtopk", "matryoshka_batchtopk"])
def test_batchtopk_saved_while_training_opens_as_what_it_becomes(tmp_path: Path, trained: str, rescale: bool) -> None:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    training_class, config_class = get_sae_training_class(trained)
    options: dict[str, Any] = {"d_in": tiny.D_MODEL, "d_sae": tiny.D_SAE, "rescale_acts_by_decoder_norm": rescale}
    options |= {"matryoshka_widths": [16, tiny.D_SAE]} if "matryoshka" in trained else {}
    torch.manual_seed(0)
    training = training_class(config_class(**options, k=4, metadata=SAEMetadata(hook_name="blocks.1.hook_resid_post")))
    training.W_dec.data *= torch.linspace(0.5, 3, tiny.D_SAE)[:, None] * 10
    training.topk_threshold.fill_(0.4 if not rescale else 0.6)
    training.save_model(tmp_path / "a")
    training.save_inference_model(tmp_path / "b")
    ours, theirs, x = read_dictionary(tmp_path / "a"), SAE.load_from_disk(tmp_path / "b"), _inputs()
    with torch.no_grad():
        expected, rebuilt = theirs.encode(x), theirs(x)
    assert 0 < (expected > 0).float().mean() < 0.5
    torch.testing.assert_close(ours.encode(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(ours.encode(x), x), rebuilt, rtol=1e-5, atol=1e-5)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(12,), (5, 1, 6)])
def test_a_reading_is_what_encode_gives_of_the_whole_prompt(dictionary: Dictionary, pieces: tuple[int, ...]) -> None:
    x = _inputs()
    reading = Reading(dictionary, len(x), keep=5, skip=1, sums=True)
    for piece in torch.split(x, list(pieces)):
        reading.add(piece)
    f = dictionary.encode(x, whole=True)
    sizes = f.abs() if dictionary.signed else f
    strongest = sizes.topk(5, dim=1)
    torch.testing.assert_close(reading.top_values.abs(), strongest.values)
    torch.testing.assert_close(reading.top_values, f.gather(1, reading.top_indices))
    torch.testing.assert_close(reading.maximum, sizes[1:].amax(0))
    torch.testing.assert_close(reading.aggregate("sum"), sizes[1:].sum(0))
    assert float(reading.l0()) == pytest.approx(float((f[1:] != 0).float().sum(1).mean()))
    some = torch.tensor([0, 7, int(sizes.amax(0).argmax())])
    torch.testing.assert_close(reading.rows(some), f[:, some].T, rtol=1e-5, atol=1e-5)
    error = (x - dictionary.decode(f, x))[1:].square().sum()
    explained = 1 - error / (x[1:] - x[1:].mean(0)).square().sum()
    assert float(reading.explained_variance()) == pytest.approx(float(explained), abs=1e-4)
    assert reading.filled == len(x)


def test_tokens_of_a_temporal_dictionary_depend_on_those_before(tmp_path: Path) -> None:
    temporal, x = _of_kind("temporal", tmp_path), _inputs()
    whole = temporal.encode(x, whole=True)
    torch.testing.assert_close(temporal.encode(x[:7], whole=True), whole[:7], rtol=1e-5, atol=1e-6)
    assert (temporal.encode(x[5:], whole=True) - whole[5:]).abs().max() > 1e-3
    for ask in (
        lambda: temporal.encode(x),
        lambda: temporal.encode_sparse(x),
        lambda: temporal.feature_rows(x, torch.tensor([1])),
        lambda: temporal.activation_of(x[:1], torch.tensor([1])),
    ):
        with pytest.raises(BadRequest, match="whole prompts") as refused:
            ask()
        assert "add" in refused.value.remedy


# --- steering ---------------------------------------------------------------------------------------------------------


def _delta(dictionary: Dictionary, kind: Any, x: Tensor, index: int) -> Tensor | None:
    member = Resolved(
        0, Intervention(FeatureRef(dictionary.source, index), 2.0, kind), 2.0, dictionary.decoder[index],
        None, None, torch.ones(len(x), dtype=torch.bool), 0, float("inf"),
    )  # fmt: skip
    return Group(dictionary, [member], True).delta(x, x, 0)


def test_a_direction_can_be_added_whatever_the_kind(dictionary: Dictionary) -> None:
    x = _inputs()
    added = _delta(dictionary, "add", x, 3)
    assert added is not None
    torch.testing.assert_close(added, 2 * dictionary.decoder[3].expand(len(x), -1))


def test_setting_a_value_is_right_or_refused(dictionary: Dictionary) -> None:
    x = _inputs()
    if dictionary.whole_prompt:
        with pytest.raises(BadRequest, match="temporal"):
            _delta(dictionary, "clamp", x, 3)
        return
    f = dictionary.encode(x)
    index = int(f.abs().amax(0).argmax())
    clamped = _delta(dictionary, "clamp", x, index)
    assert clamped is not None
    torch.testing.assert_close(clamped, (2 - f[:, index, None]) * dictionary.decoder[index], rtol=1e-4, atol=1e-4)


# --- circuits ---------------------------------------------------------------------------------------------------------


def test_a_basis_takes_a_site_apart_and_has_gradients(dictionary: Dictionary) -> None:
    if dictionary.whole_prompt:
        with pytest.raises(BadRequest, match="circuits"):
            DictionaryBasis(dictionary)
        return
    dictionary.to(CPU, torch.float64)
    basis, x = DictionaryBasis(dictionary), _inputs().double()
    codes = basis.codes(x)
    rebuilt = basis.decode(codes, *x.shape) + basis.constant(x)
    torch.testing.assert_close(rebuilt, dictionary.decode(dictionary.encode(x), x))
    picked = codes.values.abs().argsort(descending=True)[:6]
    rows, features = codes.rows[picked], codes.features[picked]
    here = x[rows].requires_grad_()
    on = torch.ones(len(rows), dtype=torch.bool)
    values = basis.coefficient(here, features, on)
    torch.testing.assert_close(values, codes.values[picked])
    gradient = torch.autograd.grad(values.sum(), here)[0]
    step = 1e-6 * torch.randn(here.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        moved = basis.activation(here + step, features)
    torch.testing.assert_close(moved - values.detach(), (gradient * step).sum(1), rtol=1e-3, atol=1e-10)
    whole = x.clone().requires_grad_()
    through = torch.autograd.grad(basis.reconstruct(whole).sum(), whole)[0]
    assert through.abs().max() > 1e-3


# --- weights ----------------------------------------------------------------------------------------------------------


def test_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    for kind in ("matching_pursuit", "temporal", "identity"):
        tied = _of_kind(kind, tmp_path / kind)
        assert tied.encoder is tied.decoder
        assert tied.to(CPU, torch.float64).encoder is tied.decoder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_beside_a_model_of_another_precision(dictionary: Dictionary, dtype: torch.dtype) -> None:
    x = _inputs()
    expected = dictionary.encode(x, whole=True)
    norms = dictionary.decoder_norm.clone()
    moved = dictionary.to(CPU, dtype)
    assert moved.precision == torch.promote_types(dtype, torch.float32)
    assert moved.decoder_norm.dtype == moved.precision
    torch.testing.assert_close(moved.decoder_norm.float(), norms)
    torch.testing.assert_close(moved.encode(x, whole=True).float(), expected, rtol=1e-4, atol=1e-4)


# --- words ------------------------------------------------------------------------------------------------------------


def test_every_kind_says_what_it_computes(dictionary: Dictionary) -> None:
    assert "{" not in dictionary.formula
    says = {
        "abstopk": "the 8 of",
        "matching_pursuit": "at most 32 steps, until less than 0.01 is left",
        "temporal": "top 8 of relu(λ",
        "identity": "x",
    }
    assert says.get(dictionary.kind, "W_enc") in dictionary.formula
    if dictionary.signed and dictionary.kind != "identity":
        assert any("negative" in note for note in dictionary.notes)


def test_norms_of_decoder_rows_are_told_unless_they_are_one(tmp_path: Path) -> None:
    odd = read_dictionary(tiny.save_dictionary(tmp_path / "a", "standard"))
    low, high = (float(norm) for norm in odd.decoder.norm(dim=1).aminmax())
    assert odd.notes == (f"decoder rows are not unit norm ({low:.2g} to {high:.2g})",)
    file = tmp_path / "a" / "sae_weights.safetensors"
    state = load_file(file)
    state["W_dec"] = state["W_dec"] / state["W_dec"].norm(dim=1, keepdim=True) * 1.005
    save_file(state, file)
    assert read_dictionary(tmp_path / "a").notes == ()


def test_centring_and_normalising_are_noted(tmp_path: Path) -> None:
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    told = read_dictionary(
        tiny.save_dictionary(tmp_path / "a", "standard", metadata=metadata, normalize_activations="layer_norm")
    ).notes
    assert "mean over d_model subtracted first (center_writing_weights)" in told
    assert any("layer_norm" in note for note in told)


# --- what others hand over --------------------------------------------------------------------------------------------


def test_a_place_fills_in_what_settings_leave_open(tmp_path: Path) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "skip_transcoder")
    place = Place("saelens", folder, "1-tc", "blocks.1.hook_resid_mid", "gpt2-small/1-tc")
    flat = {"architecture": "skip_transcoder", "d_in": 32, "d_sae": 64, "d_out": 32, "model_name": "gpt2-small"}
    made = build(place, flat, load_file(folder / "sae_weights.safetensors"), "abc")
    assert (made.source, made.sha256, made.site.hook) == ("1-tc", "abc", "blocks.1.hook_resid_mid")
    assert made.write_site == made.site
    assert made.notes == ("does not say where it writes: taken as blocks.1.hook_resid_mid",)
    assert made.metadata["neuronpedia_id"] == "gpt2-small/1-tc"
    assert made.skip is not None
    assert "W_skip·x is added to the reconstruction" in read_dictionary(folder).notes
    own = {**flat, "hook_name": "blocks.2.hook_resid_mid", "hook_name_out": "blocks.2.hook_mlp_out"}
    made = build(place, own, load_file(folder / "sae_weights.safetensors"), "")
    assert (made.site.hook, made.write_site.hook) == ("blocks.2.hook_resid_mid", "blocks.2.hook_mlp_out")


def test_norms_of_decoder_rows_are_computed_once_a_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, odd_norms = [], describing._odd_norms

    def counted(decoder: Tensor) -> str | None:
        asked.append(len(decoder))
        return odd_norms(decoder)

    monkeypatch.setattr(describing, "_odd_norms", counted)
    (place,) = find(tiny.save_dictionary(tmp_path / "d", "standard"))
    for reading in (lambda: read(place), lambda: read_dictionary(place.path)):
        asked.clear()
        assert any("not unit norm" in note for note in reading().notes)
        assert asked == [tiny.D_SAE]


def test_a_skip_connection_is_kept_where_the_architecture_does_not_name_it(tmp_path: Path) -> None:
    folder, x = tiny.save_dictionary(tmp_path / "d", "skip_transcoder"), _inputs()
    settings = read_settings(folder)
    named = build(Place("saelens", folder), settings, load_file(folder / "sae_weights.safetensors"), "")
    plain = build(
        Place("saelens", folder), settings | {"architecture": "transcoder"},
        load_file(folder / "sae_weights.safetensors"), "",
    )  # fmt: skip
    torch.testing.assert_close(plain.decode(plain.encode(x), x), named.decode(named.encode(x), x))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"b_dec_out": torch.ones(tiny.D_MODEL)}, "holds b_dec_out"),
        ({"scaling_factor": torch.full((tiny.D_SAE,), 2.0)}, "scaling_factor other than 1"),
        ({"W_skip": torch.ones(tiny.D_MODEL, tiny.D_MODEL)}, "holds W_skip"),
        ({"b_enc": torch.ones(tiny.D_SAE + 1)}, "b_enc is 65 where 64 is expected"),
        ({"b_dec": torch.full((tiny.D_MODEL,), float("nan"))}, "not finite"),
        ({"W_enc": torch.ones(tiny.D_MODEL + 1, tiny.D_SAE)}, "W_dec is 64 × 32 where 64 × 33"),
        ({"W_dec": torch.ones(tiny.D_SAE, tiny.D_MODEL, dtype=torch.int32)}, "no floating-point"),
    ],
    ids=lambda c: "" if isinstance(c, dict) else c,
)
def test_tensors_that_do_not_belong_are_named(tmp_path: Path, changed: dict[str, Tensor], words: str) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    file = folder / "sae_weights.safetensors"
    save_file(load_file(file) | changed, file)
    with pytest.raises(DictionaryMismatch, match=words):
        read_dictionary(folder)


def test_scaling_factors_of_one_mean_nothing(tmp_path: Path) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "standard")
    expected = read_dictionary(folder).encode(_inputs())
    file = folder / "sae_weights.safetensors"
    save_file(load_file(file) | {"scaling_factor": torch.ones(tiny.D_SAE)}, file)
    assert torch.equal(read_dictionary(folder).encode(_inputs()), expected)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_heads": 5}, "5 heads"),
        ({"n_attn_layers": 3}, r"attn_layers\.1"),
        ({"n_attn_layers": "many"}, "no number of layers"),
        ({"bottleneck_factor": 4}, "q_target"),
        ({"kval_topk": -2}, "kval_topk"),
        ({"normalize_activations": "expected_average_only_in"}, "not folded"),
    ],
)
def test_settings_of_a_temporal_dictionary_that_do_not_fit_are_refused(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    folder = tiny.save_dictionary(tmp_path / "d", "temporal")
    state = load_file(folder / "sae_weights.safetensors")
    with pytest.raises(DictionaryMismatch, match=words):
        build(Place("saelens", folder), read_settings(folder) | changed, state, "")
