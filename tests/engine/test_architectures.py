"""Every site of every architecture holds what TransformerLens' Bridge says it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.architectures import FAMILIES
from engine.errors import DictionaryMismatch, ModelMissing
from engine.loading import open_model
from engine.model import LanguageModel
from engine.sites import Site, parse_hook
from tests import tiny

IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(5))
KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "hook_z")


def _open(tmp_path: Path, family: str) -> LanguageModel:
    return open_model(tiny.save_model(tiny.model(family), tmp_path / family), "cpu")


def _bridge_cache(model: LanguageModel, names: list[str]) -> dict[str, torch.Tensor]:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(model.folder), device="cpu")
    with torch.no_grad():
        _, cache = bridge.run_with_cache(IDS, names_filter=names)
    return {name: cache[name] for name in names}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
def test_sites_equal_the_bridge(tmp_path: Path, family: str) -> None:
    model = _open(tmp_path, family)
    sites = [Site(kind, layer) for kind in KINDS for layer in (0, 2) if kind in FAMILIES[family].sites]
    if FAMILIES[family].embed:
        sites.append(Site("embed", 0))
    found = model.capture(IDS, sites)
    expected = _bridge_cache(model, [site.hook for site in sites])
    for site in sites:
        theirs = expected[site.hook]
        torch.testing.assert_close(
            found[site].reshape(2, 12, -1), theirs.reshape(2, 12, -1), rtol=1e-4, atol=1e-4, msg=str(site)
        )


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
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
    model.read(IDS, visitors)  # type: ignore[arg-type]
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
