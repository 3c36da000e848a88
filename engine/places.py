"""Places: one dictionary that can be read, found without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where one dictionary lies, in which form, and what is known of it from elsewhere than its own files."""

    form: str
    """A key of `engine.formats.read.READERS`."""
    path: Path
    """A folder, or the file where one file is one dictionary."""
    source: str | None = None
    """Its name on screen, where something else than its own files says it."""
    hook: str | None = None
    """The hook it reads, where its own files do not say it."""
    neuronpedia: str | None = None
    """`model/source` on Neuronpedia, where the source has pages."""
    release: str | None = None
    """`release/id` of SAELens' registry it was opened by."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only its reader understands, e.g. which layer of a file."""
    weights: tuple[Path, ...] = ()
    """The files that hold its numbers, for sizes and hashes."""
