"""Content hashes, remembered by path, size and time so that a model is read whole only once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from engine import paths


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_sha256(folder: Path) -> str:
    """One hash over all weight files of a model folder, in name order; cached."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.pth"))
    key = "|".join(f"{f.resolve()}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)
    store = paths.cache_dir() / "hashes.json"
    known = _load(store)
    if (found := known.get(key)) is not None:
        return found
    parts = [sha256_of(file) for file in files]
    value = parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
    _remember(store, key, value)
    return value


def _load(store: Path) -> dict[str, str]:
    try:
        loaded = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _remember(store: Path, key: str, value: str) -> None:
    """Losing the cache costs a second of hashing, so a failure to write it is no error."""
    try:
        paths.private_directory(store.parent)
        partial = store.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({**_load(store), key: value}))
        partial.replace(store)
    except OSError:
        return
