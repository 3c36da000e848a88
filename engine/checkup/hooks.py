"""Where a dictionary reads best: its own place beside other layers and other places of its layer.

Explained variance falls slowly with the distance from the right layer, so the search climbs: every round looks one,
two, four … layers up and down from the best place so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.checkup.results import HookReading
from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch
from engine.job import Job
from engine.model import LanguageModel
from engine.sites import Site
from engine.training.corpus import Context
from engine.training.tally import Tally, Trial, tally

BETTER = 0.02
"""By how much more variance another place must explain to be worth looking at. The streams of two layers are much
alike: one off costs a good dictionary only .03 to .1, but nothing gains as much."""
_STEPS = (1, 2, 4, 8, 16, 32)
_ROUNDS = 4
_AT_ONCE = 4
_STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_z")
_INPUTS = ("hook_mlp_in", "ln2_normalized", "mlp_in", "resid_mid", "resid_pre")

Key = tuple[Site, Site]


@dataclass
class _Search:
    """One dictionary and the places it was read at so far."""

    dictionary: Dictionary
    centre: Trial
    tried: dict[Key, tuple[Trial, Tally]] = field(default_factory=dict)
    passed: set[Key] = field(default_factory=set)
    """Places seen already, those of another width included."""

    def around(self) -> list[Trial]:
        """The places to look at from the centre that were not looked at before."""
        found = []
        for trial in (self.centre, *_around(self.centre)):
            key = (place(trial.read), place(trial.write))
            if key not in self.passed:
                self.passed.add(key)
                found.append(trial)
        return found

    def climb(self) -> bool:
        """Move the centre to the best place, if that is clearly better than where the dictionary is."""
        own, *others = self.tried.values()
        best = max(others, key=_explained, default=own)
        if _explained(best) <= _explained(own) + BETTER or best[0] == self.centre:
            return False
        self.centre = best[0]
        return True

    def readings(self) -> tuple[HookReading, ...]:
        own, *others = (
            HookReading(trial.read.hook, trial.write.hook, found.every.explained, found.l0)
            for trial, found in self.tried.values()
        )
        return (own, *sorted(others, key=lambda reading: -reading.explained_variance))


def try_hooks(
    model: LanguageModel, dictionaries: Sequence[Dictionary], contexts: list[Context], job: Job
) -> list[tuple[HookReading, ...]]:
    """What every dictionary makes of its own place, first, and of others of the same width, best first."""
    searches = [_Search(dictionary, Trial.own(dictionary)) for dictionary in dictionaries]
    widths: dict[Site, int] = {}
    climbing = searches
    for _ in range(_ROUNDS):
        wanted = _fitting(model, [(search, trial) for search in climbing for trial in search.around()], widths)
        found = tally(model, [trial for _, trial in wanted], contexts, job, rows=_AT_ONCE) if wanted else []
        for (search, trial), one in zip(wanted, found, strict=True):
            search.tried[(place(trial.read), place(trial.write))] = (trial, one)
        climbing = [search for search in climbing if search.climb()]
        if not climbing:
            break
    return [search.readings() for search in searches]


def place(site: Site) -> Site:
    """One name for one place: what enters a block is what left the one before."""
    return Site("resid_post", site.layer - 1) if site.kind == "resid_pre" and site.layer else site


def _explained(one: tuple[Trial, Tally]) -> float:
    return one[1].every.explained


def _fitting(
    model: LanguageModel, wanted: list[tuple[_Search, Trial]], widths: dict[Site, int]
) -> list[tuple[_Search, Trial]]:
    """Those whose places the model has, of the dictionary's widths; `widths` remembers what was seen."""
    sites = {site for _, trial in wanted for site in (trial.read, trial.write)} - widths.keys()
    if there := [site for site in sites if _exists(model, site)]:
        two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        widths |= {site: x[0, 0].numel() for site, x in model.capture(two, there).items()}
    return [
        (search, t)
        for search, t in wanted
        if (widths.get(t.read), widths.get(t.write)) == (t.dictionary.d_in, t.dictionary.d_out)
    ]


def _around(centre: Trial) -> list[Trial]:
    """Where else the dictionary might belong, whether or not the model has such places."""
    dictionary, read, write = centre.dictionary, centre.read, centre.write
    shifted = [
        Trial(dictionary, Site(read.kind, read.layer + step * way), Site(write.kind, write.layer + step * way))
        for step in _STEPS
        for way in (-1, 1)
        if read.kind != "embed"
    ]
    if read != write:
        return shifted + [Trial(dictionary, Site(kind, read.layer), write) for kind in _INPUTS]
    places = [Site(kind, read.layer) for kind in _STREAM] + ([Site("embed", 0)] if read.layer == 0 else [])
    if dictionary.site.kind != "resid_pre":
        places = [place(each) for each in places]
    return shifted + [Trial(dictionary, each, each) for each in places]


def _exists(model: LanguageModel, site: Site) -> bool:
    if site.layer < 0:
        return False
    try:
        model.check_site(site)
    except DictionaryMismatch:
        return False
    return True
