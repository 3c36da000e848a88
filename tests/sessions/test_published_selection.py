"""The published quicklists, byte for byte, by the way `saescope study select` goes from mean effects to a set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.selection import top
from engine.studies.effects import MeanEffects
from engine.studies.select.study import choose, effects_of, feature_set
from engine.study_results import FeatureSet
from engine.study_settings.select import Select
from sessions.effects import WIDTHS, features_of, source_of, strongest
from sessions.quicklist import entry, quicklist_url
from tests.sessions.test_quicklists import WITH_EFFECTS, Published, query_of


def mean_effects_of(one: Published) -> MeanEffects:
    """The printed effects where a study has them: dense tensors by source, error nodes beside them."""
    features: dict[str, torch.Tensor] = {}
    for effect in features_of(one.effects, one.model, one.sets):
        source = source_of(effect.site, one.sets)
        width = WIDTHS[one.model, source.partition("-")[2]]
        features.setdefault(source, torch.zeros(width))[int(effect.index)] = effect.effect
    return MeanEffects("difference", features, dict.fromkeys(features, 100.0))


def selected(one: Published, **given: Any) -> FeatureSet:
    mean = mean_effects_of(one)
    choice = choose(effects_of(mean), Select(**given))
    pages = {source: f"{one.model}/{source}" for source in mean.features}
    return feature_set(one.name, choice, pages, "As published.")


def url(found: FeatureSet) -> str:
    return quicklist_url(found.name, [entry(m.neuronpedia or "", m.feature.index) for m in found.members])


@pytest.mark.parametrize("one", WITH_EFFECTS, ids=lambda one: one.name)
def test_the_selection_study_makes_the_published_list(one: Published) -> None:
    found = selected(one, rule="top", count=len(one.features))
    assert [entry(m.neuronpedia or "", m.feature.index) for m in found.members] == one.features
    assert query_of(url(found)) == query_of(one.url)


@pytest.mark.parametrize("one", WITH_EFFECTS, ids=lambda one: one.name)
def test_fewer_are_the_strongest_of_them(one: Published) -> None:
    sizes = sorted((abs(e.effect) for e in one.effects), reverse=True)
    found = selected(one, rule="top", count=10)
    assert [abs(m.effect or 0) for m in found.members] != sizes[:10], "grouped by site, so not in plain order"
    assert sorted((abs(m.effect or 0) for m in found.members), reverse=True) == pytest.approx(sizes[:10])


@pytest.mark.parametrize("order", [reversed, sorted], ids=["reversed", "sorted"])
def test_the_order_of_what_is_given_does_not_matter(order: Callable[[Any], Any]) -> None:
    one = WITH_EFFECTS[0]
    shuffled = list(order([(e.site, str(e.index), e) for e in one.effects]))
    assert strongest([e for *_, e in shuffled], 30, one.model, one.sets) == one.features


def test_there_is_one_rule_for_sessions_and_studies() -> None:
    one = WITH_EFFECTS[0]
    chosen = top(one.effects, 12)
    listed = strongest(one.effects, 12, one.model, one.sets)
    assert [(source_of(e.site, one.sets), str(e.index)) for e in chosen] == [(e.layer, e.index) for e in listed]
