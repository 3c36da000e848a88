"""Rows of one batch that continue one prompt, each under a program of its own: next-token logits, step by step.

The prompt is read once (`engine.steering.prefix`), new tokens go through a key-value cache. Without the cache every
step reads the whole text again; the result is the same, and a test holds it so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.job import Job
from engine.model import Visitor
from engine.sites import Site
from engine.steering.captured import FixedStep
from engine.steering.interventions import Arm, Cursor, Program, visitors
from engine.steering.prefix import Prefix, joined

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache


class Decoding:
    """A batch of arms; use inside `running()`.

    Args:
        programs: what acts on each row; None is the plain model.
        room: how many tokens may follow; with it, steps have fixed addresses (`engine.steering.captured`) on CUDA.
        fixed: have them anywhere.
    """

    def __init__(
        self,
        prefix: Prefix,
        programs: Sequence[Program | None],
        job: Job,
        *,
        cached: bool = True,
        room: int = 0,
        fixed: bool = False,
    ) -> None:
        self._prefix = prefix
        self._model = prefix.model
        self._job = job
        self._cached = cached and self._model.caches
        self.arms = [None if program is None else Arm.of(program) for program in programs]
        self.texts: list[list[int]] = [list(prefix.ids) for _ in programs]
        self._cursor = Cursor()
        self._hooks = ExitStack()
        self._cache: DynamicCache | None = None
        self._room = room if self._cached and (fixed or self._model.device.type == "cuda") else 0
        self._step: FixedStep | None = None

    @contextmanager
    def running(self) -> Iterator[Tensor]:
        """Read the prompt; gives the logits [R, V] of the first new token."""
        with torch.inference_mode():
            try:
                yield self._begin()
            finally:
                self._hooks.close()
                if self._step is not None:
                    self._step.close()

    def _begin(self) -> Tensor:
        if not self._cached:
            self._attach()
            return self._all_again()
        logits: list[Tensor] = []
        caches: list[DynamicCache] = []
        for rows in self._alike():
            arms = [self.arms[row] for row in rows]
            start = min(float("inf") if arm is None else arm.programs[0][1].start for arm in arms)
            found, cache = self._prefix.steered(visitors(arms, self._cursor), len(rows), start, self._cursor, self._job)
            logits.append(found)
            caches.append(cache)
        self._cache = joined(caches)
        self._attach()
        if self._room:
            self._fix()
        return torch.cat(logits)

    def _fix(self) -> None:
        """Go on at fixed addresses, from what is in the cache."""
        assert self._cache is not None
        present = [None if arm is None else arm.programs[-1][1] for arm in self.arms]
        self._step = FixedStep(self._model, self._cache, present, self._room)

    def _alike(self) -> list[range]:
        """Rows that begin together: plain ones need not be run again, steered ones are run as one batch."""
        plain = [arm is None for arm in self.arms]
        bounds = [0, *(n for n in range(1, len(plain)) if plain[n] != plain[n - 1]), len(plain)]
        return [range(a, b) for a, b in pairwise(bounds)]

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; logits [R, V] of the next."""
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)
        if self._cache is None:
            return self._all_again()
        self._cursor.start = len(self.texts[0]) - 1
        if self._step is not None:
            return self._step(tokens)
        new = torch.tensor([[token] for token in tokens], device=self._model.device)
        return self._model.logits(self._model.hidden(new, self._cache)[:, -1].contiguous())

    def _all_again(self) -> Tensor:
        self._cursor.start = 0
        batch = torch.tensor(self.texts, device=self._model.device)
        return self._model.logits(self._model.hidden(batch)[:, -1].contiguous())

    def change(self, row: int, program: Program) -> None:
        """From the next new token on another program acts on a row."""
        arm = self.arms[row]
        assert arm is not None
        if self._step is not None and arm.programs[-1][1].take_strengths(program):
            return
        arm.change(len(self.texts[row]), program)
        self._attach()
        if self._step is not None:
            self._step.close()
            self._cache = self._step.so_far()
            self._fix()

    def _attach(self) -> None:
        self._hooks.close()
        self._hooks.enter_context(self._model.visiting(self._visitors(), self._job))

    def _visitors(self) -> dict[Site, Visitor]:
        return visitors(self.arms, self._cursor)
