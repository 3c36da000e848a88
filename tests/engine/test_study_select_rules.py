"""The rules of selection written out, over effects of our own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
import torch

from engine.selection import Effect, published
from engine.studies.effects import MeanEffects
from engine.studies.select.study import choose, effects_of
from engine.studies.select.tables import thinned
from engine.study_settings.select import Select

EFFECTS = [
    Effect(site, index, ((index * 37 + ord(site)) % 101 - 50) / 10)
    for site, index in chain.from_iterable(((s, i) for s in "abc") for i in range(33))
]
NONZERO = [e for e in EFFECTS if e.effect]


def by_size(effects: Sequence[Effect]) -> list[float]:
    return sorted((abs(e.effect) for e in effects), reverse=True)


def chosen(**given: Any) -> list[Effect]:
    return choose(EFFECTS, Select(**given))


@pytest.mark.parametrize("rule", ["threshold", "top", "per-site", "stratified", "random"])
def test_every_rule_chooses_different_features_in_published_order(rule: Any) -> None:
    found = chosen(rule=rule, count=12, threshold=4.0)
    assert found
    assert len(set(found)) == len(found)
    assert set(found) <= set(NONZERO)
    strongest = sorted(found, key=lambda e: abs(e.effect), reverse=True)
    sites = list(dict.fromkeys(e.site for e in strongest))
    assert found == [e for site in sites for e in strongest if e.site == site]


def test_the_threshold_is_strict() -> None:
    assert set(chosen(rule="threshold", threshold=4.0)) == {e for e in EFFECTS if abs(e.effect) > 4.0}
    assert any(abs(e.effect) == 4.0 for e in EFFECTS)
    assert set(chosen(rule="threshold", threshold=0.0)) == set(NONZERO)


def test_the_strongest_of_all_and_of_every_site() -> None:
    assert by_size(chosen(count=7)) == by_size(EFFECTS)[:7]
    per_site = chosen(rule="per-site", count=4)
    for site in "abc":
        own = [e for e in EFFECTS if e.site == site]
        assert by_size([e for e in per_site if e.site == site]) == by_size(own)[:4]
    assert set(chosen(count=10**6)) == set(NONZERO)


def test_strata_are_thirds_by_signed_effect() -> None:
    low, middle, high = (len(NONZERO) // 3, 2 * len(NONZERO) // 3, len(NONZERO))
    place = {e: n for n, e in enumerate(sorted(NONZERO, key=lambda e: e.effect))}
    found = chosen(rule="stratified", count=11)
    counts = [sum(start <= place[e] < end for e in found) for start, end in ((0, low), (low, middle), (middle, high))]
    assert counts == [3, 3, 5]
    assert set(chosen(rule="stratified", count=10**6)) == set(NONZERO)


@pytest.mark.parametrize("rule", ["stratified", "random"])
def test_drawing_is_seeded(rule: Any) -> None:
    first = chosen(rule=rule, count=9, seed=1)
    assert first == chosen(rule=rule, count=9, seed=1)
    assert set(first) != set(chosen(rule=rule, count=9, seed=2))
    assert len(first) == 9


def test_equal_effects_stay_in_their_order() -> None:
    equal = [Effect("a", 1, 0.5), Effect("b", 1, -0.5), Effect("a", 0, 0.5)]
    assert published(equal) == [equal[0], equal[2], equal[1]]


def test_long_curves_are_thinned_and_end_at_the_whole() -> None:
    for count in (1, 2, 200, 201, 43_643):
        places = thinned(count, 200)
        assert (places[0], places[-1]) == (1, count)
        assert places == sorted(set(places))
        assert len(places) <= 200


def test_effects_of_leaves_zeros_out() -> None:
    mean_of = MeanEffects(
        "logit", {"a": torch.tensor([0.0, -2.0, 1.0]), "b": torch.tensor([3.0])}, {"a": 9.0, "b": 9.0}
    )
    assert effects_of(mean_of) == [Effect("b", 0, 3.0), Effect("a", 1, -2.0), Effect("a", 2, 1.0)]
