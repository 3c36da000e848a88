"""`cfg.json` of SAELens, whichever version wrote it, in the form version 6 writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import DictionaryMissing
from engine.formats import configs
from engine.formats.find import CONFIG

WEIGHTS = "sae_weights.safetensors"
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = (
    "model_name", "hook_name", "hook_name_out", "hook_head_index", "hook_head_index_out", "hf_hook_name",
    "hf_hook_name_out", "prepend_bos", "exclude_special_tokens", "context_size", "dataset_path", "neuronpedia_id",
    "model_class_name", "model_from_pretrained_kwargs", "seqpos_slice", "sae_lens_version",
    "sae_lens_training_version",
)  # fmt: skip


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the dictionary in a folder.

    Raises:
        DictionaryMissing: no folder, no `cfg.json`, no weights, or JSON that cannot be read.
    """
    if not folder.is_dir():
        raise DictionaryMissing(
            f"There is no folder {folder}.", "Give a folder with cfg.json and sae_weights.safetensors."
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DictionaryMissing(f"{folder} has no {name}.", "Give a folder written by SAELens (save_model).")
    return in_new_form(configs.read(folder / CONFIG))


def in_new_form(raw: dict[str, Any]) -> dict[str, Any]:
    """Settings with their own `metadata`; those before SAELens 6 kept everything in one level."""
    if isinstance(raw.get("metadata"), dict):
        return raw | {"metadata": dict(raw["metadata"])}
    flat = {_OLD_NAMES.get(name, name): value for name, value in raw.items()}
    kwargs = flat.get("activation_fn_kwargs")
    k = kwargs.get("k") if isinstance(kwargs, dict) else None
    if k is not None and flat.get("activation_fn") == "topk":
        flat["architecture"] = "topk"
    if k is not None and flat.get("architecture") == "topk":
        flat["k"] = k
    normalise = flat.get("normalize_activations")
    if isinstance(normalise, bool):
        flat["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    flat.setdefault("architecture", "standard")
    flat.setdefault("prepend_bos", True)
    flat["metadata"] = {name: flat[name] for name in _METADATA if name in flat}
    return flat
