"""Data sets of prompts by name or file, as studies take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadRequest
from engine.pairs import read_pairs
from engine.protocol import Pair


@dataclass(frozen=True)
class PromptSet:
    """Pairs under a name."""

    name: str
    pairs: tuple[Pair, ...]


def prompt_sets(names: Sequence[str], examples: int | None = None) -> list[PromptSet]:
    """The data sets that `--pairs` names: files or NAME=FILE; of each at most `examples` pairs.

    Raises:
        BadRequest: none was named, a file cannot be read, or two have the same name.
    """
    if not names:
        raise BadRequest("No data set of prompts was named.", "Give --pairs FILE; see `saescope prompts -h`.")
    found = []
    for given in names:
        name, equals, file = given.partition("=")
        path = Path(file if equals else given)
        found.append(PromptSet(name if equals else path.stem, read_pairs(path, examples)))
    if len({one.name for one in found}) < len(found):
        raise BadRequest("Two data sets have the same name.", "Write NAME=FILE.")
    return found
