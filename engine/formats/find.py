"""What lies in a folder: every dictionary in it, told by file names and configurations alone.

Needs neither torch nor a network; the readers in `engine.formats.read` do the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.errors import DictionaryMissing
from engine.places import Place

CONFIG = "cfg.json"
"""The file by which a folder is known to hold a dictionary of SAELens."""
Finder = Callable[[Path], list[Place]]


def saelens(folder: Path) -> list[Place]:
    """A folder written by SAELens' `save_model`."""
    if not (folder / CONFIG).is_file():
        return []
    return [Place("saelens", folder, weights=(folder / "sae_weights.safetensors",))]


FINDERS: tuple[Finder, ...] = (saelens,)
"""Asked in this order; the first that recognises a folder has it."""
DEPTH = 3
"""How many levels below a folder dictionaries are looked for."""


def find(path: Path, depth: int = DEPTH) -> list[Place]:
    """The dictionary in a folder or file, or those in the folders below it, in name order.

    Raises:
        DictionaryMissing: there is nothing there, or nothing of a form that is known.
    """
    if not path.exists():
        raise DictionaryMissing(f"There is no folder {path}.", "Give the folder of a dictionary.")
    found = _look(path, depth)
    if not found:
        raise DictionaryMissing(
            f"{path} holds no dictionary of a form that is known.", "`saescope dictionaries --forms` lists the forms."
        )
    return found


def _look(path: Path, depth: int) -> list[Place]:
    for finder in FINDERS:
        if places := finder(path):
            return places
    if depth == 0 or not path.is_dir():
        return []
    return [place for below in sorted(path.iterdir()) if below.is_dir() for place in _look(below, depth - 1)]
