"""Which features of all dictionaries follow a signal on text most closely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.corpus.reading import Read, read_batches
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.studies.measure import Growing
from engine.studies.parts import chosen
from engine.study_settings.specificity import Specificity
from engine.training.corpus import Context


class Correlation:
    """Pearson's correlation of every feature of a dictionary with one signal, from sums over the tokens that count."""

    def __init__(self, features: int) -> None:
        self._count, self._signal, self._squares = 0, 0.0, 0.0
        self._sums = torch.zeros(3, features, dtype=torch.float64)
        """Σf, Σf², Σf·signal."""

    def add(self, read: Read, signal: NDArray[np.float64]) -> None:
        """Take a batch; `signal` [n] is on all of its tokens."""
        given = torch.from_numpy(signal)
        counted = given[read.counts.cpu()]
        self._count += len(counted)
        self._signal += float(counted.sum())
        self._squares += float(counted.square().sum())
        features, values = read.entries.features.cpu(), read.entries.values.double().cpu()
        parts = torch.stack([values, values.square(), values * given[read.entries.rows.cpu()]])
        self._sums.index_add_(1, features, parts)

    def value(self) -> Tensor:
        """[features]; 0 where a feature or the signal does not vary."""
        n, (f, ff, fs) = self._count, self._sums
        covariance = fs - f * self._signal / n
        spread = (ff - f.square() / n) * (self._squares - self._signal**2 / n)
        return torch.where(spread > 0, covariance / spread.clamp(min=1e-300).sqrt(), 0.0)


def most_sensitive(
    opened: OpenSet,
    settings: Specificity,
    contexts: Sequence[Context],
    proxies: Sequence[NDArray[np.float64]],
    growing: Growing,
) -> list[FeatureRef]:
    """The features whose activation correlates best with the proxy, of all dictionaries asked for.

    Raises:
        BadRequest: none correlates at all.
    """
    dictionaries = chosen(opened, settings.sources)
    found = {d.source: Correlation(d.d_sae) for d in dictionaries}
    if len(np.unique(np.concatenate(proxies))) < 2:
        raise BadRequest(
            f"This text holds nothing of the kind {settings.kind}, or nothing else.", "Give text that holds both."
        )
    done = 0
    for batch in read_batches(opened.model, dictionaries, contexts, growing.job):
        signal = np.concatenate(proxies[batch.start : batch.start + len(batch.contexts)])
        for source, read in batch.reads.items():
            found[source].add(read, signal)
        done += len(batch.contexts)
        growing.progress("finding sensitive features", done, len(contexts))
        growing.rest()
    ranked: list[tuple[float, FeatureRef]] = []
    for source, correlation in found.items():
        top = correlation.value().topk(min(settings.found, len(correlation.value())))
        ranked += [
            (value, FeatureRef(source, index))
            for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            if value > 0
        ]
    if not ranked:
        raise BadRequest(
            f"No feature follows {settings.kind} on this text.", "Give text that holds the kind, or name features."
        )
    return [ref for _, ref in sorted(ranked, key=lambda pair: -pair[0])[: settings.found]]
