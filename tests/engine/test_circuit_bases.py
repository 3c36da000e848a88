"""Nodes of other kinds equal the obvious computation too: transcoders, raw neurons, the middle of a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.circuits.basis import NeuronBasis
from engine.circuits.effects import attrib, exact, integrated
from engine.circuits.faithfulness import ablated, replacement
from engine.sites import Site
from tests import tiny
from tests.circuit_scene import (
    AGAINST,
    IDS,
    QUIET,
    TARGET,
    Scene,
    blocks_into,
    check,
    check_edges,
    dense,
    made_scene,
)
from tests.circuit_truth import PLACES, Plain

# --- transcoders --------------------------------------------------------------------------------------------------

TRANSCODERS: dict[str, tuple[str, tuple[tuple[str, str, dict[str, Any]], ...]]] = {
    "beside the stream": (
        "gpt2",
        (
            ("0-res", "topk", {}),
            ("1-mlp", "transcoder", {"read": "1-mid"}),
            ("1-res", "jumprelu", {}),
            ("2-att", "standard", {}),
            ("2-mlp", "skip_transcoder", {"read": "2-mid"}),
            ("2-res", "standard", {}),
        ),
    ),
    "reading where a dictionary writes": (
        "gpt_neox",
        (
            ("0-mlp", "standard", {}),
            ("0-res", "topk", {}),
            ("1-att", "jumprelu", {}),
            ("1-mlp", "jumprelu_transcoder", {"read": "0-res"}),
            ("1-res", "standard", {}),
        ),
    ),
}


@pytest.fixture(scope="module", params=list(TRANSCODERS))
def transcoding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    family, sites = TRANSCODERS[request.param]
    return made_scene(family, tmp_path_factory.mktemp("transcoders"), sites)


@pytest.mark.parametrize("gradients", ["pass-through", "dictionaries"])
@pytest.mark.parametrize("baseline", ["patch", "zero"])
def test_transcoders_have_effects_where_they_write(transcoding: Scene, baseline: str, gradients: Any) -> None:
    scene = transcoding
    work, plains = scene.work(baseline, gradients), scene.plain(baseline)
    ours, theirs = attrib(work), [plain.attrib(gradients) for plain in plains]
    for source in work.states:
        check(scene, work, source, ours[source], [found[source] for found in theirs])
        steps = integrated(work, source, 3, ours[source].gradient, QUIET)
        check(scene, work, source, steps, [plain.integrated(source, 3, gradients) for plain in plains])


def test_edges_into_and_out_of_transcoders(transcoding: Scene) -> None:
    work, plains = transcoding.work(), transcoding.plain()
    effects = attrib(work)
    for target in list(work.states)[1:]:
        check_edges(transcoding, work, plains, target, effects)


def test_ablation_takes_every_dictionary_apart(transcoding: Scene) -> None:
    """Also one that writes where a transcoder reads: the transcoder sees what was put there."""
    work, plains = transcoding.work("zero"), transcoding.plain("zero")
    replacements = {source: replacement(state, None, "zero", 0) for source, state in work.states.items()}
    found = ablated(work, None, replacements, "nodes")
    for example, plain in enumerate(plains):

        def emptied(source: str, plain: Plain = plain) -> Any:
            part = plain.parts[source]
            return lambda read, x: part.apart(read, x)[1]

        with torch.no_grad():
            expected = float(plain.run({source: emptied(source) for source in plain.parts}))
        assert float(found[example]) == pytest.approx(expected, rel=transcoding.tolerance * 10)


# --- the middle of a block ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_middle_of_a_block_is_the_whole_stream(family: str, tmp_path: Path) -> None:
    """What is changed at resid_mid reaches the MLP and what is added to it: the same as changing attention's output."""
    scene = made_scene(family, tmp_path, ())
    scene.bases = [NeuronBasis(Site("resid_mid", 1), tiny.D_MODEL), NeuronBasis(Site("resid_post", 1), tiny.D_MODEL)]
    work = scene.work()
    estimate = attrib(work)
    found = exact(work, "1-resid_mid", estimate["1-resid_mid"], None, QUIET)
    state = work.states["1-resid_mid"]
    module = scene.model.hf.get_submodule(PLACES[family]["att"].format(1))
    for entry in estimate["1-resid_mid"].features.abs().topk(5).indices.tolist():
        example, place = divmod(int(state.rows[entry]), state.shape[1])

        def shift(_: Any, __: Any, output: Any, place: int = place, entry: int = entry) -> None:
            output[0][0, place, int(state.features[entry])] += state.delta[entry]

        handle = module.register_forward_hook(shift)
        with torch.no_grad():
            logits = scene.model.hf(IDS[example : example + 1]).logits[0, -1].double()
        handle.remove()
        changed = logits[TARGET[example, 0]] - logits[AGAINST[example, 0]]
        assert float(found.features[entry]) == pytest.approx(float(work.clean[example] - changed), rel=1e-3, abs=1e-5)
    every = torch.arange(len(work.states["1-resid_post"].features))
    (block,) = blocks_into(work, "1-resid_post", estimate, every).values()
    given = torch.zeros(len(found.features), dtype=torch.float64).index_add_(0, block.out_of, block.weights)
    scene.equal(given, estimate["1-resid_mid"].features, "by the chain rule nothing passes the middle by")


# --- raw neurons --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def neurons(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = made_scene(request.param, tmp_path_factory.mktemp("neurons"), ())
    scene.bases = [NeuronBasis(Site("resid_post", layer), tiny.D_MODEL) for layer in range(tiny.LAYERS)]
    return scene


def _gradients(scene: Scene, layer: int) -> tuple[Tensor, Tensor]:
    """What a block writes and the metric's gradient there, [B, T, d]."""
    held: list[Tensor] = []

    def hold(_: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        held.append(first.detach().requires_grad_())
        return (held[0], *output[1:]) if isinstance(output, tuple) else held[0]

    module = scene.model.hf.get_submodule(PLACES[scene.family]["res"].format(layer))
    handle = module.register_forward_hook(hold)
    logits = scene.model.hf(IDS).logits[:, -1].double()
    handle.remove()
    metric = (logits.gather(1, TARGET) - logits.gather(1, AGAINST)).sum()
    return held[0].detach(), torch.autograd.grad(metric, held)[0]


def test_the_effect_of_a_neuron_is_gradient_times_value(neurons: Scene) -> None:
    work = neurons.work("zero")
    effects = attrib(work)
    for layer, source in enumerate(work.states):
        x, gradient = _gradients(neurons, layer)
        features, errors = dense(work, source, effects[source])
        neurons.equal(features, x * gradient, source)
        assert float(features.sum()) == pytest.approx(float((x * gradient).sum()), rel=neurons.tolerance * 10)
        assert not errors.any(), "nothing is left unexplained"


def test_edges_between_neurons_pass_the_whole_effect_on(neurons: Scene) -> None:
    """By the chain rule what leaves a neuron for all neurons of the next layer is the neuron's effect."""
    work = neurons.work()
    effects = attrib(work)
    for source, target in zip(work.states, list(work.states)[1:], strict=False):
        every = torch.arange(len(work.states[target].features))
        (block,) = blocks_into(work, target, effects, every).values()
        size = len(effects[source].features)
        given = torch.zeros(size, dtype=torch.float64).index_add_(0, block.out_of, block.weights)
        neurons.equal(given, effects[source].features, (source, target))


def test_a_changed_neuron_is_measured(neurons: Scene) -> None:
    work = neurons.work("zero")
    source = next(iter(work.states))
    found = exact(work, source, attrib(work)[source], 8, QUIET)
    chosen = attrib(work)[source].features.abs().topk(8).indices
    state = work.states[source]
    module = neurons.model.hf.get_submodule(PLACES[neurons.family]["res"].format(0))
    for entry in chosen.tolist():
        example, place = divmod(int(state.rows[entry]), state.shape[1])

        def silence(_: Any, __: Any, output: Any, place: int = place, entry: int = entry) -> None:
            (output[0] if isinstance(output, tuple) else output)[0, place, int(state.features[entry])] = 0

        handle = module.register_forward_hook(silence)
        with torch.no_grad():
            logits = neurons.model.hf(IDS[example : example + 1]).logits[0, -1].double()
        handle.remove()
        changed = logits[TARGET[example, 0]] - logits[AGAINST[example, 0]]
        assert float(found.features[entry]) == pytest.approx(
            float(work.clean[example] - changed), rel=1e-3, abs=neurons.tolerance
        )
