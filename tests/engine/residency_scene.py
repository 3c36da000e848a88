"""What tests of residency share: four small dictionaries, and paging them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engine.dictionary import Dictionary
from engine.formats.read import read
from engine.memory.residency import PagedDictionary, Shelf, keep
from engine.places import Place
from engine.protocol import MemoryPlan
from engine.results import Residency
from tests import tiny

CPU = torch.device("cpu")
SIZE = 4 * (2 * tiny.D_MODEL * tiny.D_SAE + tiny.D_SAE + tiny.D_MODEL)
"""Bytes of one of the tiny dictionaries in float32."""


def save_four(root: Path) -> tuple[Path, ...]:
    """Dictionaries of four layers and two kinds."""
    kinds = {0: "topk", 1: "jumprelu", 2: "topk", 3: "standard"}
    return tuple(tiny.save_dictionary(root / f"{n}-res-tiny", kind, layer=n) for n, kind in kinds.items())


def place(folder: Path) -> Place:
    return Place("saelens", folder, weights=(folder / "sae_weights.safetensors",))


def planned(residency: Residency, resident: int) -> MemoryPlan:
    return MemoryPlan(0, 0, 0, 0, 0, "cpu", "float32", residency, resident, "for a test")


def paged(
    folder: Path,
    shelf: Shelf,
    residency: Residency = "disk",
    dtype: torch.dtype = torch.float32,
    again: Callable[[], Dictionary] | None = None,
) -> PagedDictionary:
    found = keep(read(place(folder)), planned(residency, shelf.budget), shelf, CPU, dtype, again)
    assert isinstance(found, PagedDictionary)
    return found
