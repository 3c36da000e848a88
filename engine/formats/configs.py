"""Configurations beside the weights of others: read, and held against what the weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.instead import instead
from engine.formats.tensors import AGAIN
from engine.jsonfile import read_object
from engine.sites import Site
from engine.text import visible


def read(file: Path) -> dict[str, Any]:
    """The JSON object in a configuration.

    Raises:
        DictionaryMissing: it is absent, unreadable or no JSON object.
    """
    try:
        return read_object(file)
    except OSError as error:
        raise DictionaryMissing(f"{file} cannot be read: {error.strerror}.", "Put it beside the weights.") from None
    except ValueError as error:
        if (other := instead(file)) is not None:
            raise DictionaryMissing(f"{file} {other.is_}.", other.remedy) from None
        raise DictionaryMissing(f"{file} is not valid JSON ({error}).", AGAIN) from None


def part(config: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within a configuration; empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def agree(weights: Path, what: str, said: object, found: int) -> None:
    """Refuse weights of another size than their configuration says, where it does.

    Raises:
        DictionaryMismatch: they differ.
    """
    if isinstance(said, int) and said != found:
        raise DictionaryMismatch(
            f"{weights} has {what} {found} and its configuration says {said}: they do not belong together.", AGAIN
        )


def count(weights: Path, said: object, most: int) -> int:
    """The k of a top-k, where `said` is one.

    Raises:
        DictionaryMismatch: nobody says it, or it is no number of features.
    """
    if not isinstance(said, int | float) or not 0 < said <= most or said != int(said):
        shown = "does not say" if said is None else f"says {visible(str(said))[:40]} for"
        raise DictionaryMismatch(
            f"{weights} {shown} how many features its top-k keeps.",
            'Put the k of its training as "k" in its configuration.',
        )
    return int(said)


def metadata(site: Site, model: object, context: object) -> dict[str, Any]:
    """What is kept of a configuration, under SAELens' names."""
    found: dict[str, Any] = {"hook_name": site.hook}
    if isinstance(model, str):
        found["model_name"] = model
    if isinstance(context, int):
        found["context_size"] = context
    return found
