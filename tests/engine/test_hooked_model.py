"""A model that exists only as a TransformerLens checkpoint, against HookedTransformer itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch, ModelMissing
from engine.headless import Headless
from engine.hooked_model import HookedModel
from engine.job import Job
from engine.loading import open_model
from engine.opening import check_fit
from engine.protocol import FeatureRef, FeaturesFound, Intervention, Open, Run, Steer, Steered
from engine.sites import Site
from tests import tiny

WIDTH, HIDDEN = 32, 64
CONFIG: dict[str, Any] = {
    "n_layers": 1, "d_model": WIDTH, "d_mlp": HIDDEN, "d_head": 8, "n_heads": 4, "n_ctx": 64,
    "d_vocab": tiny.VOCABULARY, "act_fn": "gelu", "attn_only": False, "normalization": "LN",
    "tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits", "shortformer_pos": False, "lr": 0.001, "seed": 10,
}  # fmt: skip


def reference(**changes: Any) -> Any:
    """A random HookedTransformer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        keys = ("n_layers", "d_model", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn")
        settings = {key: CONFIG[key] for key in keys} | changes
        built = HookedTransformer(HookedTransformerConfig(**settings, normalization_type="LN", device="cpu", seed=0))
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return built.eval().requires_grad_(False)


def save(hooked: Any, folder: Path, **changes: Any) -> Path:
    """As the author of these models saved them: buffers of an older TransformerLens included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    state = dict(hooked.state_dict())
    state |= {"blocks.0.attn.mask": torch.ones(64, 64, dtype=torch.bool), "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
    torch.save(state, folder / "model_final.pth")
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    return folder


@pytest.fixture(scope="module")
def hooked() -> Any:
    return reference()


@pytest.fixture(scope="module")
def folder(hooked: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(hooked, tmp_path_factory.mktemp("hooked") / "gelu-1l")


@pytest.fixture(scope="module")
def model(folder: Path) -> HookedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_model(folder, "cpu")
    assert isinstance(opened, HookedModel)
    return opened


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


HOOKS = ("hook_embed", "blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.mlp.hook_post",
         "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post")  # fmt: skip


def test_activations_and_logits_are_those_of_hooked_transformer(hooked: Any, model: HookedModel, ids: Tensor) -> None:
    from engine.sites import parse_hook

    logits, cache = hooked.run_with_cache(ids, return_type="logits")
    sites = [parse_hook(hook) for hook in HOOKS]
    caught = model.capture(ids, sites, Job())
    for site in sites:
        torch.testing.assert_close(caught[site], cache[site.hook], msg=site.hook)
    z = model.capture(ids, [Site("hook_z", 0)])[Site("hook_z", 0)]
    torch.testing.assert_close(z, cache["blocks.0.attn.hook_z"].flatten(2))
    hidden = model.hidden(ids)
    torch.testing.assert_close(hidden, cache["ln_final.hook_normalized"] * hooked.ln_final.w + hooked.ln_final.b)
    torch.testing.assert_close(model.logits(hidden[0]), logits[0])
    torch.testing.assert_close(model.unembedding, hooked.W_U.T)
    assert (model.layers, model.d_model, model.context, model.caches) == (1, WIDTH, 64, False)
    assert model.width(Site("mlp_post", 0)) == HIDDEN
    assert model.end_ids == {257}
    assert model.tokenizer.bos_id == 256


@pytest.mark.parametrize("hook", ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_mid", "blocks.0.attn.hook_z"])
def test_what_a_visitor_returns_flows_on(hooked: Any, model: HookedModel, ids: Tensor, hook: str) -> None:
    from engine.sites import parse_hook

    wanted = hooked.run_with_hooks(ids, fwd_hooks=[(hook, lambda x, hook: x * 1.5 + 0.25)])
    with model.visiting({parse_hook(hook): lambda x: x * 1.5 + 0.25}):
        found = model.logits(model.hidden(ids)[1])
    torch.testing.assert_close(found, wanted[1])
    assert not torch.allclose(found, hooked(ids)[1], atol=1e-2)


def test_places_it_does_not_have_are_refused(model: HookedModel) -> None:
    with pytest.raises(DictionaryMismatch, match="gelu-1l has 1 layers"):
        model.check_site(Site("mlp_post", 1))


def test_a_dictionary_of_the_notebook_reads_the_neurons(hooked: Any, model: HookedModel, ids: Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    encoder, decoder = (torch.randn(48, HIDDEN, generator=generator) for _ in range(2))
    b_enc, b_dec = torch.randn(48, generator=generator), torch.randn(HIDDEN, generator=generator)
    site = Site("mlp_post", 0)
    dictionary = Dictionary(
        "run1", site, site, "standard", "standard", encoder, decoder, b_enc, b_dec, Path("."), "",
    )  # fmt: skip
    check_fit(model, dictionary)
    _, cache = hooked.run_with_cache(ids)
    x = cache["blocks.0.mlp.hook_post"][0]
    found = dictionary.encode(model.capture(ids, [site])[site][0])
    torch.testing.assert_close(found, ((x - b_dec) @ encoder.T + b_enc).relu())


def test_it_opens_reads_and_steers_like_any_model(hooked: Any, folder: Path, tmp_path: Path) -> None:
    own = tiny.save_dictionary(
        tmp_path / "0-mlp", "standard", hook="blocks.0.mlp.hook_post", d_in=HIDDEN, metadata={"prepend_bos": True}
    )
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=str(folder), dictionaries=(str(own),)))
    events = headless.ask(Run(id=2, prompt="in the end"))
    result = next(event.result for event in events if isinstance(event, FeaturesFound))
    assert result.tokens[0].id == 256, "the dictionary's BOS rule"
    assert result.features
    feature = FeatureRef("0-mlp", 5)
    steer = Steer(id=3, prompt="in the end", interventions=(Intervention(feature, 6.0),), tokens=5, temperature=0.0)
    steered = next(event.result for event in headless.ask(steer) if isinstance(event, Steered))
    direction = headless.engine.opened.dictionaries["0-mlp"].decoder[5]
    for arm, change in (("plain", None), ("steered", direction)):
        wanted = _greedy(hooked, [t.id for t in result.tokens], change, 5)
        assert list(getattr(steered, arm).ids) == wanted, arm


def _greedy(hooked: Any, ids: list[int], direction: Tensor | None, count: int) -> list[int]:
    """What HookedTransformer says with 6·direction added from the last token of the prompt on."""
    length = len(ids)

    def add(x: Tensor, hook: Any) -> Tensor:
        new = x.clone()
        if direction is not None:
            new[:, length - 1 :] += 6.0 * direction
        return new

    hooks = [("blocks.0.mlp.hook_post", add)]
    text = list(ids)
    for _ in range(count):
        text.append(int(hooked.run_with_hooks(torch.tensor([text]), fwd_hooks=hooks)[0, -1].argmax()))
        if text[-1] == 257:
            break
    return text[length:]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_vocab": 10**12}, "where 1000000000000 × 32 was expected"),
        ({"n_ctx": 10**12}, "where 1000000000000 × 32 was expected"),
        ({"n_layers": 10**9}, r"lacks blocks\.1\.attn\.W_Q"),
        ({"d_mlp": 65}, "where 32 × 65 was expected"),
        ({"d_head": None}, "gives no d_head"),
        ({"act_fn": "nonsense"}, "cannot be opened"),
        ({"architecture": "neel-solu-old"}, "neel-solu-old checkpoint"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(
    hooked: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelMissing, match=said):
        open_model(save(hooked, tmp_path / "m", **changes), "cpu")


def test_older_checkpoints_without_biases_open(hooked: Any, tmp_path: Path, ids: Tensor) -> None:
    folder = save(hooked, tmp_path / "m")
    state = torch.load(folder / "model_final.pth", weights_only=True)
    bias = state.pop("unembed.b_U")
    torch.save(state, folder / "model_final.pth")
    model = open_model(folder, "cpu")
    torch.testing.assert_close(model.logits(model.hidden(ids)[0]), hooked(ids)[0] - bias)
    del state["blocks.0.mlp.W_out"]
    torch.save(state, folder / "model_final.pth")
    with pytest.raises(ModelMissing, match=r"lacks blocks\.0\.mlp\.W_out"):
        open_model(folder, "cpu")


def test_nothing_in_the_pickle_runs(hooked: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    folder = save(hooked, tmp_path / "m")
    torch.save({"embed.W_E": Evil()}, folder / "model_final.pth")
    with pytest.raises(ModelMissing, match="nothing was run"):
        open_model(folder, "cpu")
    assert not (tmp_path / "ran").exists()


def test_the_tokenizer_comes_from_its_own_repository(
    hooked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = save(hooked, tmp_path / "m")
    snapshot = tmp_path / "hub" / "models--NeelNanda--gpt-neox-tokenizer-digits" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "special_tokens_map.json").unlink()
    (folder / "tokenizer.json").rename(snapshot / "elsewhere.json")
    with pytest.raises(ModelMissing, match="gpt-neox-tokenizer-digits of m is not on this machine"):
        open_model(folder, "cpu")
    (snapshot / "elsewhere.json").rename(snapshot / "tokenizer.json")
    assert open_model(folder, "cpu").tokenizer.encode("the", bos=False) == tiny.tokenizer().encode("the").ids
