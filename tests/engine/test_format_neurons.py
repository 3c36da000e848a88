"""Raw neurons: the activations are what the model holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import BadRequest, DictionaryMismatch
from engine.formats.neurons import places_for, read
from engine.loading import open_model
from engine.model import LanguageModel
from engine.sites import Site
from tests import tiny

IDS = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return open_model(tiny.save_model(tiny.model("llama"), tmp_path / "model"), "cpu")


def test_a_kind_is_a_dictionary_per_layer(model: LanguageModel) -> None:
    places = places_for(model, "mlp_post")
    assert [place.source for place in places] == [f"{layer}-neurons" for layer in range(tiny.LAYERS)]
    assert [place.hook for place in places] == [f"blocks.{layer}.mlp.hook_post" for layer in range(tiny.LAYERS)]
    assert all(place.extra["width"] == model.config.intermediate_size for place in places)
    assert all(place.neuronpedia is None and place.weights == () for place in places)


def test_activations_are_what_enters_the_last_matrix_of_the_mlp(model: LanguageModel) -> None:
    held: list[torch.Tensor] = []
    model.hf.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: held.append(args[0][0]))
    with torch.no_grad():
        model.hf(IDS)
    dictionary = read(places_for(model, "mlp_post")[2])
    assert (dictionary.d_in, dictionary.d_sae) == (model.config.intermediate_size,) * 2
    assert (held[0] < 0).any()
    torch.testing.assert_close(dictionary.encode(held[0]), held[0], rtol=0, atol=0)
    torch.testing.assert_close(dictionary.decode(held[0], held[0]), held[0], rtol=0, atol=0)
    torch.testing.assert_close(dictionary.feature_rows(held[0], torch.tensor([3, 9])), held[0][:, [3, 9]].T)
    assert not dictionary.subtract_b_dec
    assert dictionary.kind == "identity"


@pytest.mark.parametrize(
    ("wanted", "site", "source"),
    [
        ("blocks.3.mlp.hook_post", Site("mlp_post", 3), "3-neurons"),
        ("blocks.1.hook_resid_post", Site("resid_post", 1), "1-resid_post-neurons"),
        ("blocks.1.attn.hook_z", Site("hook_z", 1), "1-hook_z-neurons"),
        ("embed", Site("embed", 0), "e-neurons"),
        ("hook_embed", Site("embed", 0), "e-neurons"),
    ],
)
def test_one_hook_is_one_dictionary(model: LanguageModel, wanted: str, site: Site, source: str) -> None:
    (place,) = places_for(model, wanted)
    dictionary = read(place)
    assert (dictionary.site, dictionary.write_site, dictionary.source) == (site, site, source)
    assert dictionary.d_in == model.width(site)


def test_attention_heads_are_counted_together(model: LanguageModel) -> None:
    assert [place.extra["width"] for place in places_for(model, "hook_z")] == [tiny.D_MODEL] * tiny.LAYERS


def test_what_a_model_has_not_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="mlp_pots"):
        places_for(model, "mlp_pots")
    with pytest.raises(BadRequest, match="not known"):
        places_for(model, "blocks.1.mlp.hook_pots")
    with pytest.raises(DictionaryMismatch, match="has 4 layers"):
        places_for(model, "blocks.4.mlp.hook_post")
    parallel = open_model(tiny.save_model(tiny.model("gpt_neox"), tmp_path / "parallel"), "cpu")
    with pytest.raises(DictionaryMismatch, match="hook_resid_mid"):
        places_for(parallel, "resid_mid")


@pytest.mark.parametrize("width", [None, 0, -1, 1 << 30, "64"])
def test_a_place_without_a_width_is_refused(model: LanguageModel, width: object) -> None:
    place = places_for(model, "mlp_post")[0]
    with pytest.raises(DictionaryMismatch, match="width"):
        read(replace(place, extra={"width": width}))
