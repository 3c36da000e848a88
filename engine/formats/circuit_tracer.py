"""Reading circuit-tracer's transcoders: `W_enc` is [F, d], the transpose of SAELens', and x is read as it is.

Formulas follow its `SingleLayerTranscoder` and `CrossLayerTranscoder`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats import gemma_scope, hookpoints, tensors
from engine.formats.circuit_tracer_folders import CONFIG, CROSS_LAYER, MISSING
from engine.formats.tensors import AGAIN, Weights
from engine.places import Place
from engine.sites import Site
from engine.text import visible

_THRESHOLD = "activation_function.threshold"
_KINDS = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
_FORM = "circuit-tracer"
_NEGATIVE_TOP_K = "Negative values among the top k are 0 here; circuit-tracer keeps them."
_NEGATIVE_THRESHOLD = "Negative values above a negative threshold are 0 here; circuit-tracer keeps them."


def read(place: Place) -> Dictionary:
    """One layer of transcoders, with a note where the set it is of lacks other layers; errors as `_read`."""
    made = _read(place)
    if missing := place.extra.get(MISSING):
        made.notes = (*made.notes, f"of its set, layers that are not in the folder: {missing}")
    return made


def _read(place: Place) -> Dictionary:
    """One layer of transcoders that circuit-tracer reads, on the CPU in float32.

    Raises:
        DictionaryMissing: a file is absent, damaged, or on the hub.
        DictionaryMismatch: the weights do not fit together or the configuration, or a hook is not known.
    """
    if not place.weights:
        where = visible(str(place.extra.get("uri", "")))[:200] or "no file"
        raise DictionaryMissing(
            f"Layer {place.extra.get('layer')} of {place.path} lies at {where}, which is not on this machine.",
            "Download the set first: --dictionary hf://OWNER/NAME --download.",
        )
    file = place.weights[0]
    if file.suffix == ".npz":
        return _of_gemma_scope(place, file)
    weights = tensors.load(file)
    if "w_enc" in weights:
        return _of_gemma_scope(place, file)
    site, write_site = _sites(place)
    return (
        _cross_layer(place, weights, site, write_site)
        if _is_cross_layer(place)
        else _single(place, weights, site, write_site)
    )


def _is_cross_layer(place: Place) -> bool:
    return place.extra.get("kind") == CROSS_LAYER


def _of_gemma_scope(place: Place, file: Path) -> Dictionary:
    """A file of Gemma Scope that a configuration of circuit-tracer points to."""
    made = gemma_scope.read(replace(place, path=file))
    return replace(made, form=f"{made.form} through {_FORM}")


def _sites(place: Place) -> tuple[Site, Site]:
    hook, hook_out = place.hook, place.extra.get("hook_out")
    if not hook:
        raise DictionaryMismatch(
            f"{CONFIG} of {place.path.parent} does not say which hook its transcoders read.",
            "Add feature_input_hook, e.g. mlp.hook_in, and feature_output_hook.",
        )
    site = hookpoints.site_of(hook, place.path)
    return site, hookpoints.site_of(hook_out, place.path) if hook_out else Site("mlp_out", site.layer)


def _single(place: Place, weights: Weights, site: Site, write_site: Site) -> Dictionary:
    weights.need("W_enc", "W_dec", "b_enc", "b_dec", what="a transcoder of circuit-tracer")
    encoder = weights.tensor("W_enc", None, None)
    features, width = encoder.shape
    b_dec = weights.tensor("b_dec", None)
    skip = weights.tensor("W_skip", len(b_dec), width) if "W_skip" in weights else None
    kind = _kind(place, weights, _THRESHOLD)
    return _made(
        place,
        weights,
        (site, write_site),
        kind,
        encoder=encoder,
        decoder=_decoder(weights, features, len(b_dec)),
        b_enc=weights.tensor("b_enc", features),
        b_dec=b_dec,
        threshold=_threshold(weights, _THRESHOLD, features) if kind == "jumprelu" else None,
        k=_k(place, weights, features) if kind == "topk" else 0,
        skip=skip,
    )


def _cross_layer(place: Place, weights: Weights, site: Site, write_site: Site) -> Dictionary:
    """One layer's features; their decoders, one per layer from this one up, are summed."""
    layer = place.extra["layer"]
    names = {name: f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec", "threshold", "W_skip")}
    weights.need(names["W_enc"], names["b_enc"], names["b_dec"], what="a cross-layer transcoder of circuit-tracer")
    if names["W_skip"] in weights:
        raise DictionaryMismatch(f"{weights.file} has a skip connection, which is not read across layers.")
    if len(place.weights) < 2 or not place.weights[1].is_file():
        raise DictionaryMissing(f"{weights.file} has no W_dec_{layer}.safetensors beside it.", AGAIN)
    encoder = weights.tensor(names["W_enc"], None, None)
    features, _ = encoder.shape
    b_dec = weights.tensor(names["b_dec"], None)
    kind = _kind(place, weights, names["threshold"])
    made = _made(
        place,
        weights,
        (site, write_site),
        kind,
        encoder=encoder,
        decoder=_summed(place.weights[1], f"W_dec_{layer}", features, len(b_dec)),
        b_enc=weights.tensor(names["b_enc"], features),
        b_dec=b_dec,
        threshold=_threshold(weights, names["threshold"], features) if kind == "jumprelu" else None,
        k=_k(place, weights, features) if kind == "topk" else 0,
    )
    made.notes = (gemma_scope.SUMMED, *made.notes)
    return made


def _made(place: Place, weights: Weights, sites: tuple[Site, Site], kind: str, **parts: Any) -> Dictionary:
    words = {"standard": "", "topk": "topk_", "jumprelu": "jumprelu_"}[kind]
    notes = []
    if kind == "topk":
        notes.append(_NEGATIVE_TOP_K)
    if kind == "jumprelu" and bool((parts["threshold"] < 0).any()):
        notes.append(_NEGATIVE_THRESHOLD)
    metadata = {"hook_name": sites[0].hook, "hook_name_out": sites[1].hook}
    if model := place.extra.get("model"):
        metadata["model_name"] = str(model)
    return Dictionary(
        source=place.source or hookpoints.as_source(place.path.stem),
        site=sites[0],
        write_site=sites[1],
        kind=kind,
        architecture=f"{words}{'skip_' if parts.get('skip') is not None else ''}transcoder",
        folder=weights.file.parent,
        sha256=weights.sha256,
        subtract_b_dec=False,
        metadata=metadata,
        form=f"{_FORM}, cross-layer" if _is_cross_layer(place) else _FORM,
        notes=tuple(notes),
        **parts,
    )


def _kind(place: Place, weights: Weights, threshold: str) -> str:
    """As the configuration says, else as the weights do: thresholds, a k, or neither."""
    said = str(place.extra.get("activation") or "").lower().replace("_", "").replace("-", "")
    if said and said not in _KINDS:
        raise DictionaryMismatch(
            f"{CONFIG} of {place.path.parent} has the activation {visible(said)[:80]}, which is not known.",
            f"Known are {', '.join(_KINDS)}.",
        )
    has = "jumprelu" if threshold in weights else "topk" if "k" in weights else "relu"
    if (said in ("relu", "topk") and has == "jumprelu") or (said == "jumprelu" and has != "jumprelu"):
        raise DictionaryMismatch(
            f"{CONFIG} says {said}, and {weights.file} has {'thresholds' if has == 'jumprelu' else 'no thresholds'}.",
            "Correct `activation` in it.",
        )
    return _KINDS[said or has]


def _threshold(weights: Weights, name: str, features: int) -> Tensor:
    """One per feature; circuit-tracer may have stored it with a leading axis, or as one number for all."""
    stored = weights.tensor(name).flatten()
    if len(stored) == 1:
        return stored.expand(features).contiguous()
    if len(stored) != features:
        raise DictionaryMismatch(f"{weights.file} has {len(stored)} thresholds for {features} features.", AGAIN)
    return stored


def _k(place: Place, weights: Weights, features: int) -> int:
    k = place.extra.get("k") or weights.number("k")
    if k is None or k != int(k) or not 0 < k <= features:
        raise DictionaryMismatch(
            f"Neither {weights.file} nor {CONFIG} says how many features its top-k keeps.", f"Add k to {CONFIG}."
        )
    return int(k)


def _decoder(weights: Weights, features: int, out: int) -> Tensor:
    """[F, d]; the first sets that were published have its transpose."""
    stored = weights.tensor("W_dec", None, None)
    if stored.shape == (features, out):
        return stored
    if stored.shape == (out, features):
        return stored.T.contiguous()
    return weights.tensor("W_dec", features, out)


def _summed(file: Path, name: str, features: int, out: int) -> Tensor:
    """Σ over layers of W_dec [F, layers, d], one layer in memory at a time."""
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            if name not in opened.keys():  # noqa: SIM118
                raise DictionaryMismatch(f"{file} lacks {name}.", AGAIN)
            part = opened.get_slice(name)
            shape = part.get_shape()
            if len(shape) != 3 or shape[0] != features or shape[2] != out or not shape[1]:
                held = " × ".join(map(str, shape))
                raise DictionaryMismatch(
                    f"{name} in {file} is {held} where {features} × layers × {out} was expected.", AGAIN
                )
            total = torch.zeros(features, out)
            for layer in range(shape[1]):
                total += part[:, layer].to(torch.float32)
    except (OSError, SafetensorError) as error:
        raise DictionaryMissing(f"{file} cannot be read: {visible(str(error))[:200]}.", AGAIN) from None
    if not bool(total.isfinite().all()):
        raise DictionaryMismatch(f"{name} in {file} holds numbers that are not finite.", AGAIN)
    return total
