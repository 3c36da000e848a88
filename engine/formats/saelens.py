"""Reading a SAELens folder (`cfg.json`, `sae_weights.safetensors`) with torch and safetensors alone.

What SAELens would silently ignore is done as its settings say or refused: an input normalisation that was never
folded, a head index, an unknown hook, another activation function, tensors nobody asked for.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.describing import add_notes
from engine.encoding.folding import fold_input_scale
from engine.encoding.normalising import NORMALISATIONS
from engine.encoding.prediction import Attention, Prediction
from engine.encoding.pursuit import Pursuit
from engine.errors import BadRequest, DictionaryMismatch
from engine.formats import tensors
from engine.formats.find import CONFIG
from engine.formats.saelens_settings import WEIGHTS, in_new_form, read_settings
from engine.formats.saelens_state import ATTENTION, checked
from engine.names.neuronpedia import page_in
from engine.places import Place
from engine.sites import Site, parse_hook
from engine.text import visible

KINDS_OF = {
    "standard": "standard",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "gated": "gated",
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "temporal": "temporal",
    "matching_pursuit": "matching_pursuit",
}
"""SAELens' architectures; the two of BatchTopK are met only in what was saved while training."""
_ACTIVATIONS = {None, "relu", "topk"}
_FACTOR = "norm_scaling_factor"


def read(place: Place) -> Dictionary:
    """The dictionary at a place of form `saelens`.

    Raises:
        DictionaryMissing: something is absent or unreadable.
        DictionaryMismatch: it asks for something that would give wrong numbers here.
    """
    settings = read_settings(place.path)
    _refuse_settings(_called(place), settings)  # before the weights are read
    weights = tensors.load(place.path / WEIGHTS)
    return build(place, settings, dict(weights.entries), weights.sha256)


def read_dictionary(folder: Path, source: str | None = None) -> Dictionary:
    """The dictionary in a SAELens folder, on the CPU in float32; errors as `read`.

    `source` is its name on screen; by default Neuronpedia's where the metadata has one, else the folder's name.
    """
    return add_notes(read(Place("saelens", folder, source)))


def build(place: Place, settings: dict[str, Any], state: dict[str, Tensor], sha256: str) -> Dictionary:
    """The dictionary that settings and weights describe, as SAELens and its loaders hand them over.

    Args:
        place: its `source`, `neuronpedia` and, where the settings have none, `hook` are taken over; of `extra`,
            `norm_scaling_factor` folds an input scale as SAELens' registry does.
        settings: flat as before version 6, or with `metadata`.
        state: tensors by SAELens' names, of any float type; emptied, so that no weight is held twice.
        sha256: of the file of weights.

    Raises:
        DictionaryMismatch: it asks for something that would give wrong numbers here.
    """
    settings = in_new_form(settings)
    metadata: dict[str, Any] = settings["metadata"]
    if place.neuronpedia is not None:
        metadata["neuronpedia_id"] = place.neuronpedia
    name = _called(place)
    _refuse_settings(name, settings)
    normalisation = _normalisation(name, settings, place)
    site = _site(name, metadata.get("hook_name") or place.hook)
    architecture: str = settings.get("architecture", "standard")
    transcoder = "transcoder" in architecture
    out_name = metadata.get("hook_name_out")
    weights = checked(name, architecture, settings, state)
    kind = KINDS_OF[architecture]
    subtract = not transcoder and bool(settings.get("apply_b_dec_to_input", True))
    tied = "W_enc" not in weights
    decoder = weights["W_dec"].contiguous()
    b_enc = weights["b_gate"] if kind == "gated" else weights.get("b_enc")
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    made = Dictionary(
        source=place.source or _source(place, metadata),
        site=site,
        write_site=_site(name, out_name) if transcoder and out_name else site,
        kind=kind,
        architecture=architecture,
        encoder=decoder if tied else weights["W_enc"].T.contiguous(),
        decoder=decoder,
        b_enc=decoder.new_zeros(len(decoder)) if b_enc is None else b_enc,
        b_dec=weights["b_dec"]
        if subtract or not tied
        else torch.zeros_like(weights["b_dec"]),  # tied ones add what they subtract
        folder=place.path if place.path.is_dir() else place.path.parent,
        sha256=sha256,
        k=_chosen(name, settings, kind),
        threshold=weights.get("threshold"),
        r_mag=weights.get("r_mag"),
        b_mag=weights.get("b_mag"),
        skip=weights.get("W_skip"),
        subtract_b_dec=subtract,
        rescale_by_decoder_norm=bool(settings.get("rescale_acts_by_decoder_norm", False)),
        normalisation=normalisation,
        input_scale=float(settings.get("activation_normalization_factor") or 1.0),
        centre=bool(kwargs.get("center_writing_weights", False)),
        metadata=metadata,
        place=place,
        notes=() if out_name or not transcoder else (f"does not say where it writes: taken as {site.hook}",),
        pursuit=_pursuit(name, settings) if kind == "matching_pursuit" else None,
        prediction=_prediction(settings, weights) if kind == "temporal" else None,
    )
    if settings.get("normalize_activations") == "expected_average_only_in":
        made = fold_input_scale(made, float(place.extra[_FACTOR]))
        made.notes += (f"the scale of its input in training, {float(place.extra[_FACTOR]):g}, is folded in",)
    return made


# --- settings ---------------------------------------------------------------------------------------------------------


def _refuse_settings(name: str, settings: dict[str, Any]) -> None:
    """What is wrong whatever the weights are."""
    architecture, metadata = settings.get("architecture", "standard"), settings["metadata"]
    if architecture not in KINDS_OF:
        raise DictionaryMismatch(
            f"{name} is a {visible(str(architecture))} dictionary, which this version does not read.",
            f"It reads {', '.join(KINDS_OF)}.",
        )
    for key in ("hook_head_index", "hook_head_index_out"):
        if metadata.get(key) is not None:
            raise DictionaryMismatch(
                f"{name} reads a single attention head, which this version does not.",
                "Open a dictionary of the whole site.",
            )
    if "transcoder" in architecture and settings.get("apply_b_dec_to_input"):
        raise DictionaryMismatch(
            f"{name} is a transcoder that would subtract b_dec, which belongs to where it writes.",
            "Set apply_b_dec_to_input to false in its cfg.json, or fold it into b_enc.",
        )
    activation = settings.get("activation_fn")
    if activation not in _ACTIVATIONS or (activation == "topk" and KINDS_OF[architecture] != "topk"):
        raise DictionaryMismatch(
            f"{name} was trained with the activation function {visible(str(activation))}, which SAELens has dropped.",
            "Open a dictionary with relu, topk, jumprelu or gated activations.",
        )
    reshape = settings.get("reshape_activations") or "none"
    if reshape not in {"none", "hook_z"}:
        raise DictionaryMismatch(
            f"{name} reshapes what it reads in a way that is not known: {visible(str(reshape))}.", "Save it again."
        )


def _normalisation(name: str, settings: dict[str, Any], place: Place) -> str:
    """What is done to an input at reading; `none` where a scale is to be folded in."""
    asked = settings.get("normalize_activations") or "none"
    if asked == "expected_average_only_in":
        if place.extra.get(_FACTOR) is not None:
            return "none"
        raise DictionaryMismatch(
            f"{name} was trained with {asked}, and the scale is not folded into its weights.",
            "Load it with SAELens, call fold_activation_norm_scaling_factor(), and save it again.",
        )
    if asked == "covariance_whitening":
        raise DictionaryMismatch(
            f"{name} was trained with {asked}, and the whitening is not folded into its weights.",
            "Load it with SAELens, call fold_activation_whitening(), and save it again.",
        )
    if asked not in NORMALISATIONS or (
        asked == "constant_scalar_rescale" and settings.get("architecture") != "temporal"
    ):
        raise DictionaryMismatch(
            f"{name} normalises its input in a way that is not known: {visible(str(asked))}.",
            f"Known: {', '.join(NORMALISATIONS)}.",
        )
    return str(asked)


def _chosen(name: str, settings: dict[str, Any], kind: str) -> int:
    """How many features of a token count; 0 where the kind does not choose."""
    if kind == "temporal":
        chosen = settings.get("kval_topk") if settings.get("sae_diff_type", "topk") == "topk" else None
        return 0 if chosen is None else _whole(name, "kval_topk", chosen)
    if kind not in {"topk", "abstopk"}:
        return 0
    if settings.get("k") is None:
        raise DictionaryMismatch(f"{name} does not say how many features of a token count.", 'Add "k" to its cfg.json.')
    return _whole(name, "k", settings["k"])


def _whole(name: str, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 1:
        raise DictionaryMismatch(
            f"{key} of {name} is {visible(str(value))}, which is no number of features.", "Save the dictionary again."
        )
    return int(value)


def _pursuit(name: str, settings: dict[str, Any]) -> Pursuit:
    threshold, steps = settings.get("residual_threshold", 1e-2), settings.get("max_iterations")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or math.isnan(threshold):
        raise DictionaryMismatch(f"residual_threshold of {name} is no number.", "Save the dictionary again.")
    return Pursuit(
        float(threshold),
        None if steps is None else _whole(name, "max_iterations", steps),
        bool(settings.get("stop_on_duplicate_support", True)),
    )


def _prediction(settings: dict[str, Any], weights: dict[str, Tensor]) -> Prediction:
    def layer(number: int) -> Attention:
        return Attention(*(weights[f"attn_layers.{number}.{part}"] for part in ATTENTION))

    layers = tuple(layer(number) for number in range(settings["n_attn_layers"]))
    return Prediction(layers, settings.get("n_heads", 8), 1 / (4 * weights["W_dec"].shape[1]))


# --- names ------------------------------------------------------------------------------------------------------------


def _called(place: Place) -> str:
    """What errors call it."""
    return visible(place.source or place.release or place.path.name)


def _site(name: str, hook: Any) -> Site:
    if not hook or not isinstance(hook, str):
        raise DictionaryMismatch(
            f"{CONFIG} of {name} does not say which hook it reads.", 'Add "hook_name" to its metadata.'
        )
    try:
        return parse_hook(hook)
    except BadRequest as error:
        raise DictionaryMismatch(f"{name}: {error.message}", error.remedy) from None


def _source(place: Place, metadata: dict[str, Any]) -> str:
    page = page_in(metadata.get("neuronpedia_id"))
    name = page.split("/")[1] if page else place.path.name
    return re.sub(r"[\s:@]+", "-", visible(name))
