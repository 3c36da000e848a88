"""Sets: a model and its dictionaries under one name, so that one word opens them together.

A set is a folder with `set.json` {"model", "dictionaries", "description"}. Sets ship with the package, or lie in
the user's data directory, where `saescope train` puts new ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine import default_model, paths
from engine.errors import BadRequest, ModelMissing
from engine.formats.find import find
from engine.places import Place

DEFAULT_MODEL = "default"
DEFAULT_SET = "smollm2"


class SetFile(msgspec.Struct):
    """`set.json`: the model is a folder or "default", the dictionaries are folders beside the file."""

    model: str
    dictionaries: tuple[str, ...]
    description: str = ""


class SetInfo(msgspec.Struct, frozen=True):
    """One set that can be opened."""

    name: str
    description: str
    folder: str
    model: str
    """The model's folder, there or to be made on first use."""
    model_ready: bool
    model_bytes: int
    dictionaries: tuple[str, ...]
    dictionary_bytes: int


@dataclass(frozen=True)
class Opening:
    """What `open` was resolved to; a model of None is the default model, which may still have to be fetched."""

    model: Path | None
    dictionaries: tuple[Place, ...]


def user_sets_dir() -> Path:
    return paths.data_dir() / "sets"


def all_sets() -> list[SetInfo]:
    """Every set on this machine, the default one first; a damaged one is left out."""
    found: dict[str, SetInfo] = {}
    for root in (paths.bundled_sets_dir(), user_sets_dir()):
        for file in sorted(root.glob("*/set.json")):
            try:
                info = _describe(file)
            except (OSError, msgspec.DecodeError):
                continue
            found.setdefault(info.name, info)
    return sorted(found.values(), key=lambda info: (info.name != DEFAULT_SET, info.name))


def _describe(file: Path) -> SetInfo:
    content = msgspec.json.decode(file.read_bytes(), type=SetFile)
    model = default_model.folder() if content.model == DEFAULT_MODEL else Path(content.model)
    return SetInfo(
        name=file.parent.name,
        description=content.description,
        folder=str(file.parent),
        model=str(model),
        model_ready=(model / "config.json").is_file(),
        model_bytes=sum(f.stat().st_size for f in model.glob("*") if f.is_file()),
        dictionaries=content.dictionaries,
        dictionary_bytes=sum(f.stat().st_size for f in file.parent.rglob("*") if f.is_file()),
    )


def resolve(model: str | None, dictionaries: tuple[str, ...]) -> Opening:
    """What a set name, a model folder and dictionary folders mean together.

    Raises:
        BadRequest: a model without dictionaries, or a name that is no set.
        ModelMissing: a path where there is no folder.
        DictionaryMissing: a folder that holds none.
    """
    if model is None and not dictionaries:
        model = DEFAULT_SET
    if model is not None and not dictionaries:
        named = {info.name: info for info in all_sets()}
        if (info := named.get(model)) is None:
            if model and Path(model).expanduser().is_dir():
                raise BadRequest(f"Which dictionaries for {model}?", "Add --dictionary DIR, once for each.")
            sets = f"Sets here: {', '.join(named) or 'none'}."
            if "/" in model:
                raise ModelMissing(f"There is no folder {model}.", f"Give a local Hugging Face model folder. {sets}")
            raise BadRequest(f"There is no set called {model!r}.", sets)
        content = msgspec.json.decode((Path(info.folder) / "set.json").read_bytes(), type=SetFile)
        return Opening(
            None if content.model == DEFAULT_MODEL else Path(content.model),
            tuple(place for name in content.dictionaries for place in find(Path(info.folder) / name)),
        )
    if model is not None and not Path(model).expanduser().is_dir() and "/" not in model:
        raise BadRequest(f"With --dictionary, --model is a folder; there is none called {model!r}.", "Give its path.")
    folders = tuple(place for given in dictionaries for place in find(Path(given).expanduser()))
    return Opening(Path(model).expanduser() if model else None, folders)


def write_set(folder: Path, model: str, dictionaries: list[str], description: str) -> None:
    """Make `folder` a set."""
    content = SetFile(model=model, dictionaries=tuple(dictionaries), description=description)
    (folder / "set.json").write_text(json.dumps(msgspec.to_builtins(content), indent=1) + "\n")
