"""An index as files: what it is of, written once, and what is known so far together with how far that is.

Both are written beside their place and then renamed: whoever reads, or comes after a kill, finds one whole state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import BadRequest

MANIFEST, STATE, SHARDS = "manifest.json", "state.safetensors", "shards"
VERSION = 1
_LOCK = ".lock"


class Indexed(msgspec.Struct, frozen=True):
    """A dictionary that an index is of."""

    sha256: str
    hook: str
    features: int
    signed: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what an index says; a folder with another one is not built on."""

    version: int = VERSION
    model: str
    model_sha256: str
    dtype: str
    bos: str
    folded: bool
    dictionaries: dict[str, Indexed]
    text: tuple[str, ...]
    """Each file with its size and time, each data set with its revision."""
    tokens: int | None
    context: int
    contexts: int
    rows: int
    shards: int = 1


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an index is; what is of text is of text that lies behind."""

    tokens: int = 0
    contexts: int = 0
    documents: int = 0
    blocks: int = 0
    """Blocks of the text that lie behind, of other shards too."""
    batches: int = 0
    """Batches of the next block that are in it already."""
    passed: int = 0
    """Tokens of blocks that lie behind, where their number is limited."""
    document: int = 0
    """Documents that lie behind."""
    left_out: int = 0
    """Tokens in stretches too short to be read."""
    left_documents: int = 0
    """Documents of which nothing else was there."""
    seconds: float = 0.0
    """Spent reading."""
    finished: bool = False
    origins: tuple[str, ...] = ()


_WORDS = {
    "model_sha256": "another model", "dtype": "another precision", "bos": "another BOS rule",
    "folded": "another --fold", "dictionaries": "other dictionaries", "text": "other text, or text that has changed",
    "tokens": "another --tokens", "context": "another --context", "contexts": "another --contexts",
    "rows": "another --rows", "shards": "another --shards", "version": "another version of saescope",
}  # fmt: skip


def read_manifest(folder: Path) -> Manifest:
    """What the index in a folder is of.

    Raises:
        BadRequest: there is no index, or its manifest is damaged.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError:
        raise BadRequest(f"There is no index in {folder}.", "Make one: saescope study index --folder FOLDER.") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadRequest(f"{folder / MANIFEST} is damaged: {error}.", "Delete the folder and make it again.") from None


def settle_in(folder: Path, manifest: Manifest) -> None:
    """Make a folder that of this index, or find that it is already; only for who holds its lock (`alone`).

    Raises:
        BadRequest: it holds another index, something else, or cannot be written.
    """
    try:
        if (folder / MANIFEST).is_file() and ((folder / STATE).is_file() or (folder / SHARDS).is_dir()):
            _check_same(folder, read_manifest(folder), manifest)
            return
        check_free(folder)
        write_atomically(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        if manifest.shards > 1:  # from now on it is this index's, though no shard has begun
            (folder / SHARDS).mkdir()
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}.", "Give another --folder.") from None


def check_free(folder: Path) -> None:
    """Find that nothing but an index is in a folder, before anything is put there.

    Raises:
        BadRequest: it holds something else.
    """
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return
    if any(not entry.name.startswith((".", MANIFEST)) for entry in folder.iterdir()):
        raise BadRequest(f"{folder} holds other things than an index.", "Give an empty or a new --folder.")


@contextmanager
def alone(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made; a lock ends with its process, however that ends.

    Raises:
        BadRequest: somebody has it, `seconds` later still, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=seconds)
    except Timeout:
        raise BadRequest(
            f"The index in {folder} is being built by another process.", "Wait for it, or give another --folder."
        ) from None
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}.", "Give another --folder.") from None
    try:
        yield
    finally:
        lock.release()


def _check_same(folder: Path, old: Manifest, new: Manifest) -> None:
    different = [words for field, words in _WORDS.items() if getattr(old, field) != getattr(new, field)]
    if not different:
        return
    remedy = "Give the settings it was made with, or another --folder."
    _, mark, revision = next((e for e in old.text if " revision=" in e), "").rpartition(" revision=")
    if mark and old.text != new.text:
        remedy = (
            f"Add ?revision={revision} to --text, where it was read from the same data set, or give another --folder."
        )
    raise BadRequest(f"The index in {folder} was made with {', '.join(different)}.", remedy)


def write_atomically(file: Path, data: bytes) -> None:
    """The file is there whole or as it was."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def write_state(file: Path, arrays: Mapping[str, NDArray[Any]], progress: Progress) -> None:
    """Everything known and how far that is, in one file and one rename."""
    partial = file.with_name(f"{file.name}.partial")
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(whole, partial, metadata={"progress": msgspec.json.encode(progress).decode()})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        raise BadRequest(f"{file} cannot be written: {error}.", "Make room or give another --folder.") from None


class StateFile:
    """A state on disk; arrays are read when they are asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            opened: Any = safe_open(file, "numpy")
            self._open = opened
            self.progress = msgspec.json.decode((self._open.metadata() or {})["progress"], type=Progress)
        except (OSError, SafetensorError, KeyError, msgspec.MsgspecError) as error:
            raise BadRequest(f"{file} is damaged: {error}.", "Delete its folder and make it again.") from None

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._open.keys())

    def array(self, source: str, name: str) -> NDArray[Any]:
        """A whole array."""
        return np.asarray(self._open.get_tensor(f"{source}/{name}"))

    def rows(self, source: str, name: str, first: int, end: int) -> NDArray[Any]:
        """Some rows of an array."""
        return np.asarray(self._open.get_slice(f"{source}/{name}")[first:end])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them, by SOURCE/NAME."""
        return {name: self._open.get_tensor(name) for name in self.names}
