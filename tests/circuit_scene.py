"""Tiny models with dictionaries at several sites, ours beside SAELens': what both say of effects and edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.circuits.basis import DictionaryBasis
from engine.circuits.edges import EdgeBlock, edges_into
from engine.circuits.effects import SiteEffects
from engine.circuits.gather import node_places
from engine.circuits.goal import Goal, token_ids
from engine.circuits.workspace import Workspace, workspace
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from tests import tiny
from tests.circuit_truth import Part, Plain, load

FAMILIES = ("llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "bloom")
PRECISION = {"gpt2": 1e-9, "gpt_neox": 1e-9}
"""Of the largest number; the other families norm or attend in float32 whatever the model is in."""
HOOKS = {"res": "hook_resid_post", "att": "hook_attn_out", "mlp": "hook_mlp_out", "mid": "hook_resid_mid"}
SITES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("0-att", "topk", {}),
    ("0-res", "jumprelu", {}),
    ("1-att", "gated", {}),
    ("1-mlp", "standard", {}),
    ("1-res", "standard", {"normalize_activations": "layer_norm"}),
    ("2-att", "topk", {"normalize_activations": "layer_norm"}),
    ("2-mlp", "topk", {"rescale_acts_by_decoder_norm": True}),
    ("2-res", "topk", {"rescale_acts_by_decoder_norm": True, "k": 5}),
    ("3-mlp", "jumprelu", {}),
)
"""Site, and which dictionary reads it: with a residual stream between, so that edges pass over several sites."""
DRAWN = torch.Generator().manual_seed(11)
IDS, PATCH = (torch.randint(0, 256, (2, 6), generator=DRAWN) for _ in range(2))
TARGET, AGAINST = token_ids([[7], [19]], IDS.device), token_ids([[40], [3]], IDS.device)
QUIET = lambda done, total: None  # noqa: E731


@dataclass
class Scene:
    """A tiny model and dictionaries at several of its sites, ours and SAELens'."""

    family: str
    model: LanguageModel
    bases: list[Any]
    parts: list[Part]

    @cached_property
    def tolerance(self) -> float:
        return PRECISION.get(self.family, 2e-5)

    def work(self, baseline: str = "patch", gradients: Any = "pass-through", *, hold_sinks: bool = False) -> Workspace:
        goal = Goal("difference", TARGET, AGAINST)
        patch = PATCH if baseline == "patch" else None
        return workspace(self.model, self.bases, IDS, patch, lambda _: goal, gradients, Job(), keep_sinks=hold_sinks)

    def plain(self, baseline: str = "patch", *, hold_sinks: bool = False) -> list[Plain]:
        """One for each example."""

        def metric(example: int) -> Any:
            return lambda logits: logits[TARGET[example, 0]] - logits[AGAINST[example, 0]]

        return [
            Plain(
                self.model.hf, self.family, self.parts, IDS[e], PATCH[e] if baseline == "patch" else None, metric(e),
                hold_sinks=hold_sinks,
            )
            for e in range(len(IDS))
        ]  # fmt: skip

    def equal(self, ours: Tensor, theirs: Tensor, what: object = "") -> None:
        largest = float(theirs.abs().max())
        assert largest > 1e-6, f"nothing to compare: {what}"
        assert float((ours - theirs).abs().max()) < self.tolerance * max(largest, 1e-2), what


def made_scene(family: str, folder: Path, sites: Any = SITES) -> Scene:
    model = open_model(tiny.save_model(tiny.model(family), folder / family), "cpu", "float64")
    bases, parts = [], []
    for number, (place, architecture, settings) in enumerate(sites):
        source = f"{place}-{architecture}"
        read = settings.get("read", place)
        hooks = [f"blocks.{at.split('-')[0]}.{HOOKS[at.split('-')[1]]}" for at in (read, place)]
        rest = {name: value for name, value in settings.items() if name != "read"}
        metadata = {"hook_name_out": hooks[1]} if "read" in settings else {}
        tiny.save_dictionary(folder / source, architecture, hook=hooks[0], seed=number, metadata=metadata, **rest)
        bases.append(DictionaryBasis(read_dictionary(folder / source).to(torch.device("cpu"), torch.float64)))
        parts.append(load(folder / source, read, place))
    return Scene(family, model, bases, parts)


def dense(work: Workspace, source: str, effects: SiteEffects) -> tuple[Tensor, Tensor]:
    """Effects of features [B, T, F] and of errors [B, T]."""
    state = work.states[source]
    b, t, _ = state.shape
    features = torch.zeros(b * t, state.basis.d_sae, dtype=torch.float64)
    features[state.rows, state.features] = effects.features
    return features.view(b, t, -1), effects.errors.view(b, t)


def check(scene: Scene, work: Workspace, source: str, effects: SiteEffects, theirs: list[Any]) -> None:
    features, errors = dense(work, source, effects)
    for example, (their_features, their_errors) in enumerate(theirs):
        scene.equal(features[example], their_features, (source, example))
        scene.equal(errors[example], their_errors, (source, "errors", example))


def blocks_into(work: Workspace, target: str, effects: dict[str, SiteEffects], nodes: Tensor) -> dict[str, EdgeBlock]:
    kept = {source: torch.arange(len(node_places(state)[0])) for source, state in work.states.items()}
    return {b.source: b for b in edges_into(work, target, nodes, effects[target].gradient, kept, QUIET)}


def weights_into(work: Workspace, block: EdgeBlock, node: int, example: int) -> tuple[Tensor, Tensor]:
    """The weights into one node, as features [T, F] and errors [T] of the source."""
    state = work.states[block.source]
    _, t, _ = state.shape
    places, features = node_places(state)
    dense = torch.zeros(t, state.basis.d_sae + 1, dtype=torch.float64)
    mine = block.into == node
    out_of = block.out_of[mine]
    assert (places[out_of] // t == example).all(), "an edge never leaves its example"
    dense.index_put_((places[out_of] % t, features[out_of]), block.weights[mine])
    return dense[:, :-1], dense[:, -1]


def _chosen(work: Workspace, target: str, effects: SiteEffects) -> Tensor:
    """The strongest features, the strongest errors, and one that only the baseline has."""
    state = work.states[target]
    count = len(state.features)
    chosen = [effects.features.abs().topk(6).indices, count + effects.errors.abs().topk(3).indices]
    absent = (state.clean == 0).nonzero()[:1, 0]
    return torch.cat([*chosen, absent]).unique()


def check_edges(scene: Scene, work: Workspace, plains: list[Plain], target: str, effects: Any) -> None:
    state = work.states[target]
    t = state.shape[1]
    nodes = _chosen(work, target, effects[target])
    blocks = blocks_into(work, target, effects, nodes)
    gradient = effects[target].gradient.view(len(plains), t, -1)
    places, features = node_places(state)
    largest = 0.0
    for node in nodes.tolist():
        example, place = divmod(int(places[node]), t)
        feature = int(features[node]) if int(features[node]) < state.basis.d_sae else -1
        theirs = plains[example].edges(target, (place, feature), gradient[example])
        assert blocks.keys() <= theirs.keys()
        total = {}
        for source, (their_features, their_errors) in theirs.items():
            largest = max(largest, float(their_features.abs().max()))
            if source not in blocks:
                assert their_features.abs().max() == their_errors.abs().max() == 0, (source, target)
                continue
            ours = weights_into(work, blocks[source], node, example)
            for found, expected in zip(ours, (their_features, their_errors), strict=True):
                bound = scene.tolerance * max(float(expected.abs().max()), 1e-2)
                assert float((found - expected).abs().max()) < bound, (source, target, node)
            total[source] = float(their_features.sum() + their_errors.sum())
            row = int((blocks[source].nodes == node).nonzero()[0, 0])
            assert float(blocks[source].inflow[row]) == pytest.approx(total[source], rel=1e-3, abs=1e-5)
    assert largest > 1e-4
