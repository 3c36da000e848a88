"""What dictionaries make of text at a place: explained variance, L0 and which features fire, summed over tokens.

First tokens and other attention sinks (norm over four medians) are left out: they are a hundred times longer than any
other token, and the variance would be theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.reading import SINK_FACTOR
from engine.sites import Site
from engine.training.corpus import Context, batches


@dataclass(frozen=True)
class Trial:
    """A dictionary read at a place, its own or another."""

    dictionary: Dictionary
    read: Site
    write: Site
    """Where what it reconstructs is."""

    @classmethod
    def own(cls, dictionary: Dictionary) -> Trial:
        """A dictionary at its own place."""
        return cls(dictionary, dictionary.site, dictionary.write_site)


class Variance:
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


class Tally:
    """What one trial came to."""

    def __init__(self, trial: Trial) -> None:
        self._d_out = trial.dictionary.d_out
        self.every = Variance(self._d_out)
        self.by_source: dict[str, Variance] = {}
        self.fired = torch.zeros(trial.dictionary.d_sae, dtype=torch.bool)
        self.active = 0

    def add(self, source: str, target: Tensor, error: Tensor, activations: Tensor) -> None:
        """Take tokens of one source: what was to be reconstructed [n, d_out], what was missed, and what fired."""
        fires = activations != 0
        self.fired |= fires.any(0).cpu()
        self.active += int(fires.sum())
        for group in (self.every, self.by_source.setdefault(source, Variance(self._d_out))):
            group.add(target, error)

    @property
    def l0(self) -> float:
        """Features active per token."""
        return self.active / max(self.every.count, 1)

    @property
    def dead_fraction(self) -> float:
        """The share of features that fired on none of these tokens."""
        return 1 - float(self.fired.float().mean())

    @property
    def mean(self) -> Tensor:
        """[d_out] of what was to be reconstructed."""
        return (self.every.sum / max(self.every.count, 1)).float()


def tally(
    model: LanguageModel, trials: Sequence[Trial], contexts: list[Context], job: Job, rows: int = 16
) -> list[Tally]:
    """What every trial comes to over `contexts`, in one pass over them."""
    tallies = [Tally(trial) for trial in trials]
    sites = {site for trial in trials for site in (trial.read, trial.write)}
    done = 0
    for ids, group in batches(contexts, rows):
        inputs = torch.from_numpy(ids).to(model.device, torch.long)
        with torch.inference_mode():
            caught = {site: x.flatten(2).float() for site, x in model.capture(inputs, sites, job).items()}
            for trial, found in zip(trials, tallies, strict=True):
                _add(trial, found, caught, group)
        done += len(group)
        job.progress("measuring variance", done, len(contexts))
    return tallies


def _add(trial: Trial, found: Tally, caught: dict[Site, Tensor], group: list[Context]) -> None:
    x_all, target_all = caught[trial.read], caught[trial.write]
    norms = torch.cat([x_all[r, 1 : len(c.ids)].norm(dim=1) for r, c in enumerate(group)])
    limit = SINK_FACTOR * norms.median()
    for row, context in enumerate(group):
        x, target = x_all[row, : len(context.ids)], target_all[row, : len(context.ids)]
        keep = x.norm(dim=1) <= limit
        keep[0] = False
        if trial.dictionary.whole_prompt:
            activations = trial.dictionary.encode(x, whole=True)
            reconstruction = trial.dictionary.decode(activations, x)[keep]
            activations = activations[keep]
        else:
            activations = trial.dictionary.encode(x[keep])
            reconstruction = trial.dictionary.decode(activations, x[keep])
        found.add(context.source, target[keep], target[keep] - reconstruction, activations)
