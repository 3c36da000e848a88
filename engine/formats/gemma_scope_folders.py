"""Which folders Gemma Scope and Gemma Scope 2 are laid out in, and what their names and configurations say.

`gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz` of the first; of the second
`gemma-scope-2-270m-pt/resid_post/layer_12_width_16k_l0_medium/params.safetensors` with `config.json` beside it.
Sites follow SAELens' loaders but for transcoders of the second: SAELens reads them before the norm, they say after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.formats import hookpoints
from engine.jsonfile import read_object
from engine.places import Place
from engine.sites import Site

FILES = ("params.npz", "params.safetensors")
CONFIG = "config.json"
_CROSS_LAYER = re.compile(r"params_layer_([0-9]{1,4})\.safetensors")
_LAYER = re.compile(r"layer_([0-9]{1,4})(?:_|\Z)")
_ROOT = re.compile(r"gemma-scope-(?!2-)(?:.*-)?(res|mlp|att|transcoders?)(?:-canonical)?\Z")
_FIRST = {"res": "resid_post", "mlp": "mlp_out", "att": "hook_z", "transcoder": "ln2_normalized"}
_SECOND = {
    "resid_post": "resid_post",
    "mlp_out": "mlp_out",
    "attn_out": "hook_z",
    "transcoder": "mlp_in",
    "clt": "mlp_in",
}
_MODULE = re.compile(r"model\.(?:language_model\.)?layers\.([0-9]{1,4})\.(.+)")
_MODULES = {
    "input": "resid_pre",
    "output": "resid_post",
    "self_attn.o_proj.input": "hook_z",
    "post_attention_layernorm.output": "attn_out",
    "pre_feedforward_layernorm.output": "mlp_in",
    "mlp.input": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
}
"""What Gemma Scope 2 calls places in Gemma 3."""


@dataclass(frozen=True)
class Told:
    """What names and configuration say of one dictionary."""

    site: Site | None = None
    write_site: Site | None = None
    """Where it writes, of a transcoder."""
    model: str | None = None
    affine: bool = False
    """A skip connection is promised."""
    architecture: str = "jump_relu"


def recognise(path: Path) -> list[Place]:
    """The dictionary in a folder with `params.npz` or `params.safetensors`, or one per layer of a cross-layer one."""
    if path.is_file():
        return [_place(path)] if path.name in FILES or _CROSS_LAYER.fullmatch(path.name) else []
    for name in FILES:
        if (path / name).is_file():
            return [_place(path / name)]
    numbered = {int(m[1]): f for f in path.glob("params_layer_*.safetensors") if (m := _CROSS_LAYER.fullmatch(f.name))}
    return [_place(numbered[layer]) for layer in sorted(numbered)]


def _place(file: Path) -> Place:
    file = file.absolute()
    said = told(file)
    one_of_many = file.name not in FILES
    return Place(
        form="gemma_scope",
        path=file if one_of_many else file.parent,
        source=_source(file),
        hook=said.site.hook if said.site else None,
        extra={"hook_out": said.write_site.hook} if said.write_site else {},
        weights=(file,),
    )


def weights_file(path: Path) -> Path:
    """The file of a place: itself, or the one in its folder."""
    if path.is_file():
        return path
    return next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])


def told(file: Path) -> Told:
    """Everything that is known of a dictionary without opening its weights."""
    file = file.absolute()
    parts = list(file.parts)
    at = next((i for i in reversed(range(len(parts))) if _layer_of(parts[i]) is not None), None)
    if at is None:
        return _configured(file, None, "")
    layer = _layer_of(parts[at])
    if file.suffix == ".npz":
        return _first(parts, at, layer or 0)
    names = "clt" if _CROSS_LAYER.fullmatch(file.name) else " ".join(parts[max(at - 1, 0) : at + 1])
    return _configured(file, layer, names)


def _layer_of(part: str) -> int | None:
    if part == "embedding":
        return 0
    match = _CROSS_LAYER.fullmatch(part) or _LAYER.match(part)
    return int(match[1]) if match else None


def _above(parts: list[str], at: int) -> str:
    """The name of the folder above a layer's: the repository's where huggingface_hub laid out what it downloaded."""
    if at > 2 and parts[at - 2] == "snapshots":
        return parts[at - 3].rpartition("--")[2]
    return parts[at - 1] if at else ""


def _first(parts: list[str], at: int, layer: int) -> Told:
    """Gemma Scope: the name of the repository tells the kind of place."""
    root = _above(parts, at)
    named = _ROOT.fullmatch(root)
    model = re.search(r"gemma-scope-([0-9]+b)-(pt|it)", root)
    name = f"gemma-2-{model[1]}{'-it' if model[2] == 'it' else ''}" if model else None
    if parts[at] == "embedding":
        return Told(Site("embed", 0), model=name)
    if named is None:
        return Told(model=name)
    kind = named[1].removesuffix("s") if named[1].startswith("transcoder") else named[1]
    writes = Site("mlp_out", layer) if kind == "transcoder" else None
    return Told(Site(_FIRST[kind], layer), writes, name)


def _configured(file: Path, layer: int | None, names: str) -> Told:
    """Gemma Scope 2: `config.json` says where it reads, else the folder's name does."""
    config = _config(file.parent)
    site = _module_site(config.get("hf_hook_point_in"))
    writes = _module_site(config.get("hf_hook_point_out"))
    kind = _kind_named(names)
    if site is None and kind is not None and layer is not None:
        site = Site(kind, layer)
    if writes is None and site is not None and site.kind == "mlp_in":
        writes = Site("mlp_out", site.layer)
    if writes == site:
        writes = None
    affine = config.get("affine_connection", "affine" in names and site is not None and site.kind == "mlp_in")
    said = config.get("architecture", "jump_relu")
    return Told(site, writes, _model(config.get("model_name")), affine is True, str(said))


def _kind_named(names: str) -> str | None:
    """The kind of place in names of folders such as `resid_post_all`."""
    return next((kind for word, kind in _SECOND.items() if re.search(rf"\b{word}(?:\b|_)", names)), None)


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / CONFIG)
    except (OSError, ValueError):
        return {}


def _module_site(name: object) -> Site | None:
    match = _MODULE.fullmatch(name) if isinstance(name, str) else None
    kind = _MODULES.get(match[2]) if match else None
    return Site(kind, int(match[1])) if match and kind else None


def _model(name: object) -> str | None:
    """The model as its repository is called: the configurations write `gemma-v3-270m-pt`."""
    if not isinstance(name, str) or not name:
        return None
    name = (name if "google" in name else f"google/{name}").replace("-v3", "-3")
    return name.replace("-pt", "") if "270m" in name else name


def _source(file: Path) -> str:
    """From the folder that names the kind down: `res-layer_12-width_16k-average_l0_82`."""
    parts = list(file.parent.parts) if file.name in FILES else [*file.parent.parts, file.stem]
    at = next((i for i in reversed(range(len(parts))) if _layer_of(parts[i]) is not None), len(parts) - 1)
    above = _above(parts, at)
    if named := _ROOT.fullmatch(above):
        above = named[1]
    elif not _kind_named(above):
        above = ""
    return hookpoints.as_source("-".join(part for part in (above, *parts[at:]) if part))
