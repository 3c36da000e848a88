"""Effects and edges equal the obvious computation: every architecture, every kind of dictionary, every baseline.

The truth is `tests/circuit_truth.py`: plain torch, hooks on the Hugging Face model, SAELens' dictionaries.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.circuits.edges import edges_into_metric
from engine.circuits.effects import attrib, exact, integrated
from engine.circuits.gather import node_places
from tests.circuit_scene import (
    FAMILIES,
    IDS,
    QUIET,
    Scene,
    check,
    check_edges,
    dense,
    made_scene,
    weights_into,
)


@pytest.fixture(scope="module", params=FAMILIES)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return made_scene("gpt2", tmp_path_factory.mktemp("one"))


# --- effects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_attrib_is_the_gradient_with_dictionaries_spliced_in(scene: Scene, baseline: str) -> None:
    """Features as leaves, errors exact: autograd through the graph gives what one plain backward gave."""
    work = scene.work(baseline)
    ours, theirs = attrib(work), [plain.attrib() for plain in scene.plain(baseline)]
    for source in work.states:
        check(scene, work, source, ours[source], [found[source] for found in theirs])


@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_dictionary_gradients_cut_the_errors_off(scene: Scene, baseline: str) -> None:
    work = scene.work(baseline, "dictionaries")
    ours, theirs = attrib(work), [plain.attrib("dictionaries") for plain in scene.plain(baseline)]
    through = attrib(scene.work(baseline))
    for source in work.states:
        check(scene, work, source, ours[source], [found[source] for found in theirs])
    first, last = next(iter(work.states)), list(work.states)[-1]
    assert (ours[first].features - through[first].features).abs().max() > 1e-2 * through[first].features.abs().max()
    torch.testing.assert_close(ours[last].features, through[last].features)


@pytest.mark.parametrize("gradients", ["pass-through", "dictionaries"])
@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_integrated_gradients_are_one_step_at_a_time(scene: Scene, baseline: str, gradients: Any) -> None:
    work, plains = scene.work(baseline, gradients), scene.plain(baseline)
    at_clean = attrib(work)
    for source in ("0-res-jumprelu", "1-res-standard", "2-mlp-topk"):
        ours = integrated(work, source, 4, at_clean[source].gradient, QUIET)
        check(scene, work, source, ours, [plain.integrated(source, 4, gradients) for plain in plains])
        assert (ours.features - at_clean[source].features).abs().max() > 1e-3 * ours.features.abs().max()


@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_exact_effects_are_one_pass_for_every_node(scene: Scene, baseline: str) -> None:
    work, plains = scene.work(baseline), scene.plain(baseline)
    estimates = attrib(work)
    for source in ("1-att-gated", "2-res-topk"):
        ours = exact(work, source, estimates[source], None, QUIET)
        check(scene, work, source, ours, [plain.exact(source) for plain in plains])


def test_a_budget_measures_the_strongest_and_leaves_the_others_as_estimates(gpt2: Scene) -> None:
    work = gpt2.work("zero")
    source = "1-res-standard"
    estimate = attrib(work)[source]
    ours, whole = (exact(work, source, estimate, budget, QUIET) for budget in (20, None))
    before = torch.cat([estimate.features, estimate.errors])
    found, every = torch.cat([ours.features, ours.errors]), torch.cat([whole.features, whole.errors])
    strongest = before.abs().topk(20).indices
    torch.testing.assert_close(found[strongest], every[strongest])
    rest = torch.ones(len(before), dtype=torch.bool).index_fill_(0, strongest, False)
    assert torch.equal(found[rest], before[rest])
    assert (every[rest] - before[rest]).abs().max() > 0


def test_sinks_are_held_or_traced(gpt2: Scene) -> None:
    """Against zero the first token, and one whose norm is far above the others', keep their value unless asked."""
    embedding = gpt2.model.hf.transformer.wte.weight
    loud = int(IDS[0, 3])
    before = embedding[loud].clone()
    embedding[loud] *= 60
    try:
        for hold in (True, False):
            work = gpt2.work("zero", hold_sinks=hold)
            ours, theirs = attrib(work), [plain.attrib() for plain in gpt2.plain("zero", hold_sinks=hold)]
            for source in work.states:
                check(gpt2, work, source, ours[source], [found[source] for found in theirs])
            features, errors = dense(work, "0-res-jumprelu", ours["0-res-jumprelu"])
            silent = (features.abs().sum(2) + errors.abs() == 0).nonzero().tolist()
            assert silent == ([[0, 0], [0, 3], [1, 0]] if hold else [])
    finally:
        embedding[loud] = before


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_edges_are_one_backward_pass_for_every_target(scene: Scene, baseline: str) -> None:
    """Every other site held at its clean value, the encoder of the target included."""
    work, plains = scene.work(baseline), scene.plain(baseline)
    effects = attrib(work)
    for target in list(work.states)[1:]:
        check_edges(scene, work, plains, target, effects)


def test_edges_are_taken_with_the_gradient_of_the_effect(gpt2: Scene) -> None:
    """Of integrated gradients the mean over the steps, not that of the clean run."""
    work, plains = gpt2.work(), gpt2.plain()
    effects = attrib(work)
    effects["1-res-standard"] = integrated(work, "1-res-standard", 3, effects["1-res-standard"].gradient, QUIET)
    check_edges(gpt2, work, plains, "1-res-standard", effects)


def test_edges_into_the_metric_pass_by_every_later_site(scene: Scene) -> None:
    work, plains = scene.work(), scene.plain()
    effects = attrib(work)
    kept = {source: torch.arange(len(node_places(state)[0])) for source, state in work.states.items()}
    blocks = {block.source: block for block in edges_into_metric(work, effects, kept)}
    assert list(blocks) == ["3-mlp-jumprelu", "2-res-topk"]
    for example, plain in enumerate(plains):
        for source, theirs in plain.edges(None).items():
            ours = weights_into(work, blocks[source], example, example)
            for found, expected in zip(ours, theirs, strict=True):
                scene.equal(found, expected, source)
    whole = torch.cat([effects["3-mlp-jumprelu"].features, effects["3-mlp-jumprelu"].errors])
    assert float(blocks["3-mlp-jumprelu"].inflow.sum()) == pytest.approx(float(whole.sum()), rel=1e-6)
