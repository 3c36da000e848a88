"""Faithfulness and completeness of a node set, by ablating everything outside it, or it.

Definitions of sparse feature circuits (Marks et al. 2024, `ablation.py`): every site is taken apart as the run passes,
nodes outside the set are replaced by their ablation value, and the run goes on from what that decodes to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuit_results import Ablation, ErrorMode
from engine.circuits.basis import Codes
from engine.circuits.passes import joined
from engine.circuits.states import SiteState
from engine.circuits.workspace import Workspace
from engine.model import Visitor
from engine.sites import Site


@dataclass(frozen=True)
class NodeSet:
    """Which nodes of a site are in: `features` bool [T, F] or [1, F] for all positions; `errors` bool [T] or [1]."""

    features: Tensor
    errors: Tensor


@dataclass
class Replacement:
    """What ablated nodes of a site become: dense coefficients [B, T, F] or [1, T, F], and errors [·, T, d]."""

    coefficients: Tensor
    errors: Tensor


def replacement(state: SiteState, other: tuple[Tensor, Tensor] | None, ablation: Ablation, seed: int) -> Replacement:
    """Ablation values of a site.

    Args:
        other: written and read activations [B, T, d] of the runs the values are taken from; None for zero.
        ablation: `mean` over the batch at each position, `resample` from another example of it, or `zero`.
    """
    b, t, d = state.shape
    width = state.basis.d_sae
    if other is None or ablation == "zero":
        return Replacement(state.x.new_zeros(1, t, width), state.x.new_zeros(1, t, d))
    written, read = other
    flat = read.reshape(b * t, -1)
    codes = state.basis.codes(flat)
    dense = state.x.new_zeros(b * t, width).index_put_((codes.rows, codes.features), codes.values)
    rebuilt = state.basis.decode(codes, b * t, d) + state.basis.constant(flat)
    coefficients, errors = dense.view(b, t, width), (written.reshape(b * t, d) - rebuilt).view(b, t, d)
    if ablation == "mean":
        return Replacement(coefficients.mean(0, keepdim=True), errors.mean(0, keepdim=True))
    order = torch.randperm(b, generator=torch.Generator().manual_seed(seed)).to(state.x.device)
    return Replacement(coefficients[order], errors[order])


def ablated(
    work: Workspace,
    inside: Mapping[str, NodeSet] | None,
    replacements: Mapping[str, Replacement],
    errors: ErrorMode,
    *,
    complement: bool = False,
) -> Tensor:
    """The metric of each example [B] with every node outside the set (with `complement`: inside) ablated.

    Args:
        inside: by source; None is the empty set.
        replacements: by source; sites that are not in it are left free.
    """
    groups: list[dict[Site, Visitor]] = []
    for source, new in replacements.items():
        state = work.states[source]
        chosen = inside.get(source) if inside is not None else None
        groups.append(_ablating(state, chosen, new, errors, complement))
    with torch.no_grad(), work.run.model.visiting(joined(groups), work.job):
        return work.goal(work.run.from_start(work.run.ids), work.examples)


def _ablating(
    state: SiteState, chosen: NodeSet | None, new: Replacement, errors: ErrorMode, complement: bool
) -> dict[Site, Visitor]:
    b, t, d = state.shape
    basis = state.basis
    device = state.x.device
    features = torch.zeros(1, basis.d_sae, dtype=torch.bool, device=device) if chosen is None else chosen.features
    kept_errors = torch.zeros(1, dtype=torch.bool, device=device) if chosen is None else chosen.errors
    if complement:
        features, kept_errors = ~features, ~kept_errors
    if errors != "nodes":
        kept_errors = torch.full_like(kept_errors, errors == "keep")
    features, kept_errors = features.expand(t, -1), kept_errors.expand(t)
    outside = new.coefficients.masked_fill(features, 0).expand(b, -1, -1).reshape(b * t, -1)
    rows, columns = outside.nonzero(as_tuple=True)
    replaced = basis.decode(Codes(rows, columns, outside[rows, columns]), b * t, d)
    seen: list[Tensor] = []

    def read(x: Tensor) -> None:
        seen[:] = [x.reshape(b * t, -1)]

    def write(x: Tensor) -> Tensor:
        source, flat = seen.pop(), x.reshape(b * t, d)
        codes = basis.codes(source)
        constant = basis.constant(source)
        inside = features[codes.rows % t, codes.features]
        kept = Codes(codes.rows[inside], codes.features[inside], codes.values[inside])
        error = flat - basis.decode(codes, b * t, d) - constant
        error = torch.where(kept_errors.repeat(b)[:, None], error, new.errors.expand(b, -1, -1).reshape(b * t, d))
        result = basis.decode(kept, b * t, d) + replaced + constant + error
        return torch.where(state.keep.reshape(b * t, 1), flat, result).reshape(x.shape)

    def both(x: Tensor) -> Tensor:
        read(x)
        return write(x)

    if basis.read_site == basis.write_site:
        return {basis.write_site: both}
    return {basis.read_site: read, basis.write_site: write}
