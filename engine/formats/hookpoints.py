"""What other libraries call the places in a model, as hook names of TransformerLens. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import BadRequest, DictionaryMismatch
from engine.sites import Site, parse_hook
from engine.text import visible

_REMEDY = "Say which hook it reads: --dictionary FOLDER@HOOK, e.g. FOLDER@{}."
REMEDY = _REMEDY.format("blocks.3.hook_resid_post")
_WORDS = (
    (("mlp_act", "mlp_post", "neuron"), "mlp_post"),
    (("attn", "attention"), "attn_out"),
    (("mlp",), "mlp_out"),
    (("resid", "block", "layer"), "resid_post"),
)
_INPUTS = {"mlp_out": "mlp_in", "resid_post": "resid_pre"}

_SUBMODULE = re.compile(
    r"(resid_post|resid_pre|resid_mid|resid_out|resid|attn_out|attention_out|attn|mlp_out|mlp)_?(?:layer)?_?([0-9]{1,4})"
)
_SUBMODULE_KINDS = {
    "resid": "resid_post",
    "resid_out": "resid_post",
    "attn": "attn_out",
    "attention_out": "attn_out",
    "mlp": "mlp_out",
}
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)[._]([0-9]{1,4})(?:\.(.+))?")
_MODULE_KINDS = {
    None: "resid_post",
    "self_attn": "attn_out",
    "attention": "attn_out",
    "attn": "attn_out",
    "mlp": "mlp_out",
}
_EMBED = {"embed", "embed_in", "embed_tokens", "wte"}
_NORMS_AFTER = re.compile(r"gemma-?[23]", re.IGNORECASE)
"""Models that norm what attention and MLP write: the module's output is not what TransformerLens' hook reads."""


def site_of(hook: str, where: Path) -> Site:
    """The site of a hook name found in or given for `where`.

    Raises:
        DictionaryMismatch: the name is not one a dictionary can read here.
    """
    try:
        return parse_hook(hook)
    except BadRequest as error:
        raise DictionaryMismatch(f"{where.name}: {error.message}", error.remedy) from None


def as_source(name: str) -> str:
    """A folder's name as the name of a source: no space, colon or @, which separate other things."""
    return re.sub(r"[\s:@]+", "-", visible(name))


def of_submodule(name: str) -> Site | None:
    """The site that dictionary_learning's and feature-circuits' names mean, e.g. `attn_out_layer2`; None: no such name.

    `resid_out_layer2` is the output of block 2.
    """
    if name == "embed":
        return Site("embed", 0)
    if match := _SUBMODULE.fullmatch(name):
        return Site(_SUBMODULE_KINDS.get(match[1], match[1]), int(match[2]))
    return None


def of_module(name: str, model: str) -> Site | None:
    """Where the output of a Hugging Face module is read, e.g. `layers.3.mlp`; None where no site is that output."""
    if name.rpartition(".")[2] in _EMBED:
        return Site("embed", 0)
    match = _MODULE.fullmatch(name)
    if match is None or match[2] not in _MODULE_KINDS:
        return None
    kind = _MODULE_KINDS[match[2]]
    if kind != "resid_post" and _NORMS_AFTER.search(model):
        return Site("mlp_raw_out", int(match[1])) if kind == "mlp_out" else None
    return Site(kind, int(match[1]))


def remedy(name: object, layer: object, inputs: bool = False) -> str:
    """`REMEDY` with the hook that a name and a layer in a configuration seem to mean, where they tell one.

    It is only proposed: a name that no rule knows may mean anything.
    """
    text = name.lower() if isinstance(name, str) else ""
    numbers = re.findall(r"[0-9]{1,4}", text)
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < 10_000:
        layer = int(numbers[0]) if len(numbers) == 1 else None
    kind = next((kind for words, kind in _WORDS if any(word in text for word in words)), None)
    if inputs:
        kind = _INPUTS.get(kind or "")
    if layer is None or kind is None:
        return REMEDY
    return _REMEDY.format(Site(kind, layer).hook)


def into_module(name: str) -> Site | None:
    """Where the input of a Hugging Face module is read, as transcoders do; None where no site is that input."""
    match = _MODULE.fullmatch(name)
    if match is None or match[2] not in (None, "mlp"):
        return None
    return Site("mlp_in" if match[2] else "resid_pre", int(match[1]))
