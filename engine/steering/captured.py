"""Decoding with fixed addresses: one step that a CUDA graph records once and replays for every token.

Keys and values lie in tensors of full length, the new token and the strengths in buffers, so that neither steering nor
a change of strength in mid-stream breaks the recording. Without CUDA the same step runs as it is, which is how it is
tested.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.model import LanguageModel
from engine.steering.interventions import Program

if TYPE_CHECKING:
    from transformers.cache_utils import Cache, DynamicCache

_WARM_UPS = 2
_log = logging.getLogger(__name__)


class FixedStep:
    """One decode step of a batch; `read` is a cache that holds the prompt, `room` how many tokens may follow.

    Hooks of the programs must be attached while steps run, and stay the same.
    """

    def __init__(self, model: LanguageModel, read: DynamicCache, programs: Sequence[Program | None], room: int) -> None:
        self._model = model
        self._programs = [program for program in programs if program is not None]
        self._length = read.get_seq_length()
        self._cache = _fixed(read, self._length + room)
        self._ids = torch.zeros(len(programs), 1, dtype=torch.long, device=model.device)
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recordable = model.device.type == "cuda"

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; logits [R, V] of the next."""
        self._ids.copy_(torch.tensor(tokens).reshape(-1, 1))
        self._hold(self._length)
        if self._recordable and self._graph is None:
            self._record()
        if self._graph is not None and self._logits is not None:
            self._graph.replay()
            logits = self._logits.clone()
        else:
            logits = self._step()
        self._length += 1
        return logits

    def so_far(self) -> DynamicCache:
        """What was read and appended, as a cache that grows."""
        from transformers import DynamicCache

        grown = DynamicCache()
        for number, layer in enumerate(self._cache.layers):
            grown.update(layer.keys[:, :, : self._length], layer.values[:, :, : self._length], number)
        return grown

    def close(self) -> None:
        """Let go of the buffers in the programs."""
        for program in self._programs:
            for group in program.groups:
                group.release()

    def _hold(self, position: int) -> None:
        for program in self._programs:
            for group in program.groups:
                group.hold(position)

    def _step(self) -> Tensor:
        return self._model.logits(self._model.hidden(self._ids, self._cache)[:, -1].contiguous())

    def _record(self) -> None:
        """Run the step on a stream of its own until its libraries are warm, undo that, and record it."""
        counts = [group.acted.clone() for program in self._programs for group in program.groups]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._step()
                self._rewind()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._logits = self._step()
            self._graph = graph
        except RuntimeError as error:  # a model that asks the device something in every pass
            self._recordable = False
            _log.warning("this model's step cannot be recorded as a CUDA graph: %s", error)
            self._rewind()
        groups = [group for program in self._programs for group in program.groups]
        for group, count in zip(groups, counts, strict=True):
            group.acted.copy_(count)

    def _rewind(self) -> None:
        """The last token was not there; what it wrote is written over."""
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self._length)


def _fixed(read: DynamicCache, room: int) -> Cache:
    """The same keys and values at fixed addresses, every position of every layer, as `prefix.new_cache` keeps them."""
    from transformers.cache_utils import Cache, StaticLayer

    layers = [StaticLayer(max_cache_len=room) for _ in read.layers]
    for fixed, held in zip(layers, read.layers, strict=True):
        fixed.update(held.keys, held.values)
    return Cache(layers=layers)
