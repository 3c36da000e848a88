"""Choosing features by their effects, and the order in which lists of them are published; needs no torch.

The rules are those of the thesis on gender bias (`feature_selection`): threshold, strongest of all, strongest of every
site, stratified and random. Whatever the rule, what was chosen is ordered as the published quicklists are: strongest by
|effect| first, then grouped by site in the order in which sites are met.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import msgspec


class Effect(msgspec.Struct, frozen=True):
    """The effect of one node: at a site of a circuit (`attn_3`, `mlp_0`, `resid_5`, `embed`) or of a source."""

    site: str
    index: int | str
    """Of a feature; an error node is written ε, error, −1, or as the number of features."""
    effect: float


def ranked(effects: Iterable[Effect]) -> list[Effect]:
    """Strongest first by |effect|; equals stay in their order."""
    return sorted(effects, key=lambda e: -abs(e.effect))


def grouped(effects: Iterable[Effect]) -> list[Effect]:
    """By site, sites in the order first met, the order inside a site kept."""
    sites: dict[str, list[Effect]] = {}
    for effect in effects:
        sites.setdefault(effect.site, []).append(effect)
    return [effect for site in sites.values() for effect in site]


def published(effects: Iterable[Effect]) -> list[Effect]:
    """As published lists are ordered: strongest first, then grouped by site."""
    return grouped(ranked(effects))


def over_threshold(effects: Iterable[Effect], threshold: float) -> list[Effect]:
    """|effect| > threshold, strictly."""
    return published(e for e in effects if abs(e.effect) > threshold)


def top(effects: Iterable[Effect], count: int) -> list[Effect]:
    """The `count` strongest of all that have an effect."""
    return published(ranked(_nonzero(effects))[:count])


def top_per_site(effects: Iterable[Effect], count: int) -> list[Effect]:
    """The `count` strongest of every site."""
    chosen: list[Effect] = []
    seen: dict[str, int] = {}
    for effect in ranked(_nonzero(effects)):
        seen[effect.site] = seen.get(effect.site, 0) + 1
        if seen[effect.site] <= count:
            chosen.append(effect)
    return published(chosen)


def stratified(effects: Iterable[Effect], count: int, seed: int) -> list[Effect]:
    """A third each from the lowest, middle and highest third by signed effect, drawn without replacement.

    All that have an effect are sorted by signed value and cut in thirds by number; of the first two `count` // 3 are
    drawn, of the last the remainder. Fewer where there are not so many.
    """
    sorted_ = sorted(_nonzero(effects), key=lambda e: e.effect)
    n = len(sorted_)
    strata = (sorted_[: n // 3], sorted_[n // 3 : 2 * n // 3], sorted_[2 * n // 3 :])
    counts = (count // 3, count // 3, count - 2 * (count // 3))
    draw = random.Random(seed)
    return published(e for part, wanted in zip(strata, counts, strict=True) for e in _drawn(draw, part, wanted))


def at_random(effects: Iterable[Effect], count: int, seed: int) -> list[Effect]:
    """`count` of all that have an effect, drawn without replacement; fewer where there are not so many."""
    return published(_drawn(random.Random(seed), _nonzero(effects), count))


def _nonzero(effects: Iterable[Effect]) -> list[Effect]:
    return [e for e in effects if e.effect != 0]


def _drawn(draw: random.Random, among: Sequence[Effect], count: int) -> list[Effect]:
    return draw.sample(among, min(count, len(among)))
