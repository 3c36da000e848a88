"""Effects of every feature and every error node on the metric: `attrib`, `ig` and `exact`.

Formulas of sparse feature circuits (Marks et al. 2024, `attribution.py`), with the sign of
`engine.circuit_results`: an effect is metric(clean) − metric(node at its baseline).

With exact errors and pass-through gradients ∂m/∂c_i = direction_i · ∂m/∂x, so one backward pass of the plain model
gives every effect of every site. Decoding is affine: interpolating features and error together is interpolating x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.circuits.passes import joined
from engine.circuits.states import SiteState
from engine.circuits.workspace import Workspace
from engine.model import Visitor
from engine.sites import Site


@dataclass
class SiteEffects:
    """Effects at one site: of the state's entries [m] and of the error of each place [B·T].

    `gradient` [B·T, d] is what they were computed with; for `exact`, the plain gradient. `measured` bool
    [m + B·T]: which nodes `exact` had the budget for; None where the method reaches all.
    """

    features: Tensor
    errors: Tensor
    gradient: Tensor
    method: str
    measured: Tensor | None = None


def attrib(work: Workspace) -> dict[str, SiteEffects]:
    """Effects at all sites from one forward and one backward pass."""
    gradients = _gradients(work)
    return {
        source: _linear(state, gradients[state.basis.write_site].reshape(-1, state.shape[2]), "attrib")
        for source, state in work.states.items()
    }


def _linear(state: SiteState, gradient: Tensor, method: str) -> SiteEffects:
    return SiteEffects(state.feature_effects(gradient), state.error_effects(gradient), gradient, method)


def _gradients(work: Workspace) -> dict[Site, Tensor]:
    """∂m/∂x [B, T, d] at every written site of the clean run. Measures what a pass keeps per token and block."""
    run = work.run
    collected = {state.basis.write_site: torch.zeros_like(state.x) for state in work.states.values()}
    parameters = list(run.model.hf.parameters())

    def piece(part: slice) -> None:
        held: dict[Site, Tensor] = {}
        meter = _SavedBytes(parameters)
        with torch.enable_grad(), run.model.visiting(_holding(work, held), work.job), meter:
            metric = work.goal(run.from_start(run.ids[part]), work.examples[part]).sum()
        for site, gradient in zip(
            held, torch.autograd.grad(metric, list(held.values()), allow_unused=True), strict=True
        ):
            if gradient is not None:
                collected[site][part] = gradient.reshape(*gradient.shape[:2], -1)
        work.row_bytes = meter.total / (run.ids[part].numel() * run.model.layers)

    for _ in work.in_pieces(len(run.ids), run.length, run.model.layers, piece):
        pass
    return collected


def _holding(work: Workspace, held: dict[Site, Tensor]) -> dict[Site, Visitor]:
    """Visitors that put what flows on from every written site into `held`, differentiable."""
    splices = work.splices()

    def hold(site: Site, splice: Visitor | None) -> Visitor:

        def visit(x: Tensor) -> Tensor:
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            elif splice is not None and (spliced := splice(x)) is not None:
                x = spliced
            held[site] = x
            return x

        return visit

    groups = []
    for source, state in work.states.items():
        site, own = state.basis.write_site, splices.get(source, {})
        groups.append({**own, site: hold(site, own.get(site))})
    return joined(groups)


def integrated(
    work: Workspace, source: str, steps: int, at_clean: Tensor, progress: Callable[[int, int], None]
) -> SiteEffects:
    """Integrated gradients of one site, left Riemann sum over α = k/steps, all other sites free to follow.

    The gradient at α = 0 is that of `attrib`, `at_clean` [B·T, d]; the other steps of all examples run as one batch as
    far as memory allows.
    """
    state = work.states[source]
    site = state.basis.write_site
    b, t, _ = state.shape
    total = at_clean.clone()
    rows = (steps - 1) * b
    splices = joined(work.splices(after=site).values())
    device = state.x.device

    def piece(part: slice) -> None:
        numbers = torch.arange(part.start, part.stop, device=device)
        examples = numbers % b
        alpha = (numbers // b + 1).to(state.x.dtype)[:, None, None] / steps
        x = torch.lerp(state.x[examples], state.base[examples], alpha).requires_grad_()
        with torch.enable_grad():
            metric = work.goal(work.run.from_site(site, x, examples, splices), examples).sum()
        (gradient,) = torch.autograd.grad(metric, [x])
        total.view(b, t, -1).index_add_(0, examples, gradient)

    for done in work.in_pieces(rows, t, work.blocks_after(site), piece):
        progress(done, rows)
    return _linear(state, total / steps, "ig")


def exact(
    work: Workspace, source: str, estimate: SiteEffects, budget: int | None, progress: Callable[[int, int], None]
) -> SiteEffects:
    """Change one node at a time and measure; within a `budget` the strongest by `estimate`, the others keep it.

    Error nodes of all places are nodes like any other.
    """
    state = work.states[source]
    t = state.shape[1]
    strength = torch.cat([estimate.features.abs(), estimate.errors.abs()])
    changes = torch.cat([state.delta != 0, (state.error_delta != 0).any(1)])
    order = torch.where(changes, strength, strength.new_full((), -1.0)).argsort(descending=True, stable=True)
    chosen = order[: min(int(changes.sum()), budget if budget is not None else len(order))]
    measured = torch.cat([estimate.features, estimate.errors]) * changes
    features = len(state.features)

    def piece(part: slice) -> None:
        nodes = chosen[part]
        x, examples = changed(state, nodes)
        with torch.no_grad():
            values = work.goal(work.run.from_site(state.basis.write_site, x, examples), examples)
        measured[nodes] = (work.clean[examples] - values).to(measured.dtype)

    site = state.basis.write_site
    for done in work.in_pieces(len(chosen), t, work.blocks_after(site), piece, grad=False):
        progress(done, len(chosen))
    reached = ~changes
    reached[chosen] = True
    return SiteEffects(measured[:features], measured[features:], estimate.gradient, "exact", reached)


def changed(state: SiteState, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """What the site holds with one node at its baseline, for each of `nodes` [R]: x [R, T, d] and its example [R].

    Nodes count the state's entries first, then the errors of its places.
    """
    _, t, _ = state.shape
    features = len(state.features)
    is_error = nodes >= features
    entry = nodes.clamp(max=max(features - 1, 0))
    place = torch.where(is_error, nodes - features, state.rows[entry] if features else nodes)
    examples, position = place // t, place % t
    x = state.x[examples].clone()
    shift = state.error_delta[place]
    if features:
        along = state.basis.directions(state.features[entry]).to(x.dtype) * state.delta[entry][:, None]
        shift = torch.where(is_error[:, None], shift, along)
    x[torch.arange(len(nodes), device=x.device), position] += shift
    return x, examples


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a differentiable pass keeps, parameters left out."""

    def __init__(self, parameters: object) -> None:
        self.total = 0
        self._seen = {p.untyped_storage().data_ptr() for p in parameters}  # type: ignore[attr-defined]
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._seen:
            self._seen.add(place)
            self.total += tensor.untyped_storage().nbytes()
        return tensor
