"""What is asked of the hub, and what it answers: the words between the engine and the process that downloads."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Report = Callable[[str, int, int], object]
"""Called with what is being done, how many bytes are done, and of how many; may raise to stop."""
MAIN = "main"
"""The revision that is meant where none is named."""
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".bin")


class WantedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a repository."""

    name: str
    optional: bool = False
    otherwise: str | None = None


class Wish(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wanted of one repository: named files, or what a folder of it holds."""

    repo: str
    revision: str = MAIN
    files: tuple[WantedFile, ...] = ()
    folder: str | None = None
    """All dictionary files below this folder, or the file of this name; "" is the whole repository."""
    model: bool = False
    """What opens as a model: settings, tokenizer and weights at the top."""


class Progressed(msgspec.Struct, frozen=True, tag="progress"):
    text: str
    done: int = 0
    total: int = 0


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing more will come, and why."""

    message: str
    remedy: str
    detail: str = ""
    """Where it came from, for the log."""


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """Everything is on this machine."""

    files: int
    bytes: int


Answer = Progressed | Refused | Fetched
