"""The tensors of a SAELens dictionary: those its architecture needs, of shapes that fit together, and no others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.errors import DictionaryMismatch
from engine.formats.tensors import TURNED
from engine.text import visible

_AGAIN = "Copy it again from where it was published; if it is your own, save it again."
_NO_BIAS = {"temporal", "matching_pursuit"}
_UNIT_SCALES = ("scaling_factor", "finetuning_scaling_factor")
"""Versions before 6 saved them; all ones, they mean nothing."""
_MOST_LAYERS = 64
ATTENTION = tuple(f"{part}.{what}" for part in ("q_target", "k_ctx", "v_ctx", "c_proj") for what in ("weight", "bias"))
"""Of one layer of a temporal dictionary, in the order of `engine.encoding.prediction.Attention`."""


def checked(name: str, architecture: str, settings: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32, those of BatchTopK while training as the JumpReLU they are afterwards.

    `name` is what errors call the dictionary; `state` is emptied, so that no weight is held twice.

    Raises:
        DictionaryMismatch: a tensor is absent, unknown, of another shape, or not finite.
    """
    layers = settings.setdefault("n_attn_layers", 1)
    if not isinstance(layers, int) or not 0 <= layers <= _MOST_LAYERS:
        raise DictionaryMismatch(f"n_attn_layers of {name} is no number of layers.", _AGAIN)
    needed = _needed(architecture, settings)
    _refuse_names(name, architecture, needed, state)
    weights = {key: _numbers(name, key, state.pop(key)) for key in sorted(state)}
    for key in _UNIT_SCALES:
        if key in weights and not torch.allclose(ones := weights.pop(key), torch.ones_like(ones)):
            raise DictionaryMismatch(
                f"{name} holds a {key} other than 1, which SAELens has dropped.",
                "Multiply W_dec by it, remove it, and save the dictionary again.",
            )
    _refuse_shapes(name, architecture, settings, weights)
    if "batchtopk" in architecture:
        weights["threshold"] = _learned(weights, bool(settings.get("rescale_acts_by_decoder_norm", True)))
        settings.setdefault("rescale_acts_by_decoder_norm", True)
    return weights


def _needed(architecture: str, settings: dict[str, Any]) -> set[str]:
    needed = {"W_dec", "b_dec"}
    if architecture != "matching_pursuit" and not (architecture == "temporal" and settings.get("tied_weights", True)):
        needed |= {"W_enc"}
    if architecture == "gated":
        needed |= {"b_gate", "b_mag", "r_mag"}
    elif architecture not in _NO_BIAS:
        needed |= {"b_enc"}
    if "jumprelu" in architecture:
        needed |= {"threshold"}
    if "batchtopk" in architecture:
        needed |= {"topk_threshold"}
    if "skip" in architecture:
        needed |= {"W_skip"}
    if architecture == "temporal":
        layers = range(settings["n_attn_layers"])
        needed |= {f"attn_layers.{number}.{part}" for number in layers for part in ATTENTION}
    return needed


def _refuse_names(name: str, architecture: str, needed: set[str], state: dict[str, Tensor]) -> None:
    if missing := sorted(needed - state.keys()):
        raise DictionaryMismatch(
            f"{name} lacks {_listed(missing)}, which a {architecture} dictionary needs.",
            f"It holds {_listed(sorted(state))}.",
        )
    allowed = needed | set(_UNIT_SCALES)
    allowed |= {"W_skip"} if "transcoder" in architecture else set()
    if unknown := sorted(state.keys() - allowed):
        raise DictionaryMismatch(
            f"{name} holds {_listed(unknown)}, which a {architecture} dictionary does not have: "
            "without it the numbers would be wrong.",
            f"Correct the architecture in its settings, or remove {_listed(unknown)} if it means nothing.",
        )


def _numbers(name: str, key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel():
        raise DictionaryMismatch(f"{key} of {name} holds no floating-point numbers.", _AGAIN)
    found = tensor.detach().to("cpu", torch.float32)
    low, high = found.aminmax()
    bounds = torch.stack([low, high])
    if not bool(bounds.isfinite().all()) and (key != "threshold" or bool(bounds.isnan().any())):
        raise DictionaryMismatch(f"{key} of {name} holds numbers that are not finite.", _AGAIN)
    return found


def _refuse_shapes(name: str, architecture: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    decoder = weights["W_dec"]
    if decoder.ndim != 2 or weights.get("W_enc", decoder).ndim != 2:
        raise DictionaryMismatch(f"W_enc and W_dec of {name} are no matrices.", _AGAIN)
    d_sae, d_out = decoder.shape
    d_in = weights["W_enc"].shape[0] if "W_enc" in weights else d_out
    expected: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae), "W_skip": (d_out, d_in), "b_dec": (d_out,), "topk_threshold": (),
    }  # fmt: skip
    expected |= dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag"), (d_sae,))
    if "transcoder" not in architecture:
        expected["W_dec"] = (d_sae, d_in)
    if architecture == "temporal":
        expected |= _attention_shapes(name, settings, d_sae)
    for key, shape in expected.items():
        if key in weights and tuple(weights[key].shape) != shape:
            held, wanted = (" × ".join(map(str, s)) or "one number" for s in (tuple(weights[key].shape), shape))
            turned = len(shape) == 2 and tuple(weights[key].shape) == shape[::-1]
            raise DictionaryMismatch(
                f"{name} does not fit together: {key} is {held} where {wanted} is expected.",
                TURNED if turned else _AGAIN,
            )


def _attention_shapes(name: str, settings: dict[str, Any], d_sae: int) -> dict[str, tuple[int, ...]]:
    heads, factor = settings.get("n_heads", 8), settings.get("bottleneck_factor", 64)
    if not all(isinstance(n, int) and n > 0 for n in (heads, factor)) or d_sae % (heads * factor):
        raise DictionaryMismatch(
            f"{name} does not fit together: {d_sae} features in {heads} heads, {factor} times narrower.", _AGAIN
        )
    narrow = d_sae // factor
    widths = {"q_target": narrow, "k_ctx": narrow, "v_ctx": d_sae, "c_proj": d_sae}
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(settings["n_attn_layers"]):
        for part, width in widths.items():
            shapes[f"attn_layers.{number}.{part}.weight"] = (width, d_sae)
            shapes[f"attn_layers.{number}.{part}.bias"] = (width,)
    return shapes


def _learned(weights: dict[str, Tensor], rescaled: bool) -> Tensor:
    """The threshold of every feature, from the one learned in training on activations times decoder norm."""
    threshold = torch.full_like(weights["b_enc"], float(weights.pop("topk_threshold")))
    return threshold / weights["W_dec"].norm(dim=1).clamp(min=1e-8) if rescaled else threshold


def _listed(names: list[str]) -> str:
    return ", ".join(visible(key)[:80] for key in names[:12]) + (" and more" if len(names) > 12 else "")
