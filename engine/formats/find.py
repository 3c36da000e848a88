"""What lies in a folder: every dictionary in it, told by file names and configurations alone.

Needs neither torch nor a network; the readers in `engine.formats.read` do the reading.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import DictionaryMissing
from engine.formats import circuit_tracer_folders, gemma_scope_folders, hookpoints
from engine.formats.unknown import unknown
from engine.jsonfile import read_object
from engine.places import Place

CONFIG = "cfg.json"
"""The file by which a folder is known to hold a dictionary of SAELens, or of sparsify beside its weights."""
SPARSIFY_WEIGHTS = "sae.safetensors"
DICTIONARY_LEARNING_WEIGHTS = "ae.pt"
NOTEBOOK_CONFIG = "_cfg.json"
RUNS = {"25": "run1", "47": "run2"}
"""What the 1L notebook calls the runs it published, by the names of their files."""
Finder = Callable[[Path], list[Place]]


def saelens(folder: Path) -> list[Place]:
    """A folder written by SAELens' `save_model`."""
    if not (folder / CONFIG).is_file():
        return []
    return [Place("saelens", folder, weights=(folder / "sae_weights.safetensors",))]


def sparsify(path: Path) -> list[Place]:
    """The folder of one hookpoint, written by sparsify's `save_to_disk`; with several seeds each has a folder in it."""
    folder = (path.parent if path.name == SPARSIFY_WEIGHTS else path).absolute()
    if not ((folder / CONFIG).is_file() and (folder / SPARSIFY_WEIGHTS).is_file()):
        return []
    seeded = re.fullmatch(r"seed[0-9]+", folder.name)
    name = f"{folder.parent.name}-{folder.name}" if seeded else folder.name
    return [Place("sparsify", folder, hookpoints.as_source(name), weights=(folder / SPARSIFY_WEIGHTS,))]


def notebook(path: Path) -> list[Place]:
    """The runs `{n}.pt` with `{n}_cfg.json` in a folder, or the one that a file is."""
    files = [path] if path.suffix == ".pt" else _beside(path, "*.pt")
    return [
        Place("notebook", file, RUNS.get(file.stem, hookpoints.as_source(_run(file.stem))), weights=(file,))
        for file in sorted(files, key=_natural)
        if file.is_file() and file.with_name(file.stem + NOTEBOOK_CONFIG).is_file()
    ]


def _run(stem: str) -> str:
    return f"run{stem}" if stem.isdigit() else stem


def dictionary_learning(path: Path) -> list[Place]:
    """A folder of a dictionary_learning trainer, or `ae.pt`, or one of its checkpoints."""
    if path.suffix == ".pt":
        if not re.fullmatch(r"ae(_[0-9]+)?", path.stem) or not path.is_file():
            return []
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        whole = path.name == DICTIONARY_LEARNING_WEIGHTS
        name = _trained(folder) if whole else f"{_trained(folder)}-{path.stem}"
        return [Place("dictionary_learning", folder if whole else path, name, weights=(path,))]
    if (path / DICTIONARY_LEARNING_WEIGHTS).is_file():
        weights: tuple[Path, ...] = (path / DICTIONARY_LEARNING_WEIGHTS,)
    elif _trainer(path).get("dict_class") == "IdentityDict":
        weights = ()
    else:
        return []
    return [Place("dictionary_learning", path, _trained(path), weights=weights)]


def _trainer(folder: Path) -> dict[str, Any]:
    try:
        trainer = read_object(folder / "config.json").get("trainer")
    except (OSError, ValueError):
        return {}
    return trainer if isinstance(trainer, dict) else {}


def _trained(folder: Path) -> str:
    """The folder that is named after a submodule; `trainer_3` in it tells several at one place apart."""
    above = folder.absolute()
    named = next((f for f in (above, above.parent, above.parent.parent) if hookpoints.of_submodule(f.name)), above)
    numbered = re.fullmatch(r"trainer_[0-9]+", above.name)
    if numbered and named == above:
        return hookpoints.as_source(f"{above.parent.name}-{above.name}")
    return hookpoints.as_source(f"{named.name}-{above.name}" if numbered else named.name)


FINDERS: tuple[Finder, ...] = (
    sparsify,
    notebook,
    dictionary_learning,
    gemma_scope_folders.recognise,
    circuit_tracer_folders.recognise,
    saelens,
)
"""Asked in this order; the first that recognises a folder has it."""
_MOST_FOLDERS = 1000
DEPTH = 3
"""How many levels below a folder dictionaries are looked for."""


def find(path: Path, depth: int = DEPTH) -> list[Place]:
    """The dictionary in a folder or file, or those in the folders below it, in the order of their names and numbers.

    Raises:
        DictionaryMissing: there is nothing there, or nothing of a form that is known.
    """
    if not os.path.exists(path):  # Path.exists fails where a folder above may not be entered
        raise DictionaryMissing(f"There is no folder {path}.", "Give the folder of a dictionary.")
    if not os.access(path, os.R_OK):
        raise DictionaryMissing(f"{path} may not be read.", "Check its permissions.")
    found = _look(path, depth)
    if not found:
        raise unknown(path, _folders(path, depth))
    return _told_apart(found)


def _look(path: Path, depth: int) -> list[Place]:
    for finder in FINDERS:
        try:
            if places := finder(path):
                return places
        except PermissionError:
            return []
    if depth == 0 or not path.is_dir():
        return []
    below = sorted((entry for entry in _beside(path, "*") if entry.is_dir()), key=_natural)
    return [place for folder in below for place in _look(folder, depth - 1)]


def _folders(path: Path, depth: int) -> list[Path]:
    """The folders below, those of one level before what lies in them."""
    found: list[Path] = []
    level = [path]
    for _ in range(depth):
        below = (each for folder in level for each in sorted(_beside(folder, "*"), key=_natural) if each.is_dir())
        level = list(islice(below, _MOST_FOLDERS - len(found)))
        found += level
    return found


def _beside(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder; nothing where it cannot be listed."""
    try:
        return list(folder.glob(pattern)) if folder.is_dir() else []
    except OSError:
        return []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts `layers.2` before `layers.10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def _told_apart(places: list[Place]) -> list[Place]:
    """Names of folders further up and further down are added where two places would have one name."""
    for level in range(DEPTH + 1):
        times = Counter(place.source or "" for place in places if place.source)
        if not any(count > 1 for count in times.values()):
            break
        places = [_longer(place, level) if times[place.source or ""] > 1 else place for place in places]
    return places


def _longer(place: Place, level: int) -> Place:
    folder = (place.path.parent if place.path.is_file() else place.path).absolute()
    if level == 0:
        name = place.source if folder.name in str(place.source) else f"{place.source}-{folder.name}"
    else:
        above = folder.parents[level - 1].name if len(folder.parents) >= level else ""
        name = place.source if above in str(place.source) else f"{above}-{place.source}"
    return replace(place, source=hookpoints.as_source(str(name)))
