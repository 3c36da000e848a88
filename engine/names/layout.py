"""What each kind of release consists of: the files SAELens' loader of it reads, and the hook it says it is for.

The rules are those of `sae_lens.loading.pretrained_sae_loaders` (6.54), one line each; they need neither that package
nor the files themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.names.registry import Entry, Release, release_of


@dataclass(frozen=True)
class Wanted:
    """A file that a loader reads."""

    name: str
    """Its path in the repository."""
    weights: bool = False
    optional: bool = False
    otherwise: str | None = None
    """Another name that some repositories have it under."""


_Files = Callable[[str], tuple[Wanted, ...]]
_Hook = Callable[[Entry, Release], str | None]
"""From a dictionary's entry and release; None where only its files say it."""


def files_of(entry: Entry) -> tuple[Wanted, ...]:
    """The files of one published dictionary, settings first."""
    return _FILES[release_of(entry).loader](entry.path)


def hook_of(entry: Entry) -> str | None:
    """The hook its loader says it reads, by TransformerLens' name; None where only its files say it."""
    return _HOOKS[release_of(entry).loader](entry, release_of(entry))


# --- files ----------------------------------------------------------------------------------------------------------


def _sae_lens_files(path: str) -> tuple[Wanted, ...]:
    return Wanted(f"{path}/cfg.json"), Wanted(f"{path}/sae_weights.safetensors", weights=True)


def _one_file(path: str) -> tuple[Wanted, ...]:
    return (Wanted(path, weights=True),)


def _params(path: str) -> tuple[Wanted, ...]:
    return (Wanted(f"{path}/params.npz", weights=True),)


def _gemma_3_files(path: str) -> tuple[Wanted, ...]:
    weights = f"{path}.safetensors" if "clt" in path else f"{path}/params.safetensors"
    return Wanted(f"{path}/config.json", optional=True), Wanted(weights, weights=True)


def _mwhanna_files(path: str) -> tuple[Wanted, ...]:
    return (
        Wanted("wandb-config.yaml", otherwise="wanb-config.yaml"),
        Wanted("config.yaml", optional=True),
        Wanted(path, weights=True),
    )


def _clt_files(path: str) -> tuple[Wanted, ...]:
    parts = (Wanted(f"W_{part}_{path}.safetensors", weights=True) for part in ("enc", "dec"))
    return Wanted("config.yaml"), *parts


_FILES: dict[str, _Files] = {
    "sae_lens": _sae_lens_files,
    "connor_rob_hook_z": lambda path: (Wanted(f"{path.split('.pt')[0]}_cfg.json"), Wanted(path, weights=True)),
    "gemma_2": _params,
    "gemma_2_transcoder": _params,
    "gemma_3": _gemma_3_files,
    "llama_scope": lambda path: (
        Wanted(f"{path}/hyperparams.json"),
        Wanted(f"{path}/checkpoints/final.safetensors", weights=True),
    ),
    "llama_scope_r1_distill": lambda path: (
        Wanted(f"{path}/config.json"),
        Wanted(f"{path}/sae_weights.safetensors", weights=True),
    ),
    "dictionary_learning_1": lambda path: (Wanted(f"{path}/config.json"), Wanted(f"{path}/ae.pt", weights=True)),
    "deepseek_r1": _one_file,
    "qwen_scope": _one_file,
    "goodfire": _one_file,
    "sparsify": lambda path: (Wanted(f"{path}/cfg.json"), Wanted(f"{path}/sae.safetensors", weights=True)),
    "mwhanna_transcoder": _mwhanna_files,
    "mntss_clt_layer_transcoder": _clt_files,
    "temporal": lambda path: (
        Wanted(f"{path}/conf.yaml"),
        Wanted(f"{path}/latest_ckpt.safetensors", weights=True),
    ),
}


# --- hooks ----------------------------------------------------------------------------------------------------------


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) if match else None


def _at(template: str, pattern: str) -> _Hook:
    """The hook of a layer that the path names."""

    def hook(entry: Entry, release: Release) -> str | None:
        layer = _number(pattern, entry.path)
        return None if layer is None else template.format(layer)

    return hook


_IN_ID = re.compile(r"blocks\.\d+\.(?:attn\.|mlp\.|ln2\.)?hook_(?:resid_(?:pre|mid|post)|attn_out|mlp_out|z|post)")


def _hook_in_id(entry: Entry, release: Release) -> str | None:
    """Most releases use the hook as the id; `hook_z` lacks its `attn.` there."""
    match = _IN_ID.search(entry.id)
    return re.sub(r"(\d+)\.hook_z$", r"\1.attn.hook_z", match[0]) if match else None


def _gemma_2_hook(entry: Entry, release: Release) -> str | None:
    if "embedding" in entry.path:
        return "hook_embed"
    site = next(kind for mark, kind in _GEMMA_2.items() if release.repo.endswith(f"-{mark}"))
    return _at(f"blocks.{{}}.{site}", r"layer_(\d+)")(entry, release)


_GEMMA_2 = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def _gemma_3_hook(entry: Entry, release: Release) -> str | None:
    site = next((kind for mark, kind in _GEMMA_3.items() if mark in entry.path), None)
    return _at(f"blocks.{{}}.{site}", r"layer_(\d+)")(entry, release) if site else None


_GEMMA_3 = {
    "resid_post": "hook_resid_post",
    "attn_out": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
    "transcoder": "mlp.hook_in",  # after the norm, as their configurations say; SAELens names the place before it
    "clt": "mlp.hook_in",
}


def _llama_scope_hook(entry: Entry, release: Release) -> str | None:
    match = re.search(r"L(\d+)([RAM])(?:-\d+x)?$", entry.path)
    kinds = {"R": "resid_post", "A": "attn_out", "M": "mlp_out"}
    return f"blocks.{match[1]}.hook_{kinds[match[2]]}" if match else None


_RESIDUAL = "blocks.{}.hook_resid_post"
_HOOKS: dict[str, _Hook] = {
    "sae_lens": _hook_in_id,
    "connor_rob_hook_z": _hook_in_id,
    "gemma_2": _gemma_2_hook,
    "gemma_2_transcoder": _at("blocks.{}.ln2.hook_normalized", r"layer_(\d+)"),
    "gemma_3": _gemma_3_hook,
    "llama_scope": _llama_scope_hook,
    "llama_scope_r1_distill": _llama_scope_hook,
    "dictionary_learning_1": _at(_RESIDUAL, r"layer_(\d+)"),
    "deepseek_r1": _at(_RESIDUAL, r"l(\d+)\.pt"),
    "qwen_scope": _at(_RESIDUAL, r"layer(\d+)\.sae\.pt"),
    "goodfire": _at(_RESIDUAL, r"l(\d+)\.pth?$"),
    "sparsify": _at(_RESIDUAL, r"layers[._](\d+)"),
    "mwhanna_transcoder": _at("blocks.{}.mlp.hook_in", r"_(\d+)\.safetensors$"),
    "mntss_clt_layer_transcoder": lambda entry, release: None,
    "temporal": _at(_RESIDUAL, r"layer_(\d+)"),
}
