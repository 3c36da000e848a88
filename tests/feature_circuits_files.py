"""Circuit files as feature-circuits writes them, made in a test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

POSITIONS = 3
WIDTHS = {"embed": 4, "attn_0": 5, "mlp_0": 6, "resid_0": 4}
ROWS = [
    {"clean_prefix": "The girls", "patch_prefix": "The girl", "clean_answer": " have", "patch_answer": " has",
     "case": "plural"},
    {"clean_prefix": "The boys", "patch_prefix": "The boy", "clean_answer": " are", "patch_answer": " is", "case": "x"},
]  # fmt: skip


def node(theirs: type, act: object, resc: object, res: object = None) -> Any:
    made = theirs()
    made.__dict__.update({"act": act, "res": res, "resc": resc})
    return made


def saved(file: Path, value: object, **how: Any) -> Path:
    torch.save(value, file, **how)
    sys.modules.pop("activation_utils", None)
    return file


def effects(aggregate: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Every effect and, last, every error of every submodule, all different."""
    torch.manual_seed(3)
    lead = (POSITIONS,) if aggregate == "none" else ()
    return {name: torch.randn(*lead, width + 1, dtype=dtype) for name, width in WIDTHS.items()}


def nodes_of(theirs: type, found: dict[str, Tensor]) -> dict[str, Any]:
    return {name: node(theirs, value[..., :-1], value[..., -1:]) for name, value in reversed(found.items())}


def edge_block(up: Tensor, down: Tensor | None, kept: float) -> Tensor:
    """Dense [downstream…][upstream…], with zeros where the downstream node is not kept."""
    torch.manual_seed(4)
    if down is None:
        return up.clone()
    block = torch.randn(*down.shape, *up.shape, dtype=torch.float64)
    return block * (down.abs() > kept).reshape(*down.shape, *(1 for _ in up.shape))


def example(theirs: type, aggregate: str, layout: str) -> tuple[dict[str, Any], dict[tuple[str, str], Tensor]]:
    """What `torch.save` is given, and the same edges as dense tensors."""
    found = effects(aggregate)
    pairs = [("embed", "attn_0"), ("attn_0", "resid_0"), ("mlp_0", "resid_0"), ("resid_0", "y")]
    dense = {(up, down): edge_block(found[up], found.get(down), 0.5) for up, down in pairs}
    edges: dict[str, dict[str, Tensor]] = {}
    for (up, down), block in dense.items():
        over = block.ndim if layout == "sparse" or down == "y" else found[down].ndim
        edges.setdefault(up, {})[down] = block if layout == "dense" else block.to_sparse(over)
    return {"examples": ROWS, "nodes": nodes_of(theirs, found), "edges": edges}, dense
