"""Where each site lies in a Hugging Face model: which module, and which side of it is read.

The correspondence is TransformerLens': tests hold every row equal to its Bridge and to its HookedTransformer.
Architectures without a row here are read through the Bridge itself (`engine.model`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from engine.sites import Site

if TYPE_CHECKING:
    from torch import nn

Side = Literal["in", "out", "normalized"]
"""A module's input, its output, or, of a norm, its input divided by its size, before weight and bias."""


@dataclass(frozen=True)
class Family:
    """Attribute paths of one architecture; paths of site kinds are relative to the block."""

    body: str
    blocks: str
    embed: str
    norm: str
    """The norm between the last block and the unembedding."""
    sites: dict[str, tuple[str, Side]]
    norm_offset: float = 0.0
    """What is added to the weights of its norms before they are used: 1 in Gemma, whose norms start at weight 0."""


_BLOCK: dict[str, tuple[str, Side]] = {"resid_pre": ("", "in"), "resid_post": ("", "out")}


def _before_mlp(mlp_norm: str) -> dict[str, tuple[str, Side]]:
    """The way into an MLP behind a norm: before the norm, inside it, after it."""
    return {"hook_mlp_in": (mlp_norm, "in"), "ln2_normalized": (mlp_norm, "normalized"), "mlp_in": ("mlp", "in")}


_LLAMA = Family(
    body="model",
    blocks="model.layers",
    embed="model.embed_tokens",
    norm="model.norm",
    sites=_BLOCK
    | _before_mlp("post_attention_layernorm")
    | {
        "ln1_normalized": ("input_layernorm", "normalized"),
        "resid_mid": ("post_attention_layernorm", "in"),
        "attn_out": ("self_attn", "out"),
        "hook_z": ("self_attn.o_proj", "in"),
        "mlp_out": ("mlp", "out"),
        "mlp_raw_out": ("mlp", "out"),
        "mlp_post": ("mlp.down_proj", "in"),
    },
)
_GEMMA = replace(_LLAMA, norm_offset=1.0)
# From its second version on Gemma norms what attention and MLP write before adding it to the stream; TransformerLens
# hooks read after that norm.
_GEMMA2 = replace(
    _GEMMA,
    sites=_LLAMA.sites
    | _before_mlp("pre_feedforward_layernorm")
    | {
        "resid_mid": ("pre_feedforward_layernorm", "in"),
        "attn_out": ("post_attention_layernorm", "out"),
        "mlp_out": ("post_feedforward_layernorm", "out"),
    },
)
# With images: the language model lies one level deeper.
_GEMMA3_WITH_IMAGES = replace(
    _GEMMA2,
    body="model.language_model",
    blocks="model.language_model.layers",
    embed="model.language_model.embed_tokens",
    norm="model.language_model.norm",
)
_GPT2 = Family(
    body="transformer",
    blocks="transformer.h",
    embed="transformer.wte",
    norm="transformer.ln_f",
    sites=_BLOCK
    | _before_mlp("ln_2")
    | {
        "ln1_normalized": ("ln_1", "normalized"),
        "resid_mid": ("ln_2", "in"),
        "attn_out": ("attn", "out"),
        "hook_z": ("attn.c_proj", "in"),
        "mlp_out": ("mlp", "out"),
        "mlp_raw_out": ("mlp", "out"),
        "mlp_post": ("mlp.c_proj", "in"),
    },
)
# Attention and MLP run in parallel: there is no residual between them, and both norms read what enters the block.
_GPT_NEOX = Family(
    body="gpt_neox",
    blocks="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    norm="gpt_neox.final_layer_norm",
    sites=_BLOCK
    | _before_mlp("post_attention_layernorm")
    | {
        "ln1_normalized": ("input_layernorm", "normalized"),
        "attn_out": ("attention", "out"),
        "hook_z": ("attention.dense", "in"),
        "mlp_out": ("mlp", "out"),
        "mlp_raw_out": ("mlp", "out"),
        "mlp_post": ("mlp.dense_4h_to_h", "in"),
    },
)

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": _GEMMA3_WITH_IMAGES,
}


def locate(model: nn.Module, family: Family, site: Site) -> tuple[nn.Module, Side] | None:
    """The module and side where `site` is read, or None where this family has no such place."""
    if site.kind == "embed":
        return (attrgetter(family.embed)(model), "out") if family.embed else None
    blocks = attrgetter(family.blocks)(model)
    row = family.sites.get(site.kind)
    if row is None or site.layer >= len(blocks):
        return None
    path, side = row
    block = blocks[site.layer]
    return (attrgetter(path)(block) if path else block), side
