"""Reading what dictionary_learning trained (`ae.pt`, `config.json`): its eight classes, each with its own formula.

Features are the library's raw ones. Its newer versions rescale some of them to unit decoder columns while loading,
its older ones did not, and published circuits are in the raw units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.identity import neurons
from engine.errors import DictionaryMismatch
from engine.formats import configs, hookpoints, tensors
from engine.formats.find import DICTIONARY_LEARNING_WEIGHTS
from engine.hashes import sha256_of
from engine.places import Place
from engine.sites import Site
from engine.text import visible


@dataclass(frozen=True)
class _Class:
    """How one of the classes names its tensors and what it does with them."""

    kind: str
    b_enc: str
    b_dec: str
    also: tuple[str, ...] = ()
    encoder: str = "encoder.weight"
    decoder: str = "decoder.weight"
    subtract_b_dec: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.encoder, self.decoder, self.b_enc, self.b_dec, *self.also)

    @property
    def transposed(self) -> bool:
        """Whether its matrices are the transposes of `torch.nn.Linear`'s."""
        return self.encoder == "W_enc"


_CLASSES = {
    "AutoEncoder": _Class("standard", "encoder.bias", "bias"),
    "AutoEncoderNew": _Class("standard", "encoder.bias", "decoder.bias", subtract_b_dec=False),
    "GatedAutoEncoder": _Class("gated", "gate_bias", "decoder_bias", ("r_mag", "mag_bias")),
    "JumpReluAutoEncoder": _Class("jumprelu", "b_enc", "b_dec", ("threshold",), "W_enc", "W_dec", subtract_b_dec=False),
    "AutoEncoderTopK": _Class("topk", "encoder.bias", "b_dec"),
    "BatchTopKSAE": _Class("jumprelu", "encoder.bias", "b_dec", ("threshold",)),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", "b_enc", "b_dec", ("threshold", "group_sizes"), "W_enc", "W_dec"),
}
_IDENTITY = "IdentityDict"
_MAX_NEURONS = 1 << 15
_RESCALED = {
    "AutoEncoder": "dictionary_learning's newer from_pretrained rescales them to unit decoder columns",
    "AutoEncoderNew": "dictionary_learning multiplies them by ‖decoder column‖ with output_features",
    "GatedAutoEncoder": "some versions of dictionary_learning multiply them by ‖decoder column‖",
    "JumpReluAutoEncoder": "some versions of dictionary_learning multiply them by ‖W_dec‖",
}
"""What the library's own features are times, where decoder rows are not unit norm."""
_BY_NAMES = "no configuration names its class: told by the names of its weights"
_BY_TRAINER = "no configuration names its class: told by the name of its trainer"
_UNIT = 1e-3


def read(place: Place) -> Dictionary:
    """The dictionary in a folder with `ae.pt`, or in a checkpoint file, on the CPU in float32.

    Raises:
        DictionaryMissing: something is absent, damaged or no JSON.
        DictionaryMismatch: class, hook or k is not said anywhere, or what is said does not fit the weights.
    """
    config_file = _config_file(place.path)
    config = configs.read(config_file) if config_file is not None else {}
    trainer, buffer = configs.part(config, "trainer"), configs.part(config, "buffer")
    site = _site(place, trainer, buffer)
    source = place.source or hookpoints.as_source(place.path.name)
    if trainer.get("dict_class") == _IDENTITY:
        return _identity(place, source, site, trainer, buffer, config_file)
    weights = tensors.load(place.path if place.path.is_file() else place.path / DICTIONARY_LEARNING_WEIGHTS)
    name, told = _class_of(place, trainer, weights)
    theirs = _CLASSES[name]
    weights.need(*theirs.keys, what=f"dictionary_learning's {name}")
    encoder, decoder = _matrices(weights, theirs)
    features, width = encoder.shape
    configs.agree(weights.file, "activation_dim", trainer.get("activation_dim"), width)
    configs.agree(weights.file, "dict_size", trainer.get("dict_size"), features)
    made = Dictionary(
        source=source,
        site=site,
        write_site=site,
        kind=theirs.kind,
        architecture=theirs.kind,
        encoder=encoder,
        decoder=decoder,
        b_enc=weights.tensor(theirs.b_enc, features),
        b_dec=weights.tensor(theirs.b_dec, width),
        folder=weights.file.parent,
        sha256=weights.sha256,
        subtract_b_dec=theirs.subtract_b_dec,
        metadata=configs.metadata(site, trainer.get("lm_name"), buffer.get("ctx_len")),
        form=f"dictionary_learning {name}",
    )
    notes = [told]
    if name == "GatedAutoEncoder":
        made.r_mag, made.b_mag = weights.tensor("r_mag", features), weights.tensor("mag_bias", features)
    elif name == "JumpReluAutoEncoder":
        made.threshold = weights.tensor("threshold", features)
    elif name == "AutoEncoderTopK":
        made.k = _k(weights, trainer, features)
    elif "threshold" in theirs.also:
        made.threshold, note = _scalar_threshold(weights, features)
        notes.append(note)
    notes.append(_rescaling(name, made.decoder))
    made.notes = tuple(note for note in notes if note)
    return made


# --- what the configuration says -------------------------------------------------------------------------------------


def _config_file(path: Path) -> Path | None:
    """Beside the weights, or above them where they are a checkpoint; old folders have none."""
    folder = path.parent if path.is_file() else path
    found = folder / "config.json"
    if not found.is_file() and folder.name == "checkpoints":
        found = folder.parent / "config.json"
    return found if found.is_file() else None


def _site(place: Place, trainer: dict[str, Any], buffer: dict[str, Any]) -> Site:
    """From what was asked for, else from the configuration, else from the names of the folders."""
    if place.hook:
        return hookpoints.site_of(place.hook, place.path)
    side, said = buffer.get("io", "out"), trainer.get("submodule_name")
    folder = (place.path.parent if place.path.is_file() else place.path).absolute()
    names = [said] if isinstance(said, str) else [folder.name, folder.parent.name, folder.parent.parent.name]
    found = next(((name, site) for name in names if (site := hookpoints.of_submodule(name)) is not None), None)
    if found is None:
        why = f": its submodule is called {visible(said)[:80]}" if isinstance(said, str) else ""
        hint = hookpoints.remedy(said or place.path.name, trainer.get("layer"), side == "in")
        raise DictionaryMismatch(f"Nothing says which hook {place.path} reads{why}.", hint)
    name, site = found
    layer = trainer.get("layer")
    if isinstance(layer, int) and layer >= 0 and site.kind != "embed" and layer != site.layer:
        raise DictionaryMismatch(
            f"config.json of {place.path} says layer {layer}, its submodule is called {name}.", hookpoints.REMEDY
        )
    if side not in ("out", None) and not (side == "in" and site.kind == "resid_pre"):
        raise DictionaryMismatch(
            f"{place.path} was trained on what goes {visible(str(side))} at {name}, not on what comes out.",
            hookpoints.remedy(name, site.layer, inputs=True) if side == "in" else hookpoints.REMEDY,
        )
    return site


# --- what the weights say --------------------------------------------------------------------------------------------


def _matrices(weights: tensors.Weights, theirs: _Class) -> tuple[Tensor, Tensor]:
    """Encoder and decoder, both [d_sae, d_model]."""
    encoder = weights.tensor(theirs.encoder, None, None)
    if theirs.transposed:
        return encoder.T.contiguous(), weights.tensor(theirs.decoder, encoder.shape[1], encoder.shape[0])
    return encoder, weights.tensor(theirs.decoder, encoder.shape[1], encoder.shape[0]).T.contiguous()


def _class_of(place: Place, trainer: dict[str, Any], weights: tensors.Weights) -> tuple[str, str]:
    """The class of a state dict, and how it was told where the configuration does not name it."""
    said = trainer.get("dict_class")
    if isinstance(said, str):
        if said not in _CLASSES:
            raise DictionaryMismatch(
                f"{place.path} is a {visible(said)[:80]}, a class of dictionary_learning that is not read here.",
                f"These are: {', '.join(_CLASSES)}, {_IDENTITY}.",
            )
        return said, ""
    has = weights.names
    if {"encoder.weight", "b_dec"} <= has:
        return _top_k_class(place, trainer, weights)
    if {"W_enc", "group_sizes"} <= has:
        found = "MatryoshkaBatchTopKSAE"
    elif {"W_enc", "threshold"} <= has:
        found = "JumpReluAutoEncoder"
    elif "gate_bias" in has:
        found = "GatedAutoEncoder"
    elif {"encoder.weight", "decoder.bias"} <= has:
        found = "AutoEncoderNew"
    elif {"encoder.weight", "bias"} <= has:
        found = "AutoEncoder"
    else:
        raise DictionaryMismatch(f"{weights.file} is none of dictionary_learning's classes.", weights.held)
    return found, _BY_NAMES


def _top_k_class(place: Place, trainer: dict[str, Any], weights: tensors.Weights) -> tuple[str, str]:
    """TopK and BatchTopK have the same names but other formulas: only the trainer, or a missing threshold, tells."""
    by = str(trainer.get("trainer_class", "")).lower()
    if "batchtopk" in by:
        return "BatchTopKSAE", _BY_TRAINER
    if "topk" in by:
        return "AutoEncoderTopK", _BY_TRAINER
    if "threshold" not in weights:
        return "AutoEncoderTopK", _BY_NAMES
    raise DictionaryMismatch(
        f"{place.path} may be an AutoEncoderTopK or a BatchTopKSAE: their weights have the same names.",
        'Put a config.json with {"trainer": {"dict_class": "AutoEncoderTopK"}} or "BatchTopKSAE" beside it.',
    )


def _k(weights: tensors.Weights, trainer: dict[str, Any], features: int) -> int:
    stored, said = weights.number("k"), trainer.get("k")
    k = configs.count(weights.file, said if stored is None else stored, features)
    configs.agree(weights.file, "k", said, k)
    return k


def _scalar_threshold(weights: tensors.Weights, features: int) -> tuple[Tensor, str]:
    """One threshold for all features, as the library's `encode` applies it by default."""
    value = weights.number("threshold")
    if value is None or not math.isfinite(value):
        raise DictionaryMismatch(f"threshold in {weights.file} is not a finite number.", tensors.AGAIN)
    note = f"one threshold {value:.4g} for all features, not the top k of a batch as in training"
    if value < 0:
        note = f"its threshold was never set ({value:g}): nothing is cut, and more features fire than in training"
    return torch.full((features,), value), note


def _rescaling(name: str, decoder: Tensor) -> str:
    """Where the library's features differ from the raw ones by the norms of the decoder's rows."""
    unit = bool(((decoder.norm(dim=1) - 1).abs() <= _UNIT).all())
    return "" if unit or name not in _RESCALED else f"activations are raw; {_RESCALED[name]}"


def _identity(
    place: Place, source: str, site: Site, trainer: dict[str, Any], buffer: dict[str, Any], file: Path | None
) -> Dictionary:
    """The units of a site themselves: without weights, so its configuration must say how many there are."""
    width = trainer.get("activation_dim") or buffer.get("d_submodule")
    if not isinstance(width, int) or not 0 < width <= _MAX_NEURONS:
        raise DictionaryMismatch(
            f"{place.path} is an {_IDENTITY} that does not say how wide it is.",
            'Add "activation_dim" to trainer in its config.json.',
        )
    made = neurons(
        site,
        width,
        source=source,
        folder=place.path,
        sha256=sha256_of(file) if file is not None else "",
        metadata=configs.metadata(site, trainer.get("lm_name"), buffer.get("ctx_len")),
    )
    made.form = f"dictionary_learning {_IDENTITY}"
    return made
