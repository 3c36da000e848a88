"""A `Steer` request in numbers: token ids, rules for drawing, programs; checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.circuits.examples import answer_id
from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Provenance, Steer, Token
from engine.steering.continuing import Rules
from engine.steering.interventions import Program, compile_program
from engine.steering.sampling import Sampling
from engine.steering_results import Intervention


class Asked:
    """What a request asks of the open model.

    Raises:
        BadRequest: a setting has no meaning, or does not fit the model.
        PromptTooLong: prompt and text exceed the model's context.
    """

    def __init__(self, opened: OpenSet, request: Steer, job: Job) -> None:
        if request.tokens < 1:
            raise BadRequest("Nothing to generate.", "Ask for at least one token.")
        if not all(request.stop):
            raise BadRequest("An empty stop string would end every text.", "Leave it out.")
        if request.top < 0:
            raise BadRequest(f"{request.top} likeliest tokens?", "Ask for 0 or more.")
        sampling = Sampling(request.temperature, request.top_p, request.seed, request.top_k, request.repetition_penalty)
        sampling.check()
        self.opened = opened
        self.request = request
        self._job = job
        self.rules = Rules(request.tokens, sampling, request.stop)
        self.ids = opened.checked_ids(request.prompt, request.chat, request.tokens)
        self.watched = tuple(dict.fromkeys(answer_id(opened, text) for text in request.watch))

    @property
    def watched_tokens(self) -> tuple[Token, ...]:
        return self.tokens(self.watched)

    def watch(self, ids: Sequence[int]) -> None:
        """Report the probabilities of these tokens too."""
        self.watched = tuple(dict.fromkeys((*self.watched, *ids)))

    def tokens(self, ids: Sequence[int]) -> tuple[Token, ...]:
        """Ids as tokens with their text."""
        return tuple(map(self.opened.model.tokenizer.token, ids))

    def program(self, interventions: Sequence[Intervention] | None = None, random: int | None = None) -> Program:
        """What these interventions do (by default the request's), or their control along random directions."""
        request = self.request
        return compile_program(
            self.opened, request.interventions if interventions is None else interventions, self.ids,
            chat=request.chat, tokens=request.tokens, keep_error=request.keep_error, random_directions=random,
            job=self._job,
        )  # fmt: skip

    def controls(self, count: int, interventions: Sequence[Intervention] | None = None) -> list[Program]:
        """The same along `count` random directions."""
        return [self.program(interventions, random=seed) for seed in range(count)]

    def provenance(self, **more: Any) -> Provenance:
        """What a result came from."""
        request = self.request
        settings = {
            "tokens": request.tokens,
            "seed": request.seed,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "repetition_penalty": request.repetition_penalty,
            "stop": list(request.stop),
            "error": "kept" if request.keep_error else "dropped",
            **more,
        }
        used = dict.fromkeys(i.feature.source for i in request.interventions)
        return self.opened.provenance([self.opened.dictionaries[source] for source in used], settings)
