"""Why a folder holds no dictionary of a known form: what lies there, and what is missing to it. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import DictionaryMissing
from engine.jsonfile import read_object
from engine.text import visible

FILES = {
    "saelens": "cfg.json, sae_weights.safetensors",
    "sparsify": "cfg.json, sae.safetensors, in a folder named after its module, e.g. layers.3.mlp",
    "notebook": "NAME.pt, NAME_cfg.json",
    "dictionary_learning": "ae.pt, and config.json or a folder that says what it reads, e.g. resid_out_layer3",
    "gemma_scope": "params.npz, or params.safetensors with config.json",
    "circuit_tracer": "config.yaml, and layer_N.safetensors, or W_enc_N.safetensors with W_dec_N.safetensors",
}
"""By form, the files that a folder of it holds."""
_FORMS = "`saescope dictionaries --forms` lists the forms and the files of each."
_SHOWN = 4
_LAYERS = re.compile(r"(layer|W_enc)_[0-9]+\.safetensors")
Told = tuple[str, str]
"""What a folder holds, to follow a colon, and what to do."""


def unknown(path: Path, below: Sequence[Path]) -> DictionaryMissing:
    """The error for a path in which nothing was recognised; `below` are the folders in it that were looked into.

    The first folder that holds part of a known form explains itself; else the path's own files are named.
    """
    said = f"{path} holds no dictionary of a form that is known"
    if path.is_file():
        told = _of_files(path.parent, [path])
        return DictionaryMissing(f"{said}{told[0]}.", told[1]) if told else DictionaryMissing(f"{said}.", _FORMS)
    listed = {folder: _files(folder) for folder in (path, *below)}
    for folder, files in listed.items():
        if (told := _of_files(folder, files)) is not None:
            where = "" if folder == path else f" ({visible(str(folder.relative_to(path)))[:120]})"
            return DictionaryMissing(f"{said}{told[0]}{where}.", told[1])
    if not any(listed.values()):
        what = "is empty" if not below else "has folders but no files in them"
        return DictionaryMissing(f"{said}: it {what}.", "Copy the files of a dictionary there, or give another folder.")
    if _is_model(path):
        return DictionaryMissing(f"{said}.", f"It is a model: give it with --model {path}.")
    names = [visible(file.name)[:60] for file in listed[path]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    held = f" It holds {', '.join(names[:_SHOWN])}{more}." if names else ""
    return DictionaryMissing(f"{said}.", f"{_FORMS}{held}")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []


def _of_files(folder: Path, files: Sequence[Path]) -> Told | None:
    return next((told for look in _LOOKS if (told := look(folder, [file.name for file in files])) is not None), None)


def _without_settings(folder: Path, names: list[str]) -> Told | None:
    for weights, who in (("sae_weights.safetensors", "SAELens"), ("sae.safetensors", "sparsify")):
        if weights in names and not (folder / "cfg.json").is_file():
            return f": {weights} lies there without the cfg.json of {who}", "Copy cfg.json from the same folder."
    return None


def _broken_yaml(folder: Path, names: list[str]) -> Told | None:
    """`config.yaml` that is none, or not one of circuit-tracer's though its files are there."""
    layers = [name for name in names if _LAYERS.fullmatch(name)]
    if "config.yaml" in names:
        import yaml

        try:
            yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1})" if mark is not None else ""
            return f": its config.yaml is not valid YAML{where}", "Correct it, or copy it again."
        if layers:
            return (
                f": its config.yaml does not say what {layers[0]} is",
                "Add model_kind: transcoder_set (or cross_layer_transcoder), feature_input_hook and "
                "feature_output_hook.",
            )
    elif layers and not (folder / "config.yaml").is_file():
        return (
            f": {layers[0]} lies there without the config.yaml of circuit-tracer",
            "Copy config.yaml from where it was published, or write one with model_kind: transcoder_set, "
            "feature_input_hook (e.g. mlp.hook_in) and feature_output_hook (e.g. hook_mlp_out).",
        )
    return None


def _another_name(folder: Path, names: list[str]) -> Told | None:
    """Weights under a name that no library gives them."""
    if (archive := next((name for name in names if name.endswith(".npz")), None)) is not None:
        return f": it has {visible(archive)[:60]}", "Gemma Scope calls its file params.npz: give it that name."
    if _is_model(folder):
        return None
    pickled = next((name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin"))), None)
    if pickled is not None:
        stem = Path(visible(pickled)[:60]).stem
        return (
            f": it has {visible(pickled)[:60]}",
            f"One of dictionary_learning is called ae.pt: give it that name; one of the 1L notebook needs "
            f"{stem}_cfg.json beside {stem}.pt.",
        )
    tensors = next((name for name in names if name.endswith(".safetensors")), None)
    if tensors is not None:
        return (
            f": it has {visible(tensors)[:60]}",
            f"SAELens calls its file sae_weights.safetensors, beside cfg.json; sparsify sae.safetensors. {_FORMS}",
        )
    return None


_LOOKS: tuple[Callable[[Path, list[str]], Told | None], ...] = (_without_settings, _broken_yaml, _another_name)


def _is_model(folder: Path) -> bool:
    try:
        return {"model_type", "architectures"} & read_object(folder / "config.json").keys() != set()
    except (OSError, ValueError):
        return False
