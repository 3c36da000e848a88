"""Sets: a model and its dictionaries under one name, so that one word opens them together.

A set is a folder with `set.json` {"model", "dictionaries", "description"}. Sets ship with the package, or lie in
the user's data directory, where `saescope train` puts new ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from engine import default_model, paths
from engine.errors import DictionaryMissing, ModelMissing

DEFAULT_MODEL = "default"
DEFAULT_SET = "smollm2"
FIELD_SETS: dict[str, tuple[str, ...]] = {
    "pythia-70m-deduped": ("res-sm", "mlp-sm", "att-sm"),
    "gpt2-small": ("res-jb",),
    "gelu-1l": ("run1",),
}
"""What opens where only one of these models is named: what the field's own work on it used."""
RUNS = "hf://NeelNanda/sparse_autoencoder/"
SHORT: dict[tuple[str, str], str] = {
    ("gelu-1l", "run1"): RUNS + "25.pt",
    ("gelu-1l", "run2"): RUNS + "47.pt",
}
"""Dictionaries with short names that are in no registry, by model and name."""


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


class FieldSet(msgspec.Struct, frozen=True):
    """A model of the field with the dictionaries that go without saying for it, and what of it is here."""

    name: str
    repo: str
    """The model's id on Hugging Face."""
    folder: str | None
    """Where the model lies; None where it is not whole and on this machine."""
    dictionaries: tuple[str, ...]
    """Short names, each of one dictionary or of several."""
    here: int
    """How many of the dictionaries are on this machine."""
    of: int
    fetch: tuple[str, ...]
    """The commands that fetch what is missing; () where all is here."""


def user_sets_dir() -> Path:
    return paths.data_dir() / "sets"


def all_sets() -> list[SetInfo]:
    """Every set on this machine, the default one first; a damaged one is left out."""
    found: dict[str, SetInfo] = {}
    for file in _files():
        try:
            info = _describe(file)
        except (OSError, msgspec.DecodeError):
            continue
        found.setdefault(info.name, info)
    return sorted(found.values(), key=lambda info: (info.name != DEFAULT_SET, info.name))


def is_set(name: str) -> bool:
    """Whether a set is called so: the default one, or another that is here, be it damaged."""
    return name == DEFAULT_SET or any(file.parent.name == name for file in _files())


def read_set(name: str) -> tuple[Path, SetFile]:
    """The folder of a set, and what its file says.

    Raises:
        DictionaryMissing: it is damaged or gone.
    """
    for file in _files():
        if file.parent.name == name:
            try:
                return file.parent, msgspec.json.decode(file.read_bytes(), type=SetFile)
            except (OSError, msgspec.DecodeError):
                continue
    again = f"Make it again with `saescope train`, or remove {user_sets_dir() / name}."
    raise DictionaryMissing(
        f"The set {name} is damaged or gone.", "Install saescope again." if name == DEFAULT_SET else again
    )


def _files() -> list[Path]:
    """The files of all sets, those that ship first."""
    return [file for root in (paths.bundled_sets_dir(), user_sets_dir()) for file in sorted(root.glob("*/set.json"))]


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


# --- sets of the field ------------------------------------------------------------------------------------------------


def field_sets() -> list[FieldSet]:
    """The sets that open by the name of their model, and what of each is on this machine; asks no network."""
    return [_field_set(name, shorts) for name, shorts in FIELD_SETS.items()]


def _field_set(name: str, shorts: tuple[str, ...]) -> FieldSet:
    from engine.names import models as model_names

    repo = model_names.repo_of(name) or name
    fetch: list[str] = []
    try:
        folder = str(model_names.find_model(name).folder)
    except ModelMissing:
        folder = None
        fetch.append(f"saescope get model {name}")
    counts = [_count_here(name, short) for short in shorts]
    fetch += [
        f"saescope get dictionary {SHORT.get((name, short), f'{name}-{short}')}"
        for short, (here, of) in zip(shorts, counts, strict=True)
        if here < of
    ]
    here, of = (sum(numbers) for numbers in zip(*counts, strict=True))
    return FieldSet(name, repo, folder, shorts, here, of, tuple(fetch))


def _count_here(model: str, short: str) -> tuple[int, int]:
    """How many of the dictionaries that a short name means are here, of how many."""
    from engine.hub.finding import find_reference, is_here
    from engine.names.neuronpedia import entries_for_set

    if (reference := SHORT.get((model, short))) is None:
        found = [is_here(entry) for entry in entries_for_set(model, short)]
        return sum(found), len(found)
    try:
        return len(find_reference(reference, False, lambda text, done, total: None)), 1
    except DictionaryMissing:
        return 0, 1
