"""Sets: a model and its dictionaries under one name, so that one word opens them together.

A set is a folder with `set.json` {"model", "dictionaries", "description"}. Sets ship with the package, or lie in
the user's data directory, where `saescope train` puts new ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from engine import default_model, paths

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


def write_set(folder: Path, model: str, dictionaries: list[str], description: str) -> None:
    """Make `folder` a set."""
    content = SetFile(model=model, dictionaries=tuple(dictionaries), description=description)
    (folder / "set.json").write_text(json.dumps(msgspec.to_builtins(content), indent=1) + "\n")
