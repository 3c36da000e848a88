"""Every number that feature-circuits itself gives for a tiny GPT-NeoX with seven dictionaries, in float64.

The folder is that of SAESCOPE_PARITY, else the copy under tests/data; sizes, prompts and names come from its files.
`expected_head.npz` records what that project's newest version returns, with its defects: ours must differ there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.circuits.basis import DictionaryBasis
from engine.circuits.edges import EdgeBlock, edges_into, edges_into_metric
from engine.circuits.effects import SiteEffects, attrib, exact, integrated
from engine.circuits.faithfulness import NodeSet, ablated, replacement
from engine.circuits.gather import gathered, node_places
from engine.circuits.goal import Goal, token_ids
from engine.circuits.workspace import Workspace, workspace
from engine.dictionary import Dictionary
from engine.job import Job
from engine.model import LanguageModel
from engine.sites import Site

FOLDER = Path(os.environ.get("SAESCOPE_PARITY", Path(__file__).parent.parent / "data" / "parity"))
META = json.loads((FOLDER / "meta.json").read_text())
TOLERANCE = 1e-9
KINDS = {"embed": "embed", "attn": "attn_out", "mlp": "mlp_out", "resid": "resid_post"}
NAMES: list[str] = META["submodule_order"]
QUIET = lambda done, total: None  # noqa: E731


@pytest.fixture(scope="module")
def expected() -> Any:
    return np.load(FOLDER / "expected.npz")


@pytest.fixture(scope="module")
def head() -> Any:
    return np.load(FOLDER / "expected_head.npz")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    known = GPTNeoXConfig().to_dict()
    config = {name: value for name, value in META["config"].items() if name in known and value is not None}
    config |= {"rotary_pct": META["config"]["rotary_pct"]}
    for stale in ("model_type", "transformers_version", "rope_scaling", "partial_rotary_factor", "torch_dtype"):
        config.pop(stale, None)
    hf = GPTNeoXForCausalLM(GPTNeoXConfig(**config)).double()
    weights = np.load(FOLDER / "weights.npz")
    state = {
        name.removeprefix("model.").replace("embed_out", "lm_head"): torch.tensor(weights[name])
        for name in weights.files
        if name.startswith("model.")
    }
    hf.load_state_dict(state)
    return LanguageModel(hf.eval().requires_grad_(False), None, "parity", FOLDER)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bases() -> list[DictionaryBasis]:
    weights = np.load(FOLDER / "weights.npz")

    def basis(name: str) -> DictionaryBasis:
        kind, _, layer = name.partition("_")
        site = Site(KINDS[kind], int(layer or 0))
        encoder, b_enc, decoder, bias = (
            torch.tensor(weights[f"sae.{name}.{key}"])
            for key in ("encoder.weight", "encoder.bias", "decoder.weight", "bias")
        )
        made = Dictionary(
            name, site, site, "standard", "standard", encoder, decoder.T.contiguous(), b_enc, bias, FOLDER, ""
        )
        return DictionaryBasis(made)

    return [basis(name) for name in NAMES]


def _column(name: str) -> Tensor:
    return token_ids([[token] for token in META[name]], torch.device("cpu"))


def _work(model: LanguageModel, bases: list[DictionaryBasis], form: str) -> Workspace:
    """`pair`: logit difference against the patch prompts; `nopair`: the answer's logit against zero."""
    patch = torch.tensor(META["patch_ids"]) if form == "pair" else None
    answers = _column("clean_answer")
    goal = Goal("difference", answers, _column("patch_answer")) if form == "pair" else Goal("logit", answers)
    clean = torch.tensor(META["clean_ids"])
    return workspace(model, bases, clean, patch, lambda _: goal, "pass-through", Job(), keep_sinks=False)


@pytest.fixture(scope="module")
def works(model: LanguageModel, bases: list[DictionaryBasis]) -> dict[str, Workspace]:
    return {form: _work(model, bases, form) for form in ("pair", "nopair")}


@pytest.fixture(scope="module")
def effects(works: dict[str, Workspace]) -> dict[tuple[str, str], dict[str, SiteEffects]]:
    found: dict[tuple[str, str], dict[str, SiteEffects]] = {}
    for form, work in works.items():
        plain = attrib(work)
        found["attrib", form] = plain
        steps = META["ig_steps"]
        found["ig", form] = {s: integrated(work, s, steps, plain[s].gradient, QUIET) for s in NAMES}
        found["exact", form] = {s: exact(work, s, plain[s], None, QUIET) for s in NAMES}
    return found


def _dense(work: Workspace, name: str, effects: SiteEffects) -> tuple[Any, Any]:
    state = work.states[name]
    b, t, _ = state.shape
    block = torch.zeros(b * t, state.basis.d_sae, dtype=torch.float64)
    block[state.rows, state.features] = effects.features
    return block.view(b, t, -1).numpy(), effects.errors.view(b, t).numpy()


def test_logits_and_the_total_effect(works: dict[str, Workspace], expected: Any) -> None:
    work = works["pair"]
    assert np.abs(work.run.logits.numpy() - expected["logits_clean"][:, -1]).max() < TOLERANCE
    assert work.patched is not None
    assert np.abs((work.clean - work.patched).numpy() - expected["total_effect.pair"]).max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["pair", "nopair"])
@pytest.mark.parametrize("method", ["attrib", "ig", "exact"])
def test_effects(method: str, form: str, name: str, works: Any, effects: Any, expected: Any) -> None:
    features, errors = _dense(works[form], name, effects[method, form][name])
    key = f"{method}.{form}.effect.{name}"
    assert np.abs(features - expected[f"{key}.act"]).max() < TOLERANCE
    assert np.abs(errors - expected[f"{key}.resc"].reshape(errors.shape)).max() < TOLERANCE
    assert np.abs(features).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_differences_of_ig(name: str, works: Any, effects: Any, expected: Any) -> None:
    for form in ("pair", "nopair"):
        state = works[form].states[name]
        gradient = effects["ig", form][name].gradient.view(state.shape)
        # theirs is of −(our metric)
        assert np.abs(-gradient.numpy() - expected[f"ig.{form}.grad.{name}.res"]).max() < TOLERANCE
        assert (
            np.abs(state.error_delta.view(state.shape).numpy() - expected[f"{form}.delta.{name}.res"]).max() < TOLERANCE
        )


# --- edges --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edges(works: Any, effects: Any) -> dict[tuple[str, str], EdgeBlock]:
    work, found = works["pair"], effects["ig", "pair"]
    every = {s: torch.arange(len(node_places(work.states[s])[0])) for s in NAMES}
    blocks = {(b.source, "y"): b for b in edges_into_metric(work, found, every)}
    for target in NAMES:
        size = torch.cat([found[target].features, found[target].errors]).abs()
        kept = (size > META["node_threshold"]).nonzero()[:, 0]
        for block in edges_into(work, target, kept, found[target].gradient, every, QUIET):
            blocks[block.source, target] = block
    return blocks


def _pairs_of_sites(data: Any) -> list[tuple[str, str]]:
    prefix = "circuit.none.edge."
    names = [key[len(prefix) : -4] for key in data.files if key.startswith(prefix) and key.endswith(".idx")]
    return [(up, down) for up, _, down in (name.partition(".") for name in names)]


def _block(work: Workspace, block: EdgeBlock, up: str, down: str) -> Any:
    """[T, F + 1, T, F + 1], downstream first, mean over examples."""
    above, below = work.states[up], work.states[down]
    t, width = above.shape[1], above.basis.d_sae + 1
    dense = torch.zeros(t, below.basis.d_sae + 1, t, width, dtype=torch.float64)
    (p2, f2), (p1, f1) = node_places(above), node_places(below)
    place = (p1[block.into] % t, f1[block.into], p2[block.out_of] % t, f2[block.out_of])
    dense.index_put_(place, block.weights / above.shape[0], accumulate=True)
    return dense.numpy()


def _stored(data: Any, key: str, shape: tuple[int, ...]) -> Any:
    full = np.zeros(shape)
    full[tuple(data[f"{key}.idx"].astype(int))] = data[f"{key}.val"]
    return full


@pytest.mark.parametrize(("up", "down"), _pairs_of_sites(np.load(FOLDER / "expected.npz")))
def test_edges(up: str, down: str, works: Any, edges: Any, expected: Any) -> None:
    work, block = works["pair"], edges[up, down]
    if down == "y":
        state = work.states[up]
        places, features = node_places(state)
        t, width = state.shape[1], state.basis.d_sae + 1
        dense = torch.zeros(t, width, dtype=torch.float64)
        out_of = block.out_of
        dense.index_put_((places[out_of] % t, features[out_of]), block.weights / state.shape[0], accumulate=True)
        theirs = _stored(expected, f"circuit.none.edge.{up}.y", (t, width))
        over = np.abs(theirs) > 0
        assert np.abs(dense.numpy() - theirs)[over].max() < TOLERANCE
        summed = _stored(expected, f"circuit.sum.edge.{up}.y", (width,))
        over = np.abs(summed) > 0
        assert np.abs(dense.numpy().sum(0) - summed)[over].max() < TOLERANCE
        return
    ours = _block(work, block, up, down)
    theirs = _stored(expected, f"circuit.none.edge.{up}.{down}", ours.shape)
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert np.abs(theirs).max() > 0
    summed = _stored(expected, f"circuit.sum.edge.{up}.{down}", (ours.shape[1], ours.shape[3]))
    assert np.abs(ours.sum((0, 2)) - summed).max() < TOLERANCE
    assert block.inflow.sum() / work.states[up].shape[0] == pytest.approx(ours.sum(), abs=TOLERANCE)


def test_no_edges_beside_theirs(edges: Any, expected: Any) -> None:
    assert set(edges) == set(_pairs_of_sites(expected))


@pytest.mark.parametrize("aggregate", ["none", "sum"])
@pytest.mark.parametrize("name", NAMES)
def test_aggregated_nodes(name: str, aggregate: Any, works: Any, effects: Any, expected: Any) -> None:
    work = works["pair"]
    state = work.states[name]
    table = gathered([(state, effects["ig", "pair"][name])], aggregate, state.shape[0])
    width, t = state.basis.d_sae + 1, state.shape[1] if aggregate == "none" else 1
    dense = torch.zeros(t * width, dtype=torch.float64)
    dense[table.keys] = table.values[:, 0]
    ours = dense.view(t, width).numpy()
    theirs = [expected[f"circuit.{aggregate}.node.{name}.{part}"].reshape(t, -1) for part in ("act", "resc")]
    assert np.abs(ours - np.concatenate(theirs, 1)).max() < TOLERANCE


# --- faithfulness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(META["faithfulness"]))
def test_faithfulness_and_completeness(key: str, works: Any, expected: Any) -> None:
    theirs, (mode, threshold) = META["faithfulness"][key], key.split("|")
    errors: Any = "nodes" if mode == "default" else mode
    work = works["pair"]
    other = work.other
    replacements, inside = {}, {}
    for name, state in work.states.items():
        site = state.basis.write_site
        replacements[name] = replacement(state, (other[site], other[site]), "mean", 0)
        act, resc = (np.abs(expected[f"circuit.none.node.{name}.{part}"]) for part in ("act", "resc"))
        inside[name] = NodeSet(torch.tensor(act > float(threshold)), torch.tensor(resc[:, 0] > float(threshold)))
    count = sum(int(nodes.features.sum() + nodes.errors.sum()) for nodes in inside.values())
    assert count == theirs["n_nodes"]
    whole = work.clean.mean().item()
    empty = ablated(work, None, replacements, errors).mean().item()
    circuit = ablated(work, inside, replacements, errors).mean().item()
    rest = ablated(work, inside, replacements, errors, complement=True).mean().item()
    assert (whole, empty, circuit, rest) == pytest.approx(
        (theirs["fm"], theirs["fempty"], theirs["fc"], theirs["fcomp"]), abs=TOLERANCE
    )
    assert (circuit - empty) / (whole - empty) == pytest.approx(theirs["faithfulness"], abs=1e-8)
    assert (rest - empty) / (whole - empty) == pytest.approx(theirs["completeness"], abs=1e-8)


# --- known defects ------------------------------------------------------------------------------------------------


def test_our_ig_differs_from_the_defective_one(works: Any, effects: Any, head: Any) -> None:
    """There, ig is the plain gradient: the metric of the first step was read for every step."""
    for name in NAMES:
        features, _ = _dense(works["pair"], name, effects["ig", "pair"][name])
        assert np.abs(features - head[f"ig.pair.effect.{name}.act"]).max() > 1e-3


def test_our_edges_from_errors_differ_from_the_defective_ones(works: Any, edges: Any, head: Any) -> None:
    """There, every edge that starts at an error is zero: its gradient was cleared before it was read."""
    for up, down in _pairs_of_sites(head):
        if down == "y":
            continue
        ours = _block(works["pair"], edges[up, down], up, down)[..., -1]
        theirs = _stored(head, f"circuit.none.edge.{up}.{down}", _block(works["pair"], edges[up, down], up, down).shape)
        assert np.abs(theirs[..., -1]).max() == 0
        assert np.abs(ours).max() > 1e-6


def test_ten_steps_are_not_one(works: Any, effects: Any) -> None:
    """ig with one step is the plain gradient; with ten it is not."""
    work = works["pair"]
    for name in NAMES:
        plain = effects["attrib", "pair"][name]
        one = integrated(work, name, 1, plain.gradient, QUIET)
        assert torch.equal(one.features, plain.features)
        assert (effects["ig", "pair"][name].features - plain.features).abs().max() > 1e-3
