"""Sentences by category: those that come with the program, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import BadRequest
from engine.studies.proxies import words_in

DATA = Path(__file__).parent / "data"


def sentences(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    r"""Category → sentences: from NAME=FILE, one a line; for () the built-in ones, in which `\n` is a line break.

    Raises:
        BadRequest: a file cannot be read, or two categories have one name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in given:
        name, equals, file = entry.partition("=")
        name = name if equals else Path(entry).stem
        if name in found:
            raise BadRequest(f"Two categories are called {name!r}.", "Write NAME=FILE.")
        found[name] = tuple(words_in(Path(file if equals else entry)))
    if found:
        return found
    for line in words_in(DATA / "sentences.tsv"):
        name, _, sentence = line.partition("\t")
        found[name] = (*found.get(name, ()), sentence.replace("\\n", "\n"))
    return found
