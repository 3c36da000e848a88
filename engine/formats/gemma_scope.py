"""Reading Gemma Scope (`params.npz`) and Gemma Scope 2 (`params.safetensors`): JumpReLU.

Shapes and formulas as SAELens' gemma_2, gemma_2_transcoder and gemma_3 loaders have them.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from engine.dictionary import Dictionary
from engine.encoding.folding import fold_input_scale
from engine.errors import DictionaryMismatch
from engine.formats import hookpoints, npz, tensors
from engine.formats.gemma_scope_folders import Told, told, weights_file
from engine.formats.tensors import Weights
from engine.places import Place
from engine.sites import Site
from engine.text import visible

_INTO_AN_MLP = {"mlp_in", "ln2_normalized", "hook_mlp_in"}
SUMMED = "Its decoder is summed over the layers it writes: activations are exact, reconstruction and steering are not."
AFTER_THE_NORM = (
    "It reads what its configuration says, after the norm; SAELens calls that hook_mlp_in, which is before it."
)
_EMBEDDING = "Trained on embeddings before Gemma scales them; its weights, b_dec too, are scaled to read them after it."


def read(place: Place) -> Dictionary:
    """The dictionary in a folder of Gemma Scope, on the CPU in float32.

    Raises:
        DictionaryMissing: there is no such file, or it is damaged.
        DictionaryMismatch: weights do not fit together, or nothing says which hook it reads.
    """
    file = weights_file(place.path)
    said = told(file)
    if said.architecture != "jump_relu":
        raise DictionaryMismatch(
            f"{place.path} is a {visible(said.architecture)[:80]} dictionary; of Gemma Scope jump_relu is read.",
            "Take one that was published as jump_relu.",
        )
    weights = npz.load(file) if file.suffix == ".npz" else tensors.load(file)
    names = {name.lower(): name for name in sorted(weights.names)}
    weights.need(
        *(names.get(name, name) for name in ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")), what="Gemma Scope"
    )
    _refuse_scaled(weights, names)
    site, write_site = _sites(place, said)
    encoder = weights.tensor(names["w_enc"], None, None).T.contiguous()
    features, width = encoder.shape
    decoder, summed = _decoder(weights, names["w_dec"], features)
    transcoder = write_site is not None
    if not transcoder and decoder.shape[1] != width:
        raise DictionaryMismatch(
            f"{file} reads {width} numbers and writes {decoder.shape[1]}: it is a transcoder, and reads {site.hook}?",
            hookpoints.REMEDY,
        )
    skip = _skip(weights, said, width, decoder.shape[1])
    made = Dictionary(
        source=place.source or hookpoints.as_source(file.parent.name),
        site=site,
        write_site=write_site or site,
        kind="jumprelu",
        architecture=_architecture(transcoder, skip),
        encoder=encoder,
        decoder=decoder,
        b_enc=weights.tensor(names["b_enc"], features),
        b_dec=weights.tensor(names["b_dec"], decoder.shape[1]),
        folder=file.parent,
        sha256=weights.sha256,
        threshold=weights.tensor(names["threshold"], features),
        skip=skip,
        subtract_b_dec=False,
        metadata=_metadata(said, site, write_site),
        form="Gemma Scope" if file.suffix == ".npz" else "Gemma Scope 2",
        notes=(SUMMED,) if summed else (),
    )
    if site.kind == "mlp_in" and transcoder:
        made.notes = (*made.notes, AFTER_THE_NORM)
    if site.kind == "embed" and file.suffix == ".npz":
        made = replace(fold_input_scale(made, width**-0.5), notes=(*made.notes, _EMBEDDING))
    return made


def _sites(place: Place, said: Told) -> tuple[Site, Site | None]:
    """Where it reads, and where it writes if that is elsewhere; what was asked for comes before what names say."""
    site = hookpoints.site_of(place.hook, place.path) if place.hook else said.site
    if site is None:
        raise DictionaryMismatch(
            f"Neither {place.path} nor a configuration in it says which hook it reads.", hookpoints.REMEDY
        )
    if hook_out := place.extra.get("hook_out"):
        writes: Site | None = hookpoints.site_of(str(hook_out), place.path)
        return site, None if writes == site else writes
    if said.site == site:
        return site, said.write_site
    return site, Site("mlp_out", site.layer) if site.kind in _INTO_AN_MLP else None


def _decoder(weights: Weights, name: str, features: int) -> tuple[Tensor, bool]:
    """[F, d_out], and whether it was summed over the layers that a cross-layer transcoder writes."""
    stored = weights.tensor(name)
    if stored.ndim == 3 and stored.shape[0] == features:
        return stored.sum(1), True
    if stored.ndim == 2 and stored.shape[0] == features and stored.numel():
        return stored, False
    return weights.tensor(name, features, None), False


def _skip(weights: Weights, said: Told, width: int, out: int) -> Tensor | None:
    """W_skip [d_out, d_in]: the file has its transpose."""
    if "affine_skip_connection" in weights:
        return weights.tensor("affine_skip_connection", width, out).T.contiguous()
    if said.affine:
        weights.need("affine_skip_connection", what="a transcoder with an affine connection")
    return None


def _architecture(transcoder: bool, skip: Tensor | None) -> str:
    if not transcoder:
        return "jumprelu"
    return "jumprelu_transcoder" if skip is None else "jumprelu_skip_transcoder"


def _refuse_scaled(weights: Weights, names: dict[str, str]) -> None:
    """A factor from finetuning belongs into the activations; SAELens refuses it too where it is not one."""
    name = names.get("scaling_factor")
    if name is not None and not bool((weights.tensor(name) == 1).all()):
        raise DictionaryMismatch(
            f"{weights.file} has a scaling factor from finetuning, which is not read.",
            "Take the dictionary that was not finetuned.",
        )


def _metadata(said: Told, site: Site, write_site: Site | None) -> dict[str, object]:
    found: dict[str, object] = {"hook_name": site.hook, "prepend_bos": True, "context_size": 1024}
    if write_site is not None:
        found["hook_name_out"] = write_site.hook
    if said.model is not None:
        found["model_name"] = said.model
    return found
