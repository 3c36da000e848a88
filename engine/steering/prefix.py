"""A prompt read once by the plain model, so that every arm can go on from it.

Kept are the keys and values of all layers, what entered the blocks at which steering may begin, and the next-token
logits. An arm that changes layer 13 on is run from layer 13 on; below it shares the plain arm's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.job import Job
from engine.model import LanguageModel, Visitor
from engine.sites import Site
from engine.steering.interventions import Cursor

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

    from engine.steering.continuing import PlainArm


def first_block(site: Site) -> int | None:
    """The first block that sees a change at the site; None where it lies before them all."""
    if site.kind == "embed":
        return None
    return site.layer + (site.kind == "resid_post")


class Prefix:
    """One prompt, read by the plain model.

    Attributes:
        logits: of the next token, [V].
    """

    def __init__(self, model: LanguageModel, ids: Sequence[int], sites: Iterable[Site], job: Job) -> None:
        self.model = model
        self.ids = tuple(ids)
        self._dtype = model.dtype
        self._batch = torch.tensor([self.ids], device=model.device)
        self._inputs: dict[int, Tensor] = {}
        self._arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.plain_arm: PlainArm | None = None
        """What the plain model said after it, the last time."""
        wanted = {first_block(site) for site in sites}
        with torch.inference_mode(), model.visiting({}, job):
            self._cache = new_cache() if model.caches else None
            handles = self._record({n for n in wanted if n is not None})
            try:
                hidden = model.hidden(self._batch, self._cache)
            finally:
                for handle in handles:
                    handle.remove()
            self.logits = model.logits(hidden[:, -1].contiguous())[0]

    def is_of(self, model: LanguageModel, ids: Sequence[int]) -> bool:
        """Whether this is what the model reads in these tokens, in the precision it computes in now."""
        return self.ids == tuple(ids) and self._dtype == model.dtype

    def __len__(self) -> int:
        return len(self.ids)

    def _record(self, wanted: set[int]) -> list[torch.utils.hooks.RemovableHandle]:
        """Keep what the wanted blocks are given; of all later ones the other arguments."""

        def recorder(number: int) -> Callable[..., None]:
            def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if number in wanted:
                    self._inputs[number] = args[0] if args else kwargs["hidden_states"]
                rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
                self._arguments[number] = (args[1:], rest)

            return record

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._inputs[self.model.layers] = output[0] if isinstance(output, tuple) else output

        blocks = self.model.blocks or ()
        handles = [b.register_forward_pre_hook(recorder(n), with_kwargs=True) for n, b in enumerate(blocks)]
        if self.model.layers in wanted and blocks:
            handles.append(blocks[-1].register_forward_hook(leave))
        return handles

    # --- going on from it ---------------------------------------------------------------------------------------

    def plain(self, rows: int) -> DynamicCache:
        """A cache of its own for `rows` rows that are the plain prompt."""
        assert self._cache is not None
        return _copy(self._cache, rows, len(self), self.model.layers)

    def steered(
        self, visitors: Mapping[Site, Visitor], rows: int, start: float, cursor: Cursor, job: Job
    ) -> tuple[Tensor, DynamicCache]:
        """Next-token logits [R, V] and the cache of `rows` arms steered by `visitors` from position `start` on."""
        length = len(self)
        if start >= length or not visitors:
            return self.logits.expand(rows, -1), self.plain(rows)
        first = min((first_block(site) for site in visitors), key=lambda n: -1 if n is None else n)
        layers = self.model.layers
        begin = int(start)
        if first is None or first not in self._inputs or (length - begin) * layers < length * (layers - first):
            return self._whole_width(visitors, rows, begin, cursor, job)
        return self._whole_length(visitors, rows, first, cursor, job)

    def _whole_width(
        self, visitors: Mapping[Site, Visitor], rows: int, begin: int, cursor: Cursor, job: Job
    ) -> tuple[Tensor, DynamicCache]:
        """All layers, from token `begin` on."""
        assert self._cache is not None
        cache = _copy(self._cache, rows, begin, self.model.layers)
        cursor.start = begin
        with self.model.visiting(visitors, job):
            hidden = self.model.hidden(self._batch[:, begin:].expand(rows, -1), cache)
        return self.model.logits(hidden[:, -1].contiguous()), cache

    def _whole_length(
        self, visitors: Mapping[Site, Visitor], rows: int, first: int, cursor: Cursor, job: Job
    ) -> tuple[Tensor, DynamicCache]:
        """All tokens, from block `first` on."""
        blocks = self.model.blocks
        assert blocks is not None
        assert self._cache is not None
        cache = _copy(self._cache, rows, len(self), first)
        cursor.start = 0
        hidden = self._inputs[first].expand(rows, -1, -1)
        above = Site("resid_post", first - 1)  # its block is not run: it is shown what that block gave
        if above in visitors:
            new = visitors[above](hidden)
            hidden = hidden if new is None else new
        with self.model.visiting({s: v for s, v in visitors.items() if s != above}, job):
            for number in range(first, len(blocks)):
                args, kwargs = self._arguments[number]
                args = tuple(cache if value is self._cache else value for value in args)
                kwargs = {name: cache if value is self._cache else value for name, value in kwargs.items()}
                output = blocks[number](hidden, *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
        last = self.model.final_norm(hidden[:, -1:])[:, 0]
        return self.model.logits(last.contiguous()), cache


def new_cache() -> DynamicCache:
    """A cache that keeps every position of every layer: windows are the business of the masks."""
    from transformers import DynamicCache

    return DynamicCache()


def _copy(cache: DynamicCache, rows: int, length: int, layers: int) -> DynamicCache:
    """The first `length` positions of the first `layers` layers, for `rows` rows."""
    copied = new_cache()
    for number in range(layers):
        layer = cache.layers[number]
        if layer.keys is None:
            break
        copied.update(
            layer.keys[:, :, :length].expand(rows, -1, -1, -1),
            layer.values[:, :, :length].expand(rows, -1, -1, -1),
            number,
        )
    return copied


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """The rows of several caches of equal length as one batch."""
    if len(caches) == 1:
        return caches[0]
    together = new_cache()
    for number in range(len(caches[0].layers)):
        layers = [cache.layers[number] for cache in caches]
        together.update(torch.cat([c.keys for c in layers]), torch.cat([c.values for c in layers]), number)
    return together
