"""Clean runs, and runs of the rest of the network from a site with something else in it.

A run of the rest starts at the block where the change is made, not at the embeddings: the blocks are called one by one
with the arguments they had in the clean run. All prompts of a batch have the same length and end where the metric is
read, so nothing is padded and no position after it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.job import Job
from engine.model import LanguageModel, Visitor
from engine.sites import Site


def joined(groups: Iterable[Mapping[Site, Visitor]]) -> dict[Site, Visitor]:
    """Visitors of several together: at a site that two visit, the second sees what the first put there."""
    found: dict[Site, Visitor] = {}
    for group in groups:
        for site, visitor in group.items():
            found[site] = _then(found[site], visitor) if site in found else visitor
    return found


def _then(first: Visitor, second: Visitor) -> Visitor:
    def visit(x: Tensor) -> Tensor | None:
        new = first(x)
        newer = second(x if new is None else new)
        return new if newer is None else newer

    return visit


class StopHere(Exception):
    """Raised by a visitor that has seen enough: the rest of the pass is not wanted."""


class CleanRun:
    """One pass over `ids` [B, T] without gradients: what the sites held, and how to run on from there.

    Attributes:
        x: what each of `sites` held, [B, T, d].
        logits: next-token logits at the last position, [B, V].
    """

    def __init__(self, model: LanguageModel, ids: Tensor, sites: Iterable[Site], job: Job) -> None:
        self.model = model
        self.ids = ids
        self.job = job
        self.x: dict[Site, Tensor] = {}
        self._inputs: dict[int, Tensor] = {}
        self._arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

        def keep(site: Site) -> Visitor:
            def visit(x: Tensor) -> None:
                self.x[site] = x.reshape(*x.shape[:2], -1)

            return visit

        with torch.no_grad(), self._recording(), model.visiting({site: keep(site) for site in sites}, job):
            self.logits = self.from_start(ids)

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    @contextmanager
    def _recording(self) -> Any:
        """While inside, the blocks' inputs and other arguments are kept."""

        def recorder(number: int) -> Callable[..., None]:
            def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
                self._inputs[number] = args[0] if args else kwargs["hidden_states"]
                self._arguments[number] = (args[1:], rest)

            return record

        blocks = self.model.blocks or ()
        handles = [b.register_forward_pre_hook(recorder(number), with_kwargs=True) for number, b in enumerate(blocks)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # --- whole passes -------------------------------------------------------------------------------------------

    def from_start(self, ids: Tensor) -> Tensor:
        """Logits [R, V] at the last position of a whole pass."""
        return self.model.logits(self.model.hidden(ids)[:, -1])

    # --- the rest of the network --------------------------------------------------------------------------------

    def from_site(
        self, site: Site, x: Tensor, examples: Tensor, visitors: Mapping[Site, Visitor] | None = None
    ) -> Tensor:
        """Logits [R, V] where row r is example `examples[r]` with `x` [R, T, d] at `site`; differentiable in x.

        `visitors` see it and the sites after it.
        """
        others = dict(visitors or {})
        changed = joined([{site: lambda old: x.reshape(old.shape)}, others])
        blocks = self.model.blocks
        if blocks is None or site.kind == "embed":
            with self.model.visiting(changed, self.job):
                return self.from_start(self.ids[examples])
        first = site.layer + (site.kind == "resid_post")
        if site.kind in {"resid_pre", "resid_post"}:
            with self.model.visiting(others):
                return self._finish(self._from_block(first, x, others))
        with self.model.visiting(changed):
            return self._finish(self._from_block(first, self._inputs[first][examples], others))

    def segment(
        self,
        start: Site | None,
        x: Tensor | None,
        examples: Tensor,
        length: int,
        visitors: Mapping[Site, Visitor],
    ) -> Tensor | None:
        """Run the first `length` positions from `start` until a visitor raises `StopHere`; else the logits [R, V].

        `x` [R, length, d] is what `start` holds where it is a residual stream; otherwise, and with no `start`, the
        run begins where its block (or the model) begins and visitors put in what they want.
        """
        blocks = self.model.blocks
        try:
            if blocks is None or start is None or start.kind == "embed":
                with self.model.visiting(visitors, self.job):
                    return self.from_start(self.ids[examples, :length])
            inside = start.kind not in {"resid_pre", "resid_post"}
            first = start.layer + (start.kind == "resid_post")
            if inside or x is None:
                x = self._inputs[first][examples, :length]
            with self.model.visiting(visitors):
                return self._finish(self._from_block(first, x, visitors))
        except StopHere:
            return None

    def _from_block(self, first: int, hidden: Tensor, visitors: Mapping[Site, Visitor]) -> Tensor:
        """As `blocks_from`; whoever visits what the block before wrote is shown it, since that block is not run."""
        visitor = visitors.get(Site("resid_post", first - 1))
        new = visitor(hidden) if visitor is not None else None
        return self.blocks_from(first, hidden if new is None else new)

    def blocks_from(self, first: int, hidden: Tensor) -> Tensor:
        """`hidden` [R, t, d] through the blocks from `first` on; t may be shorter than the clean run."""
        blocks = self.model.blocks
        assert blocks is not None
        for number in range(first, len(blocks)):
            self.job.check()
            args, kwargs = self._arguments[number]
            shorter = {name: _prefix(name, value, hidden.shape[1]) for name, value in kwargs.items()}
            output = blocks[number](hidden, *args, **shorter)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def _finish(self, hidden: Tensor) -> Tensor:
        return self.model.logits(self.model.final_norm(hidden[:, -1:])[:, 0])


def _prefix(name: str, value: Any, length: int) -> Any:
    """A block's argument for the first `length` positions of any number of rows: prompts are of one length."""
    if isinstance(value, tuple):
        return tuple(_prefix(name, part, length) for part in value)
    if not isinstance(value, Tensor):
        return value
    if name == "attention_mask":
        value = value[..., :length, :length] if value.ndim == 4 else value[..., :length]
    elif name == "position_embeddings":
        value = value[:, :length]
    elif name in {"position_ids", "cache_position"}:
        value = value[..., :length]
    return value[:1] if value.ndim > 1 else value
