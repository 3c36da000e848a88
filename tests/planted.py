"""A model whose circuit is known in closed form: a GPT-2 with weights set by hand.

Its norms have an epsilon so large that they are linear, its attention is uniform over what came before, and its MLP
works where GELU is the identity. Directions are orthogonal rows of a Hadamard matrix, free of a mean as LayerNorm is.

* token A writes 2·a at its position, token D writes 1·d, token B nothing;
* layer 0's attention turns a into 3·b: at position t, b = 3 · 2 · (number of As up to t) / (t + 1);
* layer 1's attention turns b into 5·c, averaged again; layer 1's MLP turns a into 7·e where it stands;
* the logit of token YES is 1·c + 0.5·e + 4·d, that of every other token 0.

Dictionaries at the embedding, resid_post 0 and resid_post 1 know a, b, c, e, but not d: that is their error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.circuits.basis import DictionaryBasis
from engine.dictionary import Dictionary
from engine.model import LanguageModel
from engine.sites import Site

A, B, D, YES = 0, 1, 2, 3
A_FEATURE, B_FEATURE, C_FEATURE, E_FEATURE = 0, 1, 2, 3
_WIDTH = 8
_LARGE = 1e6
_LIFT = 100.0
"""An MLP bias at which GELU is the identity to the last bit."""


def directions() -> Tensor:
    """a, b, c, d, e as rows of norm 1 and mean 0, [5, 8]."""
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < _WIDTH:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    return hadamard[1:6] / _WIDTH**0.5


def model() -> LanguageModel:
    """The planted model, in float64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=4, n_embd=_WIDTH, n_layer=2, n_head=1, n_positions=16, n_inner=_WIDTH,
        layer_norm_epsilon=_LARGE**2, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf: Any = GPT2LMHeadModel(config).double().eval().requires_grad_(False)
    a, b, c, d, e = directions()
    for parameter in hf.parameters():
        parameter.zero_()
    body = hf.transformer
    for norm in (body.ln_f, *(n for block in body.h for n in (block.ln_1, block.ln_2))):
        norm.weight.fill_(_LARGE)
    body.wte.weight[A] = 2 * a
    body.wte.weight[D] = d
    _attend(body.h[0], a, 3 * b)
    _attend(body.h[1], b, 5 * c)
    mlp = body.h[1].mlp
    mlp.c_fc.weight[:, 0] = a
    mlp.c_fc.bias[0] = _LIFT
    mlp.c_proj.weight[0] = 7 * e
    mlp.c_proj.bias.copy_(-7 * _LIFT * e)
    hf.lm_head.weight[YES] = c + 0.5 * e + 4 * d
    return LanguageModel(hf, None, "planted", Path("planted"))  # type: ignore[arg-type]


def _attend(block: Any, read: Tensor, write: Tensor) -> None:
    """Queries and keys stay zero: attention is uniform."""
    block.attn.c_attn.weight[:, 2 * _WIDTH] = read
    block.attn.c_proj.weight[0] = write


def bases() -> list[DictionaryBasis]:
    """Dictionaries with the features a, b, c, e, exact for positive amounts."""
    a, b, c, _, e = directions()
    rows = torch.stack([a, b, c, e])
    sites = (Site("embed", 0), Site("resid_post", 0), Site("resid_post", 1))

    def made(site: Site, name: str) -> Dictionary:
        nothing, bias = torch.zeros(4, dtype=torch.float64), torch.zeros(_WIDTH, dtype=torch.float64)
        return Dictionary(name, site, site, "standard", "standard", rows, rows.clone(), nothing, bias, Path("."), "")

    return [DictionaryBasis(made(site, name)) for site, name in zip(sites, ("embed", "0-res", "1-res"), strict=True)]
