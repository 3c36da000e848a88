"""Plain and steered text side by side: two rows of one batch over one key-value cache.

Both arms draw with the same random number at every step, so that where their distributions agree their text does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.job import Job
from engine.model import LanguageModel
from engine.sites import Site
from engine.steering import steer_row

PLAIN, STEERED = 0, 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the likeliest."""

    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One step: the token of each arm, None for an arm that has ended, and KL(plain ‖ steered) in nats.

    The divergence is None once an arm has ended: there is nothing left to compare.
    """

    plain: int | None
    steered: int | None
    kl: float | None


def draw(log_probabilities: Tensor, uniform: float, sampling: Sampling) -> int:
    """The token that `uniform` ∈ [0, 1) picks from log-probabilities [vocabulary].

    Tokens are laid out from likely to unlikely (ties by id) and cut where `top_p` of the mass is reached.
    """
    if sampling.temperature == 0:
        return int(log_probabilities.argmax())
    tempered = torch.log_softmax(log_probabilities / sampling.temperature, 0)
    ordered, indices = tempered.sort(descending=True, stable=True)
    mass = ordered.double().exp().cumsum(0)
    limit = min(sampling.top_p, 1.0) * float(mass[-1])
    reach = int(torch.searchsorted(mass, limit)) + 1
    kept = mass[: max(1, min(reach, len(mass)))]
    place = int(torch.searchsorted(kept, uniform * float(kept[-1]), right=True))
    return int(indices[min(place, len(kept) - 1)])


def generate(
    model: LanguageModel,
    ids: Sequence[int],
    directions: Mapping[Site, Tensor],
    tokens: int,
    sampling: Sampling,
    job: Job,
    *,
    cached: bool = True,
) -> Iterator[Step]:
    """Continue `ids` for at most `tokens` steps in both arms.

    `directions` are what steering adds per site, [d]. Without `cached`, every step reads the whole text again;
    the result is the same.
    """
    random = torch.Generator().manual_seed(sampling.seed)
    texts = [list(ids), list(ids)]
    alive = [True, True]
    with model.visiting(steer_row(directions, STEERED), job), torch.inference_mode():
        advance = _cached_steps(model) if cached and model.caches else _uncached_steps(model)
        for _ in range(tokens):
            job.check()
            log_probabilities = torch.log_softmax(advance(texts), 1).cpu()
            uniform = float(torch.rand((), generator=random, dtype=torch.float64))
            plain, steered = log_probabilities
            kl = float((plain.exp() * (plain - steered)).sum().clamp(min=0)) if all(alive) else None
            chosen = [draw(arm, uniform, sampling) for arm in log_probabilities]
            for arm, token in enumerate(chosen):
                texts[arm].append(token)
            yield Step(
                plain=chosen[PLAIN] if alive[PLAIN] else None,
                steered=chosen[STEERED] if alive[STEERED] else None,
                kl=kl,
            )
            alive = [was and token not in model.end_ids for was, token in zip(alive, chosen, strict=True)]
            if not any(alive):
                return


def _cached_steps(model: LanguageModel) -> Callable[[list[list[int]]], Tensor]:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)

    def advance(texts: list[list[int]]) -> Tensor:
        seen = cache.get_seq_length()
        new = torch.tensor([text[seen:] for text in texts], device=model.device)
        return model.logits(model.hidden(new, cache)[:, -1].contiguous())

    return advance


def _uncached_steps(model: LanguageModel) -> Callable[[list[list[int]]], Tensor]:
    def advance(texts: list[list[int]]) -> Tensor:
        return model.logits(model.hidden(torch.tensor(texts, device=model.device))[:, -1].contiguous())

    return advance
