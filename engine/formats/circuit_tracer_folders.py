"""Which folders circuit-tracer reads its transcoders from, and what their `config.yaml` says of every layer.

A set of transcoders is `layer_{i}.safetensors`; a cross-layer transcoder `W_enc_{i}` and `W_dec_{i}.safetensors`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import BadRequest
from engine.places import Place
from engine.sites import parse_hook

CONFIG = "config.yaml"
_WANDB = ("wandb-config.yaml", "wanb-config.yaml")
"""Beside some sets that have no `config.yaml`; the second name is a slip that was published."""
_BIGGEST = 1 << 20
_LAYER_FILE = re.compile(r"layer_([0-9]{1,4})\.safetensors")
_ENCODER_FILE = re.compile(r"W_enc_([0-9]{1,4})\.safetensors")
MISSING = "missing"
"""In a place's `extra`: which layers of its set are not in the folder."""
SETS, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"


@dataclass(frozen=True)
class Config:
    """What `config.yaml` says, as far as it is needed."""

    kind: str = SETS
    model: str | None = None
    reads: str | None = None
    """A hook's name inside the block, e.g. `mlp.hook_in`."""
    writes: str | None = None
    activation: str | None = None
    k: int | None = None
    files: dict[int, str] = field(default_factory=dict)
    """Layers whose file is named: a path, or `hf://…` where it lies on the hub."""


def recognise(path: Path) -> list[Place]:
    """One place per layer of the transcoders in a folder, or the one that a file of it is."""
    folder = path.parent if path.is_file() else path
    config = read_config(folder)
    if config is None:
        return []
    places = _cross_layer(folder, config) if config.kind == CROSS_LAYER else _set(folder, config)
    if path.is_file() and path.name != CONFIG:
        return [place for place in places if place.path.name == path.name]
    if missing := _missing(places):
        return [replace(place, extra={**place.extra, MISSING: missing}) for place in places]
    return places


def _missing(places: list[Place]) -> str:
    """The layers below the last that have no file, e.g. `1, 3–5`; "" where there are none.

    Names of files alone tell which layers there are, so one that was not copied would be passed over in silence.
    """
    here = {place.extra["layer"] for place in places}
    absent = [layer for layer in range(max(here, default=0)) if layer not in here]
    runs: list[list[int]] = []
    for layer in absent:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def read_config(folder: Path) -> Config | None:
    """The configuration in a folder; None where it is not one of circuit-tracer's."""
    found = _yaml(folder / CONFIG)
    if not found:
        published = any((folder / name).is_file() for name in _WANDB) and any(folder.glob("layer_*.safetensors"))
        return Config(reads="mlp.hook_in", writes="hook_mlp_out") if published else None
    kind = found.get("model_kind") or (SETS if "feature_input_hook" in found and "transcoders" in found else None)
    if kind not in (SETS, CROSS_LAYER):
        return None
    k = found.get("k")
    return Config(
        kind=kind,
        model=_text(found.get("model_name")),
        reads=_text(found.get("feature_input_hook")),
        writes=_text(found.get("feature_output_hook")),
        activation=_text(found.get("activation")),
        k=k if isinstance(k, int) and k > 0 else None,
        files=_files(found.get("transcoders")),
    )


def _yaml(file: Path) -> dict[str, Any]:
    if not file.is_file() or file.stat().st_size > _BIGGEST:
        return {}
    import yaml

    try:
        found = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _files(listed: object) -> dict[int, str]:
    """Layer → file, from a list of files in order of layers, or of `layer` and `filepath` as older sets have it."""
    if not isinstance(listed, list):
        return {}
    files: dict[int, str] = {}
    for number, entry in enumerate(listed):
        if isinstance(entry, str):
            files[number] = entry
        elif isinstance(entry, dict) and isinstance(entry.get("layer"), int) and isinstance(entry.get("filepath"), str):
            files[entry["layer"]] = entry["filepath"]
    return files


def _set(folder: Path, config: Config) -> list[Place]:
    if not config.files:
        return [
            _place(file, layer, config, "transcoder", (file,)) for layer, file in _numbered(folder, _LAYER_FILE).items()
        ]
    places = []
    for layer, named in sorted(config.files.items()):
        if named.startswith("hf://"):
            places.append(_place(folder, layer, config, "transcoder", (), uri=named))
        else:
            file = folder / named
            places.append(_place(file, layer, config, "transcoder", (file,)))
    return places


def _cross_layer(folder: Path, config: Config) -> list[Place]:
    if any(named.startswith("hf://") for named in config.files.values()):
        return [_place(folder, layer, config, "clt", (), uri=named) for layer, named in sorted(config.files.items())]
    return [
        _place(file, layer, config, "clt", (file, file.with_name(f"W_dec_{layer}.safetensors")))
        for layer, file in _numbered(folder, _ENCODER_FILE).items()
    ]


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found = {int(m[1]): file for file in folder.glob("*.safetensors") if (m := pattern.fullmatch(file.name))}
    return dict(sorted(found.items()))


def _place(path: Path, layer: int, config: Config, what: str, weights: tuple[Path, ...], **more: Any) -> Place:
    extra: dict[str, Any] = {
        "layer": layer,
        "kind": config.kind,
        "hook_out": _hook(layer, config.writes),
        "activation": config.activation,
        "k": config.k,
        "model": config.model,
    }
    return Place(
        form="circuit_tracer",
        path=path.absolute(),
        source=f"{layer}-{what}",
        hook=_hook(layer, config.reads),
        extra={name: value for name, value in (extra | more).items() if value is not None},
        weights=tuple(file.absolute() for file in weights),
    )


def _hook(layer: int, name: str | None) -> str | None:
    """The whole name, in the words of `engine.sites` where it is known there."""
    if name is None:
        return None
    hook = f"blocks.{layer}.{name}"
    try:
        return parse_hook(hook).hook
    except BadRequest:
        return hook
