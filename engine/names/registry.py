"""SAELens' registry of published dictionaries: every release and every id in it, by name.

The list is `pretrained_saes.yaml` of the installed sae_lens, read without importing that package. Parsing it takes a
second, so what is needed of it is kept as JSON in the cache, for the version and file it was made from.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from engine import paths
from engine.errors import DictionaryMissing

SAE_LENS = "sae_lens"
"""The loader of a release that names none: a SAELens folder."""
_FORMAT = 1
"""Raised when what is kept of the list changes."""


class Release(msgspec.Struct, frozen=True, omit_defaults=True):
    """Dictionaries published together, in one repository and for one model."""

    name: str
    model: str
    """As SAELens names it: an id of Hugging Face, or TransformerLens' short name."""
    repo: str
    loader: str = SAE_LENS
    """Which of SAELens' loaders reads it."""
    overrides: dict[str, Any] = {}
    """Settings that stand above those of its files."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One published dictionary."""

    release: str
    id: str
    path: str
    """Its folder or file in the repository."""
    neuronpedia: str | None = None
    """`model/source` as the registry has it; `engine.names.neuronpedia` knows which of them are wrong."""
    l0: float | None = None
    variance_explained: float | None = None
    norm_scaling_factor: float | None = None

    @property
    def name(self) -> str:
        """What it is opened by: `release/id`."""
        return f"{self.release}/{self.id}"


class _Kept(msgspec.Struct):
    key: str
    releases: dict[str, Release]
    entries: dict[str, tuple[Entry, ...]]


def releases() -> dict[str, Release]:
    """Every release by name, in the registry's order."""
    return _registry().releases


def release_of(entry: Entry) -> Release:
    return _registry().releases[entry.release]


def entries(release: str) -> tuple[Entry, ...]:
    """The dictionaries of a release, in the registry's order.

    Raises:
        DictionaryMissing: there is no release of that name.
    """
    if (found := _registry().entries.get(release)) is None:
        raise DictionaryMissing(f"SAELens has no release called {release!r}.", _release_hint(release))
    return found


def all_entries() -> list[Entry]:
    return [entry for of_release in _registry().entries.values() for entry in of_release]


def is_release(name: str) -> bool:
    """Whether a name begins with a release of the registry, as `release` or `release/…`."""
    return _split(name) is not None


def look_up(name: str) -> tuple[Entry, ...]:
    """The dictionaries that `release`, `release/id`, `release/folder` or `release/pattern*` means.

    Raises:
        DictionaryMissing: no such release, or nothing in it of that id; names the nearest ones.
    """
    if (parts := _split(name)) is None:
        raise DictionaryMissing(f"SAELens has no release called {name!r}.", _release_hint(name))
    release, wanted = parts
    listed = entries(release)
    if not wanted:
        return listed
    if exact := tuple(entry for entry in listed if entry.id == wanted):
        return exact
    if below := tuple(entry for entry in listed if entry.id.startswith(f"{wanted.rstrip('/')}/")):
        return below
    if matching := tuple(entry for entry in listed if fnmatch.fnmatchcase(entry.id, wanted)):
        return matching
    raise DictionaryMissing(f"The release {release} has no dictionary {wanted!r}.", _id_hint(release, wanted))


def complete(prefix: str) -> list[str]:
    """The names that begin with `prefix`: releases, and behind a whole release and a slash its ids."""
    found = [name for name in _registry().releases if name.startswith(prefix)]
    if (parts := _split(prefix)) is not None and prefix != parts[0]:
        found += [entry.name for entry in entries(parts[0]) if entry.id.startswith(parts[1])]
    return found


def suggestions(name: str, count: int = 3) -> list[str]:
    """Releases whose names are nearest to one that does not exist."""
    known = list(_registry().releases)
    lowered = {release.lower(): release for release in known}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.6)]
    words = [word for word in name.lower().replace("_", "-").split("-") if word]
    containing = [release for low, release in lowered.items() if words and all(word in low for word in words)]
    return list(dict.fromkeys([*close, *containing]))[:count]


def _split(name: str) -> tuple[str, str] | None:
    """Release and id of a name; ids contain slashes, releases do not."""
    release, _, rest = name.partition("/")
    return (release, rest) if release in _registry().releases else None


def _release_hint(name: str) -> str:
    near = suggestions(name.partition("/")[0])
    return f"Did you mean {_alternatives(near)}?" if near else "`saescope dictionaries` lists the releases."


def _id_hint(release: str, wanted: str) -> str:
    ids = [entry.id for entry in entries(release)]
    near = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {_alternatives(near)}?"
    shown = ", ".join(ids[:3])
    return f"It has {len(ids)}: {shown}{', …' if len(ids) > 3 else ''}. `saescope dictionaries {release}` lists them."


def _alternatives(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# --- the list and what is kept of it --------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _registry() -> _Kept:
    source = _yaml_file()
    key = _key(source)
    store = paths.cache_dir() / "registry.json"
    try:
        kept = msgspec.json.decode(store.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        pass
    else:
        if kept.key == key:
            return kept
    kept = _parse(source, key)
    _keep(store, kept)
    return kept


def _yaml_file() -> Path:
    spec = find_spec(SAE_LENS)
    if spec is not None:
        for folder in spec.submodule_search_locations or ():
            if (file := Path(folder) / "pretrained_saes.yaml").is_file():
                return file
    raise DictionaryMissing("sae_lens is not installed, and with it the list of releases.", "pip install sae-lens.")


def _key(file: Path) -> str:
    stat = file.stat()
    try:
        installed = version("sae-lens")
    except PackageNotFoundError:
        installed = "?"
    return f"{_FORMAT}|{installed}|{stat.st_size}|{stat.st_mtime_ns}"


def _parse(file: Path, key: str) -> _Kept:
    yaml: Any = import_module("yaml")

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with file.open(encoding="utf-8") as text:
        listed: dict[str, Any] = yaml.load(text, Loader=loader)
    kept = _Kept(key, {}, {})
    for name, release in listed.items():
        kept.releases[name] = Release(
            name=name,
            model=str(release["model"]),
            repo=str(release["repo_id"]),
            loader=release.get("conversion_func") or SAE_LENS,
            overrides=release.get("config_overrides") or {},
        )
        kept.entries[name] = tuple(_entry(name, row) for row in release["saes"])
    return kept


def _entry(release: str, row: dict[str, Any]) -> Entry:
    return Entry(
        release=release,
        id=str(row["id"]),
        path=str(row["path"]),
        neuronpedia=row.get("neuronpedia"),
        l0=_number(row.get("l0")),
        variance_explained=_number(row.get("variance_explained")),
        norm_scaling_factor=_number(row.get("norm_scaling_factor")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _keep(store: Path, kept: _Kept) -> None:
    """Losing the cache costs a second, so a failure to write it is no error."""
    try:
        paths.private_directory(store.parent)
        partial = store.with_suffix(f".{os.getpid()}")
        partial.write_bytes(msgspec.json.encode(kept))
        partial.replace(store)
    except OSError:
        return
