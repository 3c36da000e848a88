"""Arrays from an uncompressed `.npz` file, as `numpy.savez` writes it: no pickle is opened, and nothing can grow."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.instead import instead
from engine.formats.tensors import AGAIN, Weights
from engine.text import visible


def load(file: Path) -> Weights:
    """The arrays of numbers in a `.npz` file.

    Raises:
        DictionaryMissing: it is absent, damaged, or no such file.
        DictionaryMismatch: it is compressed, or an array holds objects or claims more numbers than the file has.
    """
    if not file.is_file():
        raise DictionaryMissing(f"There is no file {file}.", "Check the name, or copy the file there.")
    if (other := instead(file)) is not None:
        raise DictionaryMissing(f"{file} {other.is_}.", other.remedy)
    try:
        _check(file)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = visible(str(error)).partition("\n")[0][:200]
        raise DictionaryMissing(f"{file} is damaged or no .npz file: {reason}.", AGAIN) from None
    return Weights(file, {name: _tensor(array) for name, array in arrays.items()})


def _is_bfloat16(kind: np.dtype[Any]) -> bool:
    """numpy does not know bfloat16 and saves it as two bytes of no type, `|V2`."""
    return kind.kind == "V" and kind.itemsize == 2 and kind.names is None and kind.subdtype is None


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    if _is_bfloat16(array.dtype):
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _check(file: Path) -> None:
    """Look at every header before numpy sets memory aside for what it claims."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > file.stat().st_size or any(
            entry.compress_type != zipfile.ZIP_STORED for entry in entries
        ):
            raise DictionaryMismatch(
                f"{file} is a compressed archive, which is not read.", "Save it again with numpy.savez."
            )
        for entry in entries:
            with archive.open(entry) as stream:
                major, _ = npy.read_magic(stream)
                header = npy.read_array_header_1_0(stream) if major == 1 else npy.read_array_header_2_0(stream)
                shape, _, kind = header
                name = visible(entry.filename)[:80]
                if kind.hasobject:
                    raise DictionaryMismatch(
                        f"{name} in {file} holds Python objects, which are not read; nothing was run.",
                        "Save it again as an array of float32.",
                    )
                known = kind.kind == "f" or _is_bfloat16(kind)
                if not known or np.prod(shape, dtype=np.float64) * kind.itemsize > entry.file_size:
                    raise DictionaryMismatch(
                        f"{name} in {file} is no array of floating-point numbers of the size it has.", AGAIN
                    )
