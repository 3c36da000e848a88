"""Reading a SAELens folder (`cfg.json`, `sae_weights.safetensors`) with torch and safetensors alone.

Settings that SAELens would silently ignore are refused here: an input normalisation that was never folded, a
head index, an unknown hook.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest, DictionaryMismatch, DictionaryMissing
from engine.formats.find import CONFIG
from engine.hashes import sha256_of
from engine.jsonfile import read_object
from engine.places import Place
from engine.sites import Site, parse_hook
from engine.text import visible

WEIGHTS = "sae_weights.safetensors"

_KINDS = {
    "standard": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_UNFOLDED = {"expected_average_only_in", "covariance_whitening"}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = (
    "model_name", "hook_name", "hook_name_out", "hook_head_index", "prepend_bos", "context_size", "dataset_path",
    "neuronpedia_id", "model_from_pretrained_kwargs", "seqpos_slice", "sae_lens_training_version",
)  # fmt: skip


def read_settings(folder: Path) -> dict[str, Any]:
    """`cfg.json` in the form SAELens 6 writes, whichever version wrote it.

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
    try:
        raw = read_object(folder / CONFIG)
    except ValueError as error:
        raise DictionaryMissing(
            f"{folder / CONFIG} is not valid JSON ({error}).", "Save the dictionary again."
        ) from None
    return raw if isinstance(raw.get("metadata"), dict) else _from_flat(raw)


def _from_flat(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration written before SAELens 6, which kept everything in one level."""
    flat = {_OLD_NAMES.get(k, k): v for k, v in raw.items()}
    kwargs = flat.get("activation_fn_kwargs") or {}
    if flat.get("activation_fn") == "topk" and kwargs.get("k") is not None:
        flat |= {"architecture": "topk", "k": kwargs["k"]}
    normalise = flat.get("normalize_activations")
    if isinstance(normalise, bool):
        flat["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    flat.setdefault("architecture", "standard")
    flat.setdefault("prepend_bos", True)
    flat["metadata"] = {k: flat.get(k) for k in _METADATA}
    return flat


def read(place: Place) -> Dictionary:
    """The dictionary at a place of form `saelens`; errors as `read_dictionary`."""
    return read_dictionary(place.path, place.source)


def read_dictionary(folder: Path, source: str | None = None) -> Dictionary:
    """The dictionary in a SAELens folder, on the CPU in float32.

    `source` is its name on screen; by default Neuronpedia's where the metadata has one, else the folder's name.

    Raises:
        DictionaryMissing: something is absent or unreadable.
        DictionaryMismatch: it asks for something that would give wrong numbers here.
    """
    settings = read_settings(folder)
    metadata = settings["metadata"]
    architecture = settings.get("architecture", "standard")
    if architecture not in _KINDS:
        raise DictionaryMismatch(
            f"{folder.name} is a {architecture} dictionary, which this version does not read.",
            f"It reads {', '.join(_KINDS)}.",
        )
    normalisation = settings.get("normalize_activations") or "none"
    if normalisation in _UNFOLDED:
        raise DictionaryMismatch(
            f"{folder.name} was trained with {normalisation} and the scale is not folded into its weights.",
            "Load it with SAELens, call fold_activation_norm_scaling_factor(), and save it again.",
        )
    if metadata.get("hook_head_index") is not None:
        raise DictionaryMismatch(f"{folder.name} reads a single attention head, which this version does not.")
    site = _site(folder, metadata.get("hook_name"))
    out_name = metadata.get("hook_name_out")
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DictionaryMissing(f"{folder / WEIGHTS} cannot be read: {error}.", "Copy it again.") from None
    weights = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    _check_tensors(folder, architecture, weights)
    transcoder = "transcoder" in architecture
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    return Dictionary(
        source=source or _source(folder, metadata),
        site=site,
        write_site=_site(folder, out_name) if transcoder and out_name else site,
        kind=_KINDS[architecture],
        architecture=architecture,
        encoder=weights["W_enc"].T.contiguous(),
        decoder=weights["W_dec"].contiguous(),
        b_enc=weights["b_gate"] if architecture == "gated" else weights["b_enc"],
        b_dec=weights["b_dec"],
        folder=folder,
        sha256=sha256_of(folder / WEIGHTS),
        k=int(settings.get("k") or 0),
        threshold=weights.get("threshold"),
        r_mag=weights.get("r_mag"),
        b_mag=weights.get("b_mag"),
        skip=weights.get("W_skip"),
        subtract_b_dec=not transcoder and bool(settings.get("apply_b_dec_to_input", True)),
        rescale_by_decoder_norm=bool(settings.get("rescale_acts_by_decoder_norm", False)),
        normalisation=normalisation,
        centre=bool(kwargs.get("center_writing_weights", False)),
        metadata=metadata,
    )


def _check_tensors(folder: Path, architecture: str, weights: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the architecture the configuration names."""
    needed = {"W_enc", "W_dec", "b_dec"}
    needed |= {"b_gate", "b_mag", "r_mag"} if architecture == "gated" else {"b_enc"}
    needed |= {"threshold"} if "jumprelu" in architecture else set()
    needed |= {"W_skip"} if "skip" in architecture else set()
    if missing := sorted(needed - weights.keys()):
        raise DictionaryMismatch(
            f"{folder / WEIGHTS} lacks {', '.join(missing)}, which a {architecture} dictionary needs.",
            f"It holds {', '.join(sorted(weights))}.",
        )
    if weights["W_enc"].shape[1] != weights["W_dec"].shape[0]:
        shapes = f"W_enc {tuple(weights['W_enc'].shape)}, W_dec {tuple(weights['W_dec'].shape)}"
        raise DictionaryMismatch(f"{folder / WEIGHTS} does not fit together: {shapes}.", "Save the dictionary again.")


def _site(folder: Path, hook: str | None) -> Site:
    if not hook:
        raise DictionaryMismatch(
            f"{folder / CONFIG} does not say which hook it reads.", 'Add "hook_name" to its metadata.'
        )
    try:
        return parse_hook(hook)
    except BadRequest as error:
        raise DictionaryMismatch(f"{folder.name}: {error.message}", error.remedy) from None


def _source(folder: Path, metadata: dict[str, Any]) -> str:
    neuronpedia = metadata.get("neuronpedia_id")
    name = neuronpedia.split("/", 1)[1] if neuronpedia and "/" in neuronpedia else folder.name
    return re.sub(r"[\s:@]+", "-", visible(name))
