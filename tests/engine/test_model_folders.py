"""A model folder of every architecture opens from disk alone, and its sites hold what transformers computes there."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.loading import open_model
from engine.model import LanguageModel
from engine.sites import Site
from tests import tiny

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma", "gemma2", "gemma3", "qwen2", "qwen3")
IDS = torch.randint(0, 256, (2, 14), generator=torch.Generator().manual_seed(11))
LAYER = 2
_Watch = tuple[str, bool]
"""A module of the block, and whether its input (not its output) is watched."""

_LLAMA: dict[str, _Watch] = {
    "hook_z": ("self_attn.o_proj", True),
    "attn_out": ("self_attn", False),
    "mlp_in": ("post_attention_layernorm", False),
    "mlp_post": ("mlp.down_proj", True),
    "mlp_out": ("mlp", False),
}
_GEMMA2 = _LLAMA | {
    "attn_out": ("post_attention_layernorm", False),
    "mlp_in": ("pre_feedforward_layernorm", False),
    "mlp_raw_out": ("mlp", False),
    "mlp_out": ("post_feedforward_layernorm", False),
}
WATCHED: dict[str, tuple[str, dict[str, _Watch]]] = {
    "gpt2": (
        "transformer.h",
        {
            "hook_z": ("attn.c_proj", True),
            "attn_out": ("attn", False),
            "mlp_in": ("ln_2", False),
            "mlp_post": ("mlp.act", False),
            "mlp_out": ("mlp", False),
        },
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        {
            "hook_z": ("attention.dense", True),
            "attn_out": ("attention", False),
            "mlp_in": ("post_attention_layernorm", False),
            "mlp_post": ("mlp.act", False),
            "mlp_out": ("mlp", False),
        },
    ),
    "llama": ("model.layers", _LLAMA),
    "qwen2": ("model.layers", _LLAMA),
    "qwen3": ("model.layers", _LLAMA),
    "gemma": ("model.layers", _LLAMA),
    "gemma2": ("model.layers", _GEMMA2),
    "gemma3": ("model.layers", _GEMMA2),
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to another machine is an error, and the hub is told that there is none."""

    def refuse(*args: object, **kwargs: object) -> Any:
        raise AssertionError(f"opened a connection: {args} {kwargs}")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


def _open(tmp_path: Path, family: str) -> tuple[LanguageModel, Any]:
    """The folder as saescope opens it, and as transformers does."""
    built = tiny.model(family)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.4, 0.4, len(parameter)))
    folder = tiny.save_model(built, tmp_path / family)
    return open_model(folder, "cpu"), type(built).from_pretrained(folder, local_files_only=True).eval()


def _watch(block: nn.Module, path: str, before: bool, caught: list[Tensor]) -> Any:
    module = block.get_submodule(path)
    if before:
        return module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(after)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("no_network")
def test_sites_hold_what_transformers_computes(tmp_path: Path, family: str) -> None:
    model, plain = _open(tmp_path, family)
    assert (model.layers, model.d_model, model.context) == (tiny.LAYERS, tiny.D_MODEL, 128)
    blocks, watched = WATCHED[family]
    block = plain.get_submodule(blocks)[LAYER]
    caught: dict[str, list[Tensor]] = {kind: [] for kind in watched}
    for kind, (path, before) in watched.items():
        _watch(block, path, before, caught[kind])
    with torch.no_grad():
        output = plain(IDS, output_hidden_states=True)
    expected = {Site(kind, LAYER): held[0] for kind, held in caught.items()}
    expected |= {
        Site("resid_pre", LAYER): output.hidden_states[LAYER],
        Site("resid_post", LAYER): output.hidden_states[LAYER + 1],
        Site("embed", 0): plain.get_input_embeddings()(IDS),
    }
    if family != "gpt_neox":
        middle = expected[Site("resid_pre", LAYER)] + expected[Site("attn_out", LAYER)]
        expected[Site("resid_mid", LAYER)] = expected[Site("hook_mlp_in", LAYER)] = middle
    else:
        expected[Site("hook_mlp_in", LAYER)] = expected[Site("resid_pre", LAYER)]
    found = model.capture(IDS, expected)
    for site, theirs in expected.items():
        torch.testing.assert_close(found[site], theirs.detach(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        logits = model.logits(model.hidden(IDS).reshape(-1, tiny.D_MODEL)).reshape(output.logits.shape)
    torch.testing.assert_close(logits, output.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_is_the_sum_of_what_is_written_to_it(tmp_path: Path, family: str) -> None:
    """So the sites are the ones a dictionary of the residual stream can be compared with."""
    model, _ = _open(tmp_path, family)
    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    held = model.capture(IDS, [Site(kind, LAYER) for kind in kinds])
    before, attention, mlp, after = (held[Site(kind, LAYER)] for kind in kinds)
    torch.testing.assert_close(before + attention + mlp, after, rtol=1e-4, atol=1e-4)


def test_embeddings_are_not_yet_the_stream_where_positions_are_added(tmp_path: Path) -> None:
    """`hook_embed` and the first `hook_resid_pre` differ by the positions in GPT-2, in rotary models by nothing."""
    for family, alike in {"gpt2": False, "gpt_neox": True, "llama": True, "gemma2": True}.items():
        model, _ = _open(tmp_path, family)
        held = model.capture(IDS, [Site("embed", 0), Site("resid_pre", 0)])
        assert torch.equal(held[Site("embed", 0)], held[Site("resid_pre", 0)]) == alike


@pytest.mark.usefixtures("no_network")
def test_embeddings_of_gemma_are_read_after_they_are_scaled(tmp_path: Path) -> None:
    """As HookedTransformer has them; other families take the rows of the matrix as they are."""
    model, plain = _open(tmp_path, "gemma3")
    rows = plain.get_input_embeddings().weight[IDS] * tiny.D_MODEL**0.5
    torch.testing.assert_close(model.capture(IDS, [Site("embed", 0)])[Site("embed", 0)], rows.detach())
