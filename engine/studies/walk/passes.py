"""A prompt with something added at some positions of one site: the next token, and the text that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from engine.job import Job
from engine.model import LanguageModel, Visitor
from engine.sites import Site
from engine.steering.continuing import generated_text
from engine.steering.interventions import Cursor
from engine.steering.prefix import Prefix

if TYPE_CHECKING:
    from transformers.cache_utils import DynamicCache

_TOKENS = 1024
_ROWS = 64


class Passes:
    """Runs of one prompt, R rows at a time, with `added` [R, P, d] at `positions` [P] of `site`.

    Below the site and before the first of the positions nothing is computed again. What is added to a prompt holds
    for all tokens that follow it.
    """

    def __init__(self, model: LanguageModel, ids: Sequence[int], site: Site, positions: Tensor, job: Job) -> None:
        self._model = model
        self._site = site
        self._positions = positions
        self._begin = int(positions.min())
        self._job = job
        self._prefix = Prefix(model, ids, [site], job)
        self._cursor = Cursor()
        with torch.inference_mode():
            self.plain = log_softmax(self._prefix.logits.double(), 0)
        """The next token's log-probabilities, [V]."""

    @property
    def rows(self) -> int:
        """How many are run at once."""
        return max(1, min(_ROWS, _TOKENS // len(self._prefix)))

    @torch.inference_mode()
    def next_token(self, added: Tensor) -> Tensor:
        """The next token's log-probabilities, [R, V], in float64."""
        return log_softmax(self._first(added)[0].double(), 1)

    @torch.inference_mode()
    def texts(self, added: Tensor, tokens: int) -> list[str]:
        """What the model continues with, the likeliest token each time, until a text ends."""
        logits, cache = self._first(added)
        found: list[list[int]] = [[] for _ in added]
        ended = self._model.end_ids
        appended: list[list[int]] = []
        for number in range(tokens):
            self._job.check()
            appended.append(logits.argmax(1).tolist())
            for text, token in zip(found, appended[-1], strict=True):
                if not text or text[-1] not in ended:
                    text.append(token)
            if number + 1 == tokens or all(text[-1] in ended for text in found):
                break
            logits = self._go_on(added, appended, cache)
        return [generated_text(self._model, text) for text in found]

    def _first(self, added: Tensor) -> tuple[Tensor, DynamicCache | None]:
        """Logits [R, V] after the prompt, and what a new token continues."""
        if not self._model.caches:
            return self._go_on(added, [], None), None
        visitors = {self._site: self._adding(added)}
        return self._prefix.steered(visitors, len(added), self._begin, self._cursor, self._job)

    def _go_on(self, added: Tensor, appended: Sequence[Sequence[int]], cache: DynamicCache | None) -> Tensor:
        device = self._model.device
        if cache is not None:
            return self._next_logits(torch.tensor(appended[-1], device=device)[:, None], cache)
        prompt = torch.tensor([self._prefix.ids], device=device).expand(len(added), -1)
        new = [torch.tensor(tokens, device=device)[:, None] for tokens in appended]
        self._cursor.start = 0
        with self._model.visiting({self._site: self._adding(added)}, self._job):
            return self._next_logits(torch.cat([prompt, *new], 1), None)

    def _next_logits(self, ids: Tensor, cache: DynamicCache | None) -> Tensor:
        return self._model.logits(self._model.hidden(ids, cache)[:, -1].contiguous())

    def _adding(self, added: Tensor) -> Visitor:
        def visit(x: Tensor) -> Tensor:
            places = self._positions - self._cursor.start
            here = (places >= 0) & (places < x.shape[1])
            new = x.clone()
            new[:, places[here]] += added[:, here].to(x.dtype).reshape(len(x), -1, *x.shape[2:])
            return new

        return visit
