"""Every site of every architecture holds what TransformerLens says it holds: its Bridge and its HookedTransformer."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from engine import norms
from engine.architectures import FAMILIES
from engine.errors import DictionaryMismatch, ModelMissing
from engine.loading import open_model
from engine.model import LanguageModel
from engine.sites import Site, parse_hook
from tests import tiny
from tests.engine.hooked import FAMILIES as HOOKED
from tests.engine.hooked import hooked

FAMILY_NAMES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox")
IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(5))
PARALLEL = {"gpt_neox"}


def _open(tmp_path: Path, family: str) -> LanguageModel:
    return open_model(tiny.save_model(_uneven(tiny.model(family)), tmp_path / family), "cpu")


def _uneven(built: Any) -> Any:
    """The model with norm weights and biases that are not all alike, so that forgetting one would show."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return built


def _sites(model: LanguageModel, *layers: int) -> list[Site]:
    """Every site that the table has for a model, in these layers."""
    kinds = FAMILIES[model.hf.config.model_type].sites
    return [Site("embed", 0)] + [Site(kind, layer) for kind in kinds for layer in layers]


def _assert_equal(site: Site, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The same numbers but for rounding; heads may be flattened."""
    difference = (ours.reshape(2, 12, -1) - theirs.reshape(2, 12, -1)).abs().max().item()
    assert difference < 1e-4 * max(1.0, theirs.abs().max().item()), f"{site}: {difference}"


def _bridge_cache(model: LanguageModel, names: list[str]) -> dict[str, torch.Tensor]:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(model.folder), device="cpu")
    bridge.set_use_hook_mlp_in(True)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(IDS, names_filter=names)
    return {name: cache[name] for name in names}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_sites_equal_the_bridge(tmp_path: Path, family: str) -> None:
    model = _open(tmp_path, family)
    sites = _sites(model, 0, 2)
    if family in PARALLEL:
        assert not any(site.kind == "resid_mid" for site in sites)
    found = model.capture(IDS, sites)
    expected = _bridge_cache(model, [site.hook for site in sites])
    for site in sites:
        theirs = expected[site.hook]
        _assert_equal(site, found[site], theirs)


@pytest.mark.parametrize("family", HOOKED)
def test_sites_equal_hooked_transformer(family: str) -> None:
    """Unprocessed, as `from_pretrained_no_processing` gives it: what dictionaries of the field were made on."""
    built = _uneven(tiny.model(family))
    model = LanguageModel(built, None, family, Path())  # type: ignore[arg-type]
    theirs = hooked(family, built)
    entering: list[torch.Tensor] = []
    theirs.blocks[2].mlp.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    leaving: list[torch.Tensor] = []
    theirs.blocks[2].mlp.register_forward_hook(lambda _, args, output: leaving.append(output))
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(IDS)
        hidden = model.hidden(IDS)
    # HookedTransformer has no hooks of these two names; circuit-tracer puts them where the MLP begins and ends.
    expected = dict(cache.items()) | {"blocks.2.mlp.hook_in": entering[0], "blocks.2.mlp.hook_out": leaving[0]}
    sites = _sites(model, 2)
    found = model.capture(IDS, sites)
    for site in sites:
        _assert_equal(site, found[site], expected[site.hook])
    torch.testing.assert_close(
        model.logits(hidden.reshape(-1, tiny.D_MODEL)).reshape(logits.shape), logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3"])
@pytest.mark.parametrize("kind", ["ln1_normalized", "hook_mlp_in", "ln2_normalized", "mlp_in", "mlp_raw_out"])
def test_a_change_around_the_mlp_flows_on_as_in_hooked_transformer(family: str, kind: str) -> None:
    """The way into the MLP is a branch: what is changed there reaches the MLP and not the stream beside it."""
    built = _uneven(tiny.model(family))
    model = LanguageModel(built, None, family, Path())  # type: ignore[arg-type]
    push = torch.linspace(-1, 1, tiny.D_MODEL)
    site = Site(kind, 1)
    theirs = hooked(family, built)
    with torch.no_grad():
        if site.hook in theirs.hook_dict:
            theirs.add_hook(site.hook, lambda x, hook: x + push)
        elif kind == "mlp_in":
            theirs.blocks[1].mlp.register_forward_pre_hook(lambda _, args: (args[0] + push,))
        else:
            theirs.blocks[1].mlp.register_forward_hook(lambda _, args, output: output + push)
        expected = theirs(IDS)
        plain = model.logits(model.hidden(IDS).reshape(-1, tiny.D_MODEL)).reshape(expected.shape)
        with model.visiting({site: lambda x: x + push}):
            hidden = model.hidden(IDS)
    changed = model.logits(hidden.reshape(-1, tiny.D_MODEL)).reshape(expected.shape)
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    assert (changed - plain).abs().max() > 1e-3


def test_looking_inside_a_norm_changes_nothing(tmp_path: Path) -> None:
    model = _open(tmp_path, "gemma2")
    with torch.no_grad():
        before = model.hf(IDS).logits
        with model.visiting({Site("ln2_normalized", 1): lambda x: None}):
            torch.testing.assert_close(model.hf(IDS).logits, before, rtol=0, atol=0)


def test_a_norm_is_read_in_float32_beside_a_model_in_bfloat16() -> None:
    built = _uneven(tiny.model("llama"))
    exact = LanguageModel(built, None, "llama", Path()).capture(IDS, [Site("ln2_normalized", 0)])  # type: ignore[arg-type]
    rough = LanguageModel(built.to(torch.bfloat16), None, "llama", Path())  # type: ignore[arg-type]
    site = Site("ln2_normalized", 0)
    found = rough.capture(IDS, [site])[site]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact[site], rtol=0.05, atol=0.05)
    with rough.visiting({site: lambda x: x * 0.5}):
        assert rough.hidden(IDS).dtype == torch.bfloat16


def test_a_norm_of_another_kind_is_not_guessed_at() -> None:
    with pytest.raises(DictionaryMismatch, match="GroupNorm"):
        norms.check(torch.nn.GroupNorm(1, 4))


def test_a_gemma_with_images_has_the_sites_of_its_language_model(tmp_path: Path) -> None:
    model = _open(tmp_path, "gemma3_with_images")
    assert (model.layers, model.d_model) == (tiny.LAYERS, tiny.D_MODEL)
    with torch.no_grad():
        whole = model.hf(input_ids=IDS, output_hidden_states=True)
        hidden = model.hidden(IDS)
    torch.testing.assert_close(
        model.logits(hidden.reshape(-1, tiny.D_MODEL)).reshape(whole.logits.shape), whole.logits, rtol=1e-4, atol=1e-4
    )
    sites = [Site("embed", 0), Site("resid_post", 1)]
    found = model.capture(IDS, sites)
    for site, state in zip(sites, (0, 2), strict=True):
        torch.testing.assert_close(found[site], whole.hidden_states[state], rtol=1e-4, atol=1e-4)
    entering: list[torch.Tensor] = []
    layer = model.hf.model.language_model.layers[2]
    layer.mlp.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    found = model.capture(IDS, [Site("mlp_in", 2)])
    torch.testing.assert_close(found[Site("mlp_in", 2)], entering[0], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_logits_equal_transformers(tmp_path: Path, family: str) -> None:
    model = _open(tmp_path, family)
    with torch.no_grad():
        expected = model.hf(IDS).logits
        hidden = model.hidden(IDS)
    torch.testing.assert_close(model.logits(hidden.reshape(-1, tiny.D_MODEL)).reshape(expected.shape), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_visitor_replaces_what_flows_on(tmp_path: Path, family: str) -> None:
    """Adding to a layer's output changes the next layer's input by exactly that."""
    model = _open(tmp_path, family)
    push = torch.linspace(-1, 1, tiny.D_MODEL)
    before = model.capture(IDS, [Site("resid_pre", 2)])[Site("resid_pre", 2)]
    seen: list[torch.Tensor] = []
    visitors = {Site("resid_post", 1): lambda x: x + push, Site("resid_pre", 2): lambda x: seen.append(x)}
    model.read(IDS, visitors)
    torch.testing.assert_close(seen[0], before + push)


def test_reading_stops_after_the_last_site(tmp_path: Path) -> None:
    model = _open(tmp_path, "llama")
    reached = []
    model.hf.model.layers[2].register_forward_hook(lambda *_: reached.append(2))
    model.capture(IDS, [Site("resid_post", 1)])
    assert reached == []


def test_no_hook_stays_behind(tmp_path: Path) -> None:
    model = _open(tmp_path, "llama")
    with torch.no_grad():
        before = model.hf(IDS).logits
        model.read(IDS, {Site("resid_post", 1): lambda x: x * 0})
        torch.testing.assert_close(model.hf(IDS).logits, before)


def test_an_architecture_without_a_row_goes_through_the_bridge(tmp_path: Path) -> None:
    """BLOOM has no row in the table: same sites, same logits, by way of TransformerLens."""
    assert "bloom" not in FAMILIES
    model = _open(tmp_path, "bloom")
    with torch.no_grad():
        states = model.hf(IDS, output_hidden_states=True)
    assert not model.caches
    site = Site("resid_post", 1)
    torch.testing.assert_close(model.capture(IDS, [site])[site], states.hidden_states[2], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        hidden = model.hidden(IDS)
    torch.testing.assert_close(
        model.logits(hidden.reshape(-1, hidden.shape[-1])).reshape(hidden.shape), states.logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("hook", ["blocks.4.hook_resid_post", "blocks.99.hook_resid_post"])
def test_a_layer_the_model_lacks_is_refused(tmp_path: Path, hook: str) -> None:
    with pytest.raises(DictionaryMismatch, match="has 4 layers"):
        _open(tmp_path, "llama").check_site(parse_hook(hook))


@pytest.mark.parametrize("kind", ["ln2_normalized", "mlp_in"])
def test_the_way_into_the_mlp_is_found_through_the_bridge_too(tmp_path: Path, kind: str) -> None:
    model = _open(tmp_path, "bloom")
    site = Site(kind, 1)
    caught: list[torch.Tensor] = []
    block = model.hf.transformer.h[1]
    norm = block.post_attention_layernorm
    if kind == "mlp_in":
        norm.register_forward_hook(lambda _, args, output: caught.append(output))
    else:
        norm.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        model.hf(IDS)
    expected = norms.normalised(norm, caught[0]) if kind == "ln2_normalized" else caught[0]
    torch.testing.assert_close(model.capture(IDS, [site])[site], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(DictionaryMismatch, match="hook_mlp_in"):
        model.check_site(Site("hook_mlp_in", 1))  # a name the Bridge knows and does not call in this architecture


def test_parallel_models_have_no_middle(tmp_path: Path) -> None:
    with pytest.raises(DictionaryMismatch, match="hook_resid_mid"):
        _open(tmp_path, "gpt_neox").check_site(Site("resid_mid", 1))


def test_models_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no folder"):
        open_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelMissing, match=r"config\.json"):
        open_model(tmp_path / "empty")
    folder = tiny.save_model(tiny.model("llama"), tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelMissing, match="safetensors"):
        open_model(folder)
    folder = tiny.save_model(tiny.model("llama"), tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelMissing, match="cannot be opened"):
        open_model(folder)
    folder = tiny.save_model(tiny.model("llama"), tmp_path / "wordless")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelMissing, match=r"tokenizer\.json"):
        open_model(folder)


def test_an_interrupt_waits_for_the_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, done = _open(tmp_path, "llama"), []

    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            if name != "TransformerBridge":
                raise AttributeError(name)
            signal.raise_signal(signal.SIGINT)
            done.append(name)
            return None

    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", Interrupted("transformer_lens.model_bridge"))
    with pytest.raises(KeyboardInterrupt):
        _ = model._bridge
    assert done == ["TransformerBridge"]
