"""How good a dictionary is on text it was not trained on: explained variance, L0, dead features, loss recovered.

Of a transcoder, variance and loss are those of what it writes. The first position is never spliced: its residual is a
constant of the model, a hundred times longer than any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.training.corpus import Context, batches
from engine.training.tally import Tally, Trial, tally

Replace = Callable[[Tensor, Tensor], Tensor]
"""From what is read [tokens, d_in] and what stands at the place written [tokens, d_out] to what shall stand there."""


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
    loss_zero_ablated: float = float("nan")

    @property
    def loss_recovered(self) -> float:
        """(mean-ablated − spliced) / (mean-ablated − clean)."""
        return _recovered(self.loss_mean_ablated, self.loss_spliced, self.loss_clean)

    @property
    def loss_recovered_zero(self) -> float:
        """(zero-ablated − spliced) / (zero-ablated − clean)."""
        return _recovered(self.loss_zero_ablated, self.loss_spliced, self.loss_clean)


def _recovered(ablated: float, spliced: float, clean: float) -> float:
    return (ablated - spliced) / (ablated - clean) if ablated != clean else float("nan")


def evaluate(
    model: LanguageModel,
    dictionaries: list[Dictionary],
    contexts: list[Context],
    loss_contexts: list[Context],
    job: Job,
    rows: int = 16,
) -> dict[str, Figures]:
    """Figures of every dictionary over `contexts`; losses over `loss_contexts`, which cost three passes for each."""
    found = tally(model, [Trial.own(d) for d in dictionaries], contexts, job, rows)
    clean, counted = mean_loss(model, None, None, loss_contexts, rows, job, "clean loss")
    figures = {}
    for dictionary, own in zip(dictionaries, found, strict=True):
        spliced, mean_ablated, zero_ablated = (
            mean_loss(model, dictionary, replace, loss_contexts, rows, job, f"{dictionary.source} {how}")[0]
            for how, replace in replacements(dictionary, own).items()
        )
        figures[dictionary.source] = Figures(
            explained_variance=own.every.explained,
            explained_variance_by_source={k: v.explained for k, v in sorted(own.by_source.items()) if k},
            l0=own.l0,
            dead_fraction=own.dead_fraction,
            tokens=own.every.count,
            loss_clean=clean,
            loss_spliced=spliced,
            loss_mean_ablated=mean_ablated,
            loss_tokens=counted,
            loss_zero_ablated=zero_ablated,
        )
    return figures


def replacements(dictionary: Dictionary, own: Tally) -> dict[str, Replace]:
    """What stands in for an activation: the reconstruction, the mean of the sample, nothing."""

    def splice(x: Tensor, _: Tensor) -> Tensor:
        return dictionary.decode(dictionary.encode(x, whole=True), x)

    def mean(_: Tensor, target: Tensor) -> Tensor:
        return own.mean.to(target.device, target.dtype).expand_as(target)

    def zero(_: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(target)

    return {"spliced": splice, "mean-ablated": mean, "zero-ablated": zero}


def mean_loss(
    model: LanguageModel,
    dictionary: Dictionary | None,
    replace: Replace | None,
    contexts: list[Context],
    rows: int,
    job: Job,
    text: str,
) -> tuple[float, int]:
    """Mean cross-entropy in nats with `replace` applied where the dictionary writes, first position untouched."""
    read: list[Tensor] = []

    def keep(x: Tensor) -> None:
        read[:] = [x]

    def visit(x: Tensor) -> Tensor:
        assert replace is not None
        source = (read.pop() if read else x).flatten(2).float()
        target = x.flatten(2).float()
        # A row at a time: a dictionary that reads whole prompts must see each by itself, its first token included.
        new = torch.stack([replace(s, t) for s, t in zip(source, target, strict=True)]).to(x.dtype)
        new[:, 0] = x.flatten(2)[:, 0]
        return new.reshape(x.shape)

    total, counted = 0.0, 0
    visitors = {}
    if dictionary is not None:
        visitors = {dictionary.site: keep, dictionary.write_site: visit}  # at one site, only the second stays
    for ids, group in batches(contexts, rows):
        job.rest()  # between batches nothing is hooked
        with model.visiting(visitors, job), torch.inference_mode():
            hidden = model.hidden(torch.from_numpy(ids).to(model.device, torch.long))
            for row, context in enumerate(group):
                target = torch.from_numpy(context.ids[1:]).to(model.device, torch.long)
                scores = model.logits(hidden[row, : len(context.ids) - 1].contiguous())
                total += float(torch.nn.functional.cross_entropy(scores, target, reduction="sum"))
                counted += len(target)
        job.progress(f"measuring {text}", counted)
    return total / counted, counted
