"""How good a dictionary is on text it was not trained on: explained variance, L0, dead features, loss recovered.

First tokens and other attention sinks (norm over four medians) are left out of the variance, and the first
position is never spliced: its residual is a constant of the model, a hundred times longer than any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.reading import SINK_FACTOR
from engine.training.corpus import Context, batches


@dataclass(frozen=True)
class Figures:
    """Figures of one dictionary; losses in nats per token."""

    explained_variance: float
    explained_variance_by_source: dict[str, float]
    l0: float
    dead_fraction: float
    tokens: int
    loss_clean: float
    loss_spliced: float
    loss_mean_ablated: float
    loss_tokens: int

    @property
    def loss_recovered(self) -> float:
        """(mean-ablated − spliced) / (mean-ablated − clean)."""
        return (self.loss_mean_ablated - self.loss_spliced) / (self.loss_mean_ablated - self.loss_clean)


class _Variance:
    """Running Σ‖x−x̂‖² and Σ‖x−mean‖² of one group of tokens."""

    def __init__(self, width: int) -> None:
        self.count, self.error, self.square = 0, 0.0, 0.0
        self.sum = torch.zeros(width, dtype=torch.float64)

    def add(self, x: Tensor, error: Tensor) -> None:
        self.count += len(x)
        self.error += float(error.square().sum())
        self.square += float(x.double().square().sum())
        self.sum += x.double().sum(0).cpu()

    @property
    def explained(self) -> float:
        total = self.square - float(self.sum.square().sum()) / max(self.count, 1)
        return 1 - self.error / total if total > 0 else 0.0


def evaluate(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    contexts: list[Context],
    loss_contexts: list[Context],
    job: Job,
    rows: int = 16,
) -> dict[str, Figures]:
    """Figures of every dictionary over `contexts`; losses over `loss_contexts`, which cost a pass each."""
    groups = {d.source: {None: _Variance(d.d_in)} for d in dictionaries}  # type: dict[str, dict[str | None, _Variance]]
    fired = {d.source: torch.zeros(d.d_sae, dtype=torch.bool, device=model.device) for d in dictionaries}
    active = {d.source: 0 for d in dictionaries}
    done = 0
    for ids, group in batches(contexts, rows):
        inputs = torch.from_numpy(ids).to(model.device, torch.long)
        caught = model.capture(inputs, {d.site for d in dictionaries}, job)
        for dictionary in dictionaries:
            x_all = caught[dictionary.site].float()
            norms = torch.cat([x_all[r, 1 : len(c.ids)].norm(dim=1) for r, c in enumerate(group)])
            limit = SINK_FACTOR * norms.median()
            for row, context in enumerate(group):
                x = x_all[row, 1 : len(context.ids)]
                x = x[x.norm(dim=1) <= limit]
                activations = dictionary.encode(x)
                error = x - dictionary.decode(activations, x)
                fired[dictionary.source] |= (activations > 0).any(0)
                active[dictionary.source] += int((activations > 0).sum())
                by_source = groups[dictionary.source]
                for key in (None, context.source):
                    by_source.setdefault(key, _Variance(dictionary.d_in)).add(x, error)
        done += len(group)
        job.progress("measuring variance", done, len(contexts))
    losses = _losses(model, dictionaries, groups, loss_contexts, job, rows)
    figures = {}
    for dictionary in dictionaries:
        by_source = groups[dictionary.source]
        every = by_source[None]
        clean, spliced, ablated, counted = losses[dictionary.source]
        figures[dictionary.source] = Figures(
            explained_variance=every.explained,
            explained_variance_by_source={str(k): v.explained for k, v in sorted(by_source.items(), key=str) if k},
            l0=active[dictionary.source] / every.count,
            dead_fraction=1 - float(fired[dictionary.source].float().mean()),
            tokens=every.count,
            loss_clean=clean,
            loss_spliced=spliced,
            loss_mean_ablated=ablated,
            loss_tokens=counted,
        )
    return figures


def _losses(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    groups: dict[str, dict[str | None, _Variance]],
    contexts: list[Context],
    job: Job,
    rows: int,
) -> dict[str, tuple[float, float, float, int]]:
    clean, counted = _loss(model, None, None, contexts, rows, job, "clean loss")
    out = {}
    for dictionary in dictionaries:
        every = groups[dictionary.source][None]
        mean = (every.sum / every.count).float().to(model.device)

        def splice(x: Tensor, d: Dictionary = dictionary) -> Tensor:
            return d.decode(d.encode(x), x)

        def ablate(x: Tensor, mean: Tensor = mean) -> Tensor:
            return mean.expand_as(x)

        spliced, _ = _loss(model, dictionary, splice, contexts, rows, job, f"{dictionary.source} spliced")
        ablated, _ = _loss(model, dictionary, ablate, contexts, rows, job, f"{dictionary.source} mean-ablated")
        out[dictionary.source] = (clean, spliced, ablated, counted)
    return out


def _loss(
    model: LanguageModel,
    dictionary: Dictionary | None,
    replace: Callable[[Tensor], Tensor] | None,
    contexts: list[Context],
    rows: int,
    job: Job,
    text: str,
) -> tuple[float, int]:
    """Mean cross-entropy in nats with `replace` applied at the dictionary's site, first position untouched."""

    def visit(x: Tensor) -> Tensor:
        assert replace is not None
        new = x.clone()
        flat = x[:, 1:].reshape(-1, x.shape[-1])
        new[:, 1:] = replace(flat.float()).to(x.dtype).reshape(x[:, 1:].shape)
        return new

    total, counted = 0.0, 0
    visitors = {} if dictionary is None else {dictionary.site: visit}
    with model.visiting(visitors, job), torch.inference_mode():
        for ids, group in batches(contexts, rows):
            hidden = model.hidden(torch.from_numpy(ids).to(model.device, torch.long))
            for row, context in enumerate(group):
                target = torch.from_numpy(context.ids[1:]).to(model.device, torch.long)
                scores = model.logits(hidden[row, : len(context.ids) - 1].contiguous())
                total += float(torch.nn.functional.cross_entropy(scores, target, reduction="sum"))
                counted += len(target)
            job.progress(f"measuring {text}", counted)
    return total / counted, counted
