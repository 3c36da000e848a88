"""Reading what EleutherAI's sparsify trained: a folder per hookpoint with `cfg.json` and `sae.safetensors`.

Its hookpoints are names of Hugging Face modules, e.g. `layers.3.mlp`. Autoencoders read a module's output, transcoders
its input. `b_dec` is taken from the input unless `cfg.json` itself says `transcode`, as the library does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch
from engine.formats import configs, hookpoints, tensors
from engine.formats.find import CONFIG, SPARSIFY_WEIGHTS
from engine.jsonfile import read_object
from engine.places import Place
from engine.sites import Site
from engine.text import visible

_KEYS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def read(place: Place) -> Dictionary:
    """The dictionary of one hookpoint, on the CPU in float32.

    Raises:
        DictionaryMissing: something is absent, damaged or no JSON.
        DictionaryMismatch: signed or groupmax activations, a hookpoint that is no site, or weights that do not fit.
    """
    settings, run = configs.read(place.path / CONFIG), _run(place.path)
    _refuse(place, settings)
    skips = bool(settings.get("skip_connection"))
    transcodes = bool(settings.get("transcode")) or skips or _run_transcodes(run)
    site, write_site = _sites(place, transcodes, str(run.get("model", "")))
    weights = tensors.load(place.path / SPARSIFY_WEIGHTS)
    weights.need(*_KEYS, *(["W_skip"] if skips else []), what="a dictionary of sparsify")
    encoder = weights.tensor("encoder.weight", None, None)
    features, width = encoder.shape
    _agree(place, settings, width, features)
    notes = []
    if transcodes and not settings.get("transcode"):
        notes.append("a transcoder from before 2025-02-12: b_dec is taken from its input, as it was in training")
    return Dictionary(
        source=place.source or hookpoints.as_source(place.path.name),
        site=site,
        write_site=write_site,
        kind="topk",
        architecture=("skip_transcoder" if skips else "transcoder") if transcodes else "topk",
        encoder=encoder,
        decoder=weights.tensor("W_dec", features, width),
        b_enc=weights.tensor("encoder.bias", features),
        b_dec=weights.tensor("b_dec", width),
        folder=place.path,
        sha256=weights.sha256,
        k=configs.count(place.path / CONFIG, settings.get("k"), features),
        skip=weights.tensor("W_skip", width, width) if skips else None,
        subtract_b_dec=not settings.get("transcode"),
        metadata=_metadata(run, site, write_site),
        form="sparsify",
        notes=tuple(notes),
    )


def _run(folder: Path) -> dict[str, Any]:
    """The configuration of the whole run, above its hookpoints, where it was copied along."""
    above = folder.absolute().parents
    for parent in above[: 2 if _seeded(folder) else 1]:
        try:
            return read_object(parent / "config.json")
        except (OSError, ValueError):
            continue
    return {}


def _run_transcodes(run: dict[str, Any]) -> bool:
    inner = run.get("sae")
    return bool(run.get("transcode") or (isinstance(inner, dict) and inner.get("transcode")))


def _seeded(folder: Path) -> bool:
    return re.fullmatch(r"seed[0-9]+", folder.absolute().name) is not None


def _refuse(place: Place, settings: dict[str, Any]) -> None:
    """What computes other activations than the top k of a token."""
    activation = settings.get("activation", "topk")
    if activation != "topk":
        raise DictionaryMismatch(
            f"{place.path} has {visible(str(activation))[:80]} activations, which are not read here.",
            "Of sparsify's dictionaries those with topk are.",
        )
    if settings.get("signed"):
        raise DictionaryMismatch(
            f"{place.path} has signed activations, which sparsify itself no longer computes.",
            "Of sparsify's dictionaries those without “signed” are read.",
        )


def _sites(place: Place, transcodes: bool, model: str) -> tuple[Site, Site]:
    """Where it reads and where it writes: the module's input and output, or its output for both."""
    folder = place.path.absolute()
    name = (folder.parent if _seeded(folder) else folder).name
    out = hookpoints.of_module(name, model)
    reads = hookpoints.into_module(name) if transcodes else out
    if place.hook:
        reads = hookpoints.site_of(place.hook, place.path)
        out = out if transcodes else reads
    if reads is None or out is None:
        which = "input and output are sites" if transcodes else "output is a site"
        raise DictionaryMismatch(
            f"{visible(name)[:80]} in {place.path.parent} is no module whose {which} known here.",
            "Name the folder after its module, e.g. layers.3.mlp." if transcodes else hookpoints.REMEDY,
        )
    return reads, out


def _agree(place: Place, settings: dict[str, Any], width: int, features: int) -> None:
    configs.agree(place.path, "d_in", settings.get("d_in"), width)
    times = settings.get("expansion_factor")
    expected = settings.get("num_latents") or (width * times if isinstance(times, int) else None)
    configs.agree(place.path, "num_latents", expected, features)


def _metadata(run: dict[str, Any], site: Site, write_site: Site) -> dict[str, Any]:
    found = configs.metadata(site, run.get("model"), run.get("ctx_len"))
    return found if write_site == site else found | {"hook_name_out": write_site.hook}
