"""What a shell may complete: names of dictionaries, models and sets. Needs no torch and no network."""

from __future__ import annotations

from pathlib import Path

SCHEMES = ("hf://", "neurons:")
"""What other ways of naming dictionaries begin with."""


def complete_dictionary(incomplete: str) -> list[str]:
    """Releases of the registry, behind a whole release and a slash its ids, and folders."""
    from engine.names.registry import complete

    schemes = [scheme for scheme in SCHEMES if incomplete and scheme.startswith(incomplete)]
    return [*schemes, *_folders(incomplete), *complete(incomplete)]


def complete_release(incomplete: str) -> list[str]:
    """As `complete_dictionary`, where a folder means nothing."""
    from engine.names.registry import complete

    return complete(incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Sets on this machine, short names of models, and folders."""
    from engine.names.models import known_names

    names = [*complete_set(""), *known_names()]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)] + _folders(incomplete)


def complete_set(incomplete: str) -> list[str]:
    """Sets on this machine."""
    from engine.sets import all_sets

    return [info.name for info in all_sets() if info.name.startswith(incomplete)]


def _folders(incomplete: str) -> list[str]:
    """Folders that begin as typed, as a shell would offer them."""
    if not incomplete:
        return []
    head, slash, tail = incomplete.rpartition("/")
    try:
        inside = sorted(Path(f"{head}{slash}" or ".").expanduser().iterdir())
        hidden = tail.startswith(".")
        return [
            f"{head}{slash}{entry.name}/"
            for entry in inside
            if entry.name.startswith(tail) and entry.name.startswith(".") == hidden and entry.is_dir()
        ]
    except (OSError, RuntimeError):  # no such folder, or no such home
        return []
