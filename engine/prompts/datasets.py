"""Data sets of prompts by name or file, as studies take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadRequest
from engine.pairs import read_pairs
from engine.prompts.builtin import BUILT_IN, built_in
from engine.protocol import Pair


@dataclass(frozen=True)
class PromptSet:
    """Pairs under a name."""

    name: str
    pairs: tuple[Pair, ...]
    origin: str = ""
    """The file they were read from; "" for a built-in data set."""


def prompt_sets(names: Sequence[str], examples: int | None = None) -> list[PromptSet]:
    """The data sets that `--pairs` names: files, built-in ones, or NAME=either; of each at most `examples` pairs.

    A file comes before a built-in data set of the same name; `origin` says which it was.

    Raises:
        BadRequest: none was named, one is neither file nor built in, a file cannot be read, or two have the same name.
    """
    if not names:
        raise BadRequest("No data set of prompts was named.", "Give --pairs FILE; see `saescope prompts -h`.")
    found = [_one(given, examples) for given in names]
    if len({one.name for one in found}) < len(found):
        names = [one.name for one in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"Two data sets are called {twice!r}.", f"Write --pairs other={twice}.jsonl, NAME=FILE.")
    return found


def _one(given: str, examples: int | None) -> PromptSet:
    name, equals, what = given.partition("=")
    if not equals or Path(given).expanduser().is_file():  # a file may have = in its name
        name, what = "", given
    elif not name.strip() or not what:
        raise BadRequest(f"{given!r} has no {'file' if name.strip() else 'name'}.", "Write NAME=FILE.")
    path = Path(what).expanduser()
    if not path.is_file() and what in BUILT_IN:
        return PromptSet(name or what, built_in(what).pairs[:examples])
    if not path.exists():
        raise BadRequest(
            f"There is no file {what!r}, nor a built-in data set of that name.", f"Built in are {', '.join(BUILT_IN)}."
        )
    if path.is_dir():
        raise BadRequest(f"{what} is a folder.", f"Give a file; built in are {', '.join(BUILT_IN)}.")
    return PromptSet(name or path.stem, read_pairs(path, examples), str(path))
