"""Numbers from `.pt` and `.safetensors` files of others: nothing of a file is run, and every tensor is checked.

A file can neither grow beyond its size on disk nor give a number that is not finite.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.instead import instead
from engine.hashes import sha256_of
from engine.memory.use import is_out_of_memory
from engine.text import visible

AGAIN = "Copy the file again from where it was published; if it is your own, save it again."
TURNED = "If it is your own, save its matrices the other way round; else copy it again from where it was published."
_SHOWN = 12


@dataclass(frozen=True)
class Weights:
    """What a file holds by name, given out as checked float32."""

    file: Path
    entries: Mapping[str, Any]
    """Values as they were stored; for safetensors a tensor is read when it is asked for."""

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @property
    def names(self) -> set[str]:
        return set(self.entries)

    @cached_property
    def sha256(self) -> str:
        """Of the whole file."""
        return sha256_of(self.file)

    def need(self, *names: str, what: str) -> None:
        """Refuse a file in which one of these is absent; `what` is what it would have to be, e.g. `an AutoEncoder`.

        Raises:
            DictionaryMismatch: a name is absent.
        """
        if missing := [name for name in names if name not in self.entries]:
            raise DictionaryMismatch(f"{self.file} lacks {', '.join(missing)}, which {what} needs.", self.held)

    @property
    def held(self) -> str:
        """A sentence on what the file holds instead, and where one level below it are tensors, on that."""
        for name, value in self.entries.items() if isinstance(self.entries, dict) else ():
            if isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values()):
                inside = ", ".join(visible(str(key))[:80] for key in list(value)[:_SHOWN])
                return f"They lie one level down, in {visible(name)[:80]!r} ({inside}): save that part alone."
        shown = sorted(self.entries)[:_SHOWN]
        more = f" and {len(self.entries) - _SHOWN} more" if len(self.entries) > _SHOWN else ""
        return f"It holds {', '.join(visible(name)[:80] for name in shown)}{more}." if shown else "It holds nothing."

    def tensor(self, name: str, *shape: int | None) -> Tensor:
        """A dense float32 tensor on the CPU of this shape, where None is any length; no shape given is any.

        Raises:
            DictionaryMismatch: absent, no tensor of numbers, of another shape, or with a number that is not finite.
        """
        self.need(name, what="this dictionary")
        found = self._stored(name)
        if not found.is_floating_point():
            raise self._refused(name, "is no tensor of floating-point numbers")
        self._refuse_shape(name, found, shape)
        value = found.detach().to(torch.float32).contiguous()
        if value.numel() and not bool(torch.stack(value.aminmax()).isfinite().all()):
            raise self._refused(name, "holds numbers that are not finite")
        return value

    def number(self, name: str) -> float | None:
        """A single number, stored as such or as a tensor with one element; None where it is absent.

        Raises:
            DictionaryMismatch: it is something else.
        """
        if name not in self.entries:
            return None
        value = self.entries[name]
        if isinstance(value, bool | int | float):
            return float(value)
        found = self._stored(name)
        if found.numel() != 1 or found.is_complex():
            raise self._refused(name, "is not a single number")
        return float(found)

    def _stored(self, name: str) -> Tensor:
        found = self.entries[name]
        if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta or found.is_quantized:
            raise self._refused(name, "is no dense tensor")
        size = found.numel() * found.element_size()
        if size > found.untyped_storage().nbytes() or size > self.file.stat().st_size:
            raise self._refused(name, "claims more numbers than the file holds")
        return found

    def _refuse_shape(self, name: str, found: Tensor, shape: tuple[int | None, ...]) -> None:
        if not shape:
            return
        if not _fits(shape, found.shape) or 0 in found.shape:
            wanted = " × ".join("any" if n is None else str(n) for n in shape)
            held = " × ".join(map(str, found.shape)) or "a single number"
            remedy = TURNED if _fits(shape, found.shape[::-1]) else AGAIN
            raise self._refused(name, f"is {held} where {wanted} was expected", remedy)

    def _refused(self, name: str, why: str, remedy: str = AGAIN) -> DictionaryMismatch:
        return DictionaryMismatch(f"{visible(name)[:80]} in {self.file} {why}.", remedy)


def _fits(wanted: Sequence[int | None], found: Sequence[int]) -> bool:
    return len(wanted) == len(found) and all(n in (None, m) for n, m in zip(wanted, found, strict=True))


class _Lazy(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = cast(Any, safe_open(file, framework="pt", device="cpu"))
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unreadable(self._path, error) from None
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load(file: Path) -> Weights:
    """The weights in a `.safetensors` file, or in a state dict that `torch.save` wrote under any other name.

    Raises:
        DictionaryMissing: it is absent, damaged, or no such file.
        DictionaryMismatch: its pickle asks for more than tensors and plain containers, or holds no dict of names.
    """
    if not file.is_file():
        raise DictionaryMissing(f"There is no file {file}.", "Check the name, or copy the file there.")
    if (other := instead(file)) is not None:
        raise DictionaryMissing(f"{file} {other.is_}.", other.remedy)
    return Weights(file, _safetensors(file) if file.suffix == ".safetensors" else _pickled(file))


def _safetensors(file: Path) -> Mapping[str, Tensor]:
    try:
        return _Lazy(file)
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DictionaryMissing:
    return DictionaryMissing(f"{file} cannot be read: {visible(str(error))[:200]}.", AGAIN)


def _pickled(file: Path) -> dict[str, Any]:
    _refuse_archive(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file leads to
        if is_out_of_memory(error):
            raise
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            wanted = visible(match[1])[:80]
            raise DictionaryMismatch(
                f"{file} asks for {wanted}, which no dictionary needs; nothing was run.",
                "Take it only from whom you trust, and save its state_dict() alone.",
            ) from None
        raise DictionaryMissing(f"{file} is damaged ({type(error).__name__}).", AGAIN) from None
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise DictionaryMismatch(
            f"{file} holds no state dict but {type(loaded).__name__}.", "Save the dictionary's state_dict()."
        )
    return loaded


def _refuse_archive(file: Path) -> None:
    """Only a zip whose entries are stored as they are, and together no longer than the file: it cannot grow."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise DictionaryMissing(f"{file} cannot be read: {error.strerror or error}.", AGAIN) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # what a damaged directory of a zip leads to
        raise DictionaryMissing(
            f"{file} is damaged, or no file that torch.save wrote since PyTorch 1.6.", AGAIN
        ) from None
    grown = sum(entry.file_size for entry in entries) > file.stat().st_size
    if grown or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DictionaryMismatch(f"{file} is a compressed archive, which torch.save never writes.", AGAIN)
