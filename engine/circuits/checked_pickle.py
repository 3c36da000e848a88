"""Tensors from a pickle of others: loaded without running anything of it, checked before use."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.memory.use import is_out_of_memory
from engine.text import visible

REMEDY = "Give a circuit that feature-circuits saved with torch.save."
_CLASS = "activation_utils.SparseAct"


class SparseAct:
    """Stands in for feature-circuits' class: holds what the file says, has no behaviour."""

    act: Tensor | None = None
    res: Tensor | None = None
    resc: Tensor | None = None


def load(path: Path) -> dict[str, Any]:
    """The dictionary in a file of `torch.save`, read by torch's restricted unpickler.

    It knows tensors, plain containers and our stand-in; everything else is an error before it is called.

    Raises:
        BadRequest: it is no such file, is damaged, or asks for anything else.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    try:
        if zipfile.is_zipfile(path):
            _refuse_compressed(path)
        with torch.serialization.safe_globals([(SparseAct, _CLASS)]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except BadRequest:
        raise
    except Exception as error:  # whatever a damaged or hostile file leads to
        if is_out_of_memory(error):
            raise
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            wanted = visible(match[1])[:80]
            raise BadRequest(f"{path} asks for {wanted}, which no circuit needs; nothing was run.", REMEDY) from None
        raise BadRequest(f"{path} is no circuit or is damaged ({type(error).__name__}).", REMEDY) from None
    if not isinstance(loaded, dict):
        raise BadRequest(f"{path} holds no circuit but {type(loaded).__name__}.", REMEDY)
    return loaded


def _refuse_compressed(path: Path) -> None:
    """What is stored as it is cannot grow beyond the file."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise BadRequest(f"{path} is a compressed archive, which torch.save never writes.", REMEDY)


def numbers(value: object, where: str) -> Tensor:
    """A dense tensor that claims no more numbers than the file holds, all of them finite.

    Raises:
        BadRequest: it is something else.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        raise BadRequest(f"{where} is no tensor of numbers.", REMEDY)
    _refuse_expanded(value, where)
    if not bool(value.isfinite().all()):
        raise BadRequest(f"{where} holds numbers that are not finite.", REMEDY)
    return value.detach()


def _refuse_expanded(value: Tensor, where: str) -> None:
    """A few bytes can claim to be a tensor of any size when its strides are zero."""
    if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise BadRequest(f"{where} claims more numbers than the file holds.", REMEDY)


def table(tensor: object, shape: list[int], split: int, where: str) -> Tensor:
    """A tensor of this shape as coalesced COO, sparse in its first `split` dimensions or in all.

    Raises:
        BadRequest: it has another shape or layout, or points outside itself.
    """
    if not isinstance(tensor, Tensor) or list(tensor.shape) != shape:
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise BadRequest(f"{where} is {found} in place of {tuple(shape)}.", REMEDY)
    if tensor.layout == torch.strided:
        return numbers(tensor, where).to_sparse(split).coalesce()
    if tensor.layout != torch.sparse_coo or tensor.sparse_dim() not in (split, len(shape)):
        raise BadRequest(f"{where} has a layout that feature-circuits does not write.", REMEDY)
    indices, values = tensor._indices(), numbers(tensor._values(), where)
    _refuse_expanded(indices, where)
    limits = torch.tensor(shape[: tensor.sparse_dim()]).unsqueeze(1)
    if bool((indices < 0).any()) or bool((indices >= limits).any()):
        raise BadRequest(f"{where} points outside itself.", REMEDY)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).coalesce()


def as_stored(threshold: float, values: Tensor) -> float:
    """A threshold rounded as the values were: what was rounded to just that is not beyond it."""
    return float(torch.tensor(threshold, dtype=values.dtype))
