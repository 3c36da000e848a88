"""One question about one batch of prompts: the clean run, the states at every site, and what fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.circuit_results import Gradients
from engine.circuits.basis import Basis
from engine.circuits.goal import Goal
from engine.circuits.passes import CleanRun
from engine.circuits.states import SiteState, sink_places, site_state
from engine.errors import OutOfMemory
from engine.job import Job
from engine.memory.use import available_bytes, is_out_of_memory
from engine.model import LanguageModel, Visitor
from engine.sites import Site

_CPU_TOKENS = 640
"""Tokens per pass on a CPU: more in one pass are not faster there, and a pass cannot be stopped in the middle."""
_SHARE = 0.4
"""Of the memory that is free, how much one pass may take."""


@dataclass
class Workspace:
    """Everything the effects and edges of one batch [B, T] are computed from.

    Attributes:
        states: by source, in the order of a forward pass.
        goal: the metric.
        row_bytes: what a differentiable pass keeps per token and block, measured in the first one.
    """

    run: CleanRun
    states: dict[str, SiteState]
    goal: Goal
    gradients: Gradients
    patched: Tensor | None = None
    """The metric of each example on its patch prompt, [B]."""
    other: dict[Site, Tensor] = field(default_factory=dict)
    """What the sites held in the patch run."""
    row_bytes: float = 0.0
    clean: Tensor = field(init=False)
    """The metric of each example, [B]."""

    def __post_init__(self) -> None:
        self.clean = self.goal(self.run.logits, self.examples)

    @property
    def job(self) -> Job:
        return self.run.job

    @property
    def examples(self) -> Tensor:
        return torch.arange(len(self.run.ids), device=self.run.ids.device)

    def splices(self, after: Site | None = None) -> dict[str, dict[Site, Visitor]]:
        """Under `dictionaries` gradients, by source: visitors that let gradients through reconstructions only."""
        if self.gradients == "pass-through":
            return {}
        return {
            source: _splice(state.basis)
            for source, state in self.states.items()
            if after is None or state.basis.write_site.depth > after.depth
        }

    def in_pieces(
        self, rows: int, tokens: int, blocks: int, work: Callable[[slice], None], *, grad: bool = True
    ) -> Iterator[int]:
        """Call `work` on slices of `rows` that fit into memory; out of memory, on half as many. Yields rows done."""
        passes = -(-rows // min(rows, self._rows_that_fit(tokens, blocks, grad))) if rows else 1
        piece = -(-rows // passes)
        done = 0
        while done < rows:
            self.job.rest()
            try:
                work(slice(done, min(done + piece, rows)))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if piece == 1:
                    raise OutOfMemory(
                        f"One pass over {tokens} tokens does not fit in memory.",
                        "Shorten the prompt, or use another device.",
                        str(error),
                    ) from None
                piece //= 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            done = min(done + piece, rows)
            yield done

    def _rows_that_fit(self, tokens: int, blocks: int, grad: bool) -> int:
        device = self.run.ids.device
        per_row = self.row_bytes * tokens * (max(blocks, 1) if grad else 2)
        fits = int(_SHARE * available_bytes(device) / per_row) if per_row else 1 << 30
        if device.type == "cpu":
            fits = min(fits, max(1, _CPU_TOKENS // tokens))
        return max(1, fits)

    def blocks_after(self, site: Site) -> int:
        """How many blocks a run from this site passes."""
        if site.kind == "embed":
            return self.run.model.layers
        return self.run.model.layers - site.layer - (site.kind == "resid_post")


def workspace(
    model: LanguageModel,
    bases: Sequence[Basis],
    ids: Tensor,
    patch_ids: Tensor | None,
    make_goal: Callable[[Tensor], Goal],
    gradients: Gradients,
    job: Job,
    *,
    keep_sinks: bool = True,
) -> Workspace:
    """Run a batch [B, T] (and its patches) once and compare every site with its baseline.

    Args:
        make_goal: the metric, from the clean logits [B, V].
        keep_sinks: against zero, hold the first token and other attention sinks at their clean value.
    """
    ordered = sorted(bases, key=lambda basis: basis.write_site.depth)
    sites = {site for basis in ordered for site in (basis.read_site, basis.write_site)}
    run = CleanRun(model, ids, sites, job)
    other = CleanRun(model, patch_ids, sites, job) if patch_ids is not None else None
    patched = other.x if other is not None else None
    states = {}
    for basis in ordered:
        job.check()
        x, read = run.x[basis.write_site], run.x[basis.read_site]
        patch = (patched[basis.write_site], patched[basis.read_site]) if patched is not None else None
        keep = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if keep_sinks and patch is None and x.shape[1] > 1:
            keep = sink_places(x)
            keep[:, 0] = True
        states[basis.source] = site_state(basis, x, read, patch, keep)
    goal = make_goal(run.logits)
    work = Workspace(run, states, goal, gradients)
    if other is not None:
        work.patched, work.other = goal(other.logits, work.examples), other.x
    return work


def _splice(basis: Basis) -> dict[Site, Visitor]:
    """Replace what a site holds by reconstruction + error, the error as a constant."""
    if basis.read_site == basis.write_site:

        def through(x: Tensor) -> Tensor:
            flat = x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x.flatten(0, 1).flatten(1)
            rebuilt = basis.reconstruct(flat)
            return (rebuilt + (flat - rebuilt).detach()).reshape(x.shape)

        return {basis.write_site: through}
    seen: list[Tensor] = []

    def read(x: Tensor) -> None:
        seen[:] = [basis.reconstruct(x.reshape(-1, x.shape[-1]))]

    def write(y: Tensor) -> Tensor:
        if not seen:
            return y.detach()  # it reads before the run begins: a constant
        rebuilt = seen.pop().reshape(y.shape)
        return rebuilt + (y - rebuilt).detach()

    return {basis.read_site: read, basis.write_site: write}
