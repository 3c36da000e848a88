"""Circuits as the engine is asked for them: metrics, several prompts, precision, memory, repetition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, OutOfMemory
from engine.headless import Headless
from engine.protocol import (
    FeaturesFound,
    NodeRef,
    Pair,
    Run,
)
from tests import tiny
from tests.circuit_asking import (
    EVERY,
    ONE,
    PAIRS,
    PATCH,
    PROMPT,
    SHORT,
    assert_close,
    at_most,
    by_node,
    edges_of,
    last,
    nodes_of,
    opened_engine,
    plain_run,
    stopped_after,
    tokens_of,
    traced,
    verified,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, dictionary_folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """TopK dictionaries of layers 1, 2 and 3."""
    last_one = tiny.save_dictionary(tmp_path_factory.mktemp("last") / "3-res-tiny", "topk", layer=3)
    return (*dictionary_folders, last_one)


@pytest.fixture(scope="module")
def opened(llama_folder: Path, folders: tuple[Path, ...]) -> Callable[..., Headless]:
    def opening(dtype: str = "float32", dictionaries: Sequence[Path] = folders) -> Headless:
        return opened_engine(llama_folder, dictionaries, dtype)

    return opening


@pytest.fixture(scope="module")
def engine(opened: Callable[..., Headless]) -> Headless:
    return opened()


@pytest.fixture(scope="module")
def double(opened: Callable[..., Headless]) -> Headless:
    return opened("float64")


# --- metrics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({"target": (" the",)}, "logit ·the"),
        ({"target": (" the", " a"), "against": (" of", " in", "t")}, "logit ·the, ·a − ·of, ·in, t"),
        ({"target": (" the", " of"), "metric": "logprob"}, "log p ·the, ·of"),
    ],
)
def test_a_metric_is_that_of_the_last_token(
    double: Headless, folders: tuple[Path, ...], asked: dict[str, Any], label: str
) -> None:
    """Sets of logits count by their mean, sets of probabilities by their sum."""
    targets, against = tokens_of(double, *asked["target"]), tokens_of(double, *asked.get("against", ()))

    def metric(logits: Tensor) -> Tensor:
        if asked.get("metric") == "logprob":
            return logits.softmax(0)[targets].sum().log()
        return logits[targets].mean() - (logits[against].mean() if against else 0)

    plain = plain_run(double, folders, metric)
    circuit = traced(double, prompt=PROMPT, patch=PATCH, method="attrib", **asked, **EVERY)
    assert_close(nodes_of(circuit), by_node(plain.attrib()))
    assert circuit.metric.clean == pytest.approx(plain.clean, rel=1e-6)
    assert circuit.metric.baseline == pytest.approx(float(plain.run({}, _patch_ids(double))), rel=1e-6)
    assert circuit.nodes[0].effect == pytest.approx(circuit.metric.clean - circuit.metric.baseline, rel=1e-5)
    assert circuit.metric.label == label


def _patch_ids(headless: Headless) -> Tensor:
    return torch.tensor(headless.engine.opened.ids(PATCH, chat=False))


def test_without_a_target_the_likeliest_token_is_explained(double: Headless, folders: tuple[Path, ...]) -> None:
    ids = torch.tensor([double.engine.opened.ids(PROMPT, chat=False)])
    with torch.no_grad():
        likeliest = int(double.engine.opened.model.hf(ids).logits[0, -1].argmax())
    circuit = traced(double, prompt=PROMPT, method="attrib")
    assert [token.id for token in circuit.metric.targets] == [likeliest]


@pytest.mark.parametrize("method", ["ig", "exact"])
def test_divergence_from_the_clean_run(double: Headless, folders: tuple[Path, ...], method: Any) -> None:
    """−KL: nothing can be further from a distribution than itself is, so every exact effect is positive."""
    open_set = double.engine.opened
    with torch.no_grad():
        clean = open_set.model.hf(torch.tensor([open_set.ids(PROMPT, chat=False)])).logits[0, -1].log_softmax(0)
    plain = plain_run(double, folders, lambda logits: -(clean.exp() * (clean - logits.log_softmax(0))).sum())
    asked = {"prompt": PROMPT, "patch": PATCH, "metric": "kl", "method": method, "steps": 3, "budget": 10**6}
    circuit = traced(double, **asked, **EVERY)
    sources = [folder.name for folder in folders]
    theirs = {s: plain.integrated(s, 3) if method == "ig" else plain.exact(s) for s in sources}
    assert_close(nodes_of(circuit), by_node(theirs))
    assert circuit.metric.clean == pytest.approx(0, abs=1e-9)
    if method == "exact":
        assert min(nodes_of(circuit).values()) > -1e-9


def test_divergence_has_no_gradient(engine: Headless) -> None:
    with pytest.raises(BadRequest, match=r"no gradient at the clean run.*Use ig or exact"):
        traced(engine, prompt=PROMPT, metric="kl", method="attrib")
    with pytest.raises(BadRequest, match="at least two steps"):
        traced(engine, prompt=PROMPT, metric="kl", method="ig", steps=1)


def test_after_its_position_a_metric_does_not_depend_on_the_prompt(double: Headless, folders: tuple[Path, ...]) -> None:
    (target,) = tokens_of(double, " the")
    plain = plain_run(double, folders, lambda logits: logits[target], end=4)
    length = len(double.engine.opened.ids(PROMPT, chat=False))
    asked = {"patch": PATCH, "target": (" the",), "method": "ig", "steps": 3, **EVERY}
    circuits = [
        traced(double, prompt=prompt, position=position, **asked)
        for prompt, position in ((PROMPT, 3), (PROMPT, 3 - length), ("in the end in a", 3))
    ]
    for circuit in circuits:
        assert_close(nodes_of(circuit), by_node({f.name: plain.integrated(f.name, 3) for f in folders}))
        assert nodes_of(circuit) == nodes_of(circuits[0])
        assert edges_of(circuit) == edges_of(circuits[0])
        assert len(circuit.tokens) == 4


@pytest.mark.parametrize("position", [8, -9, 10**30])
def test_a_position_outside_the_prompt_is_refused(engine: Headless, position: int) -> None:
    length = len(engine.engine.opened.ids(PROMPT, chat=False))
    assert length == 8
    with pytest.raises(BadRequest, match=rf"no token {position}\. Its tokens are 0 to 7"):
        traced(engine, prompt=PROMPT, position=position)


# --- several prompts ----------------------------------------------------------------------------------------------


def _mean(parts: Sequence[dict[Any, float]]) -> dict[Any, float]:
    keys = {key for part in parts for key in part}
    return {key: sum(part.get(key, 0.0) for part in parts) / len(parts) for key in keys}


@pytest.mark.parametrize("method", ["attrib", "ig", "exact"])
@pytest.mark.parametrize(("aggregate", "pairs"), [("sum", PAIRS), ("max", PAIRS), ("none", SHORT)])
def test_a_batch_is_the_mean_of_its_examples(
    double: Headless, aggregate: str, pairs: tuple[Pair, ...], method: str
) -> None:
    """Examples of different lengths too; a sum or maximum is over the positions of each."""
    asked = {"method": method, "steps": 3, "aggregate": aggregate, "budget": 10**6, **EVERY}
    together = traced(double, pairs=pairs, **asked)
    alone = [traced(double, pairs=(pair,), **asked) for pair in pairs]
    assert together.examples == len(pairs)
    assert_close(nodes_of(together), _mean([nodes_of(circuit) for circuit in alone]))
    assert_close(edges_of(together), _mean([edges_of(circuit) for circuit in alone]), 1e-4)
    assert together.nodes[0].effect == pytest.approx(sum(c.nodes[0].effect for c in alone) / len(pairs), rel=1e-4)


def test_sums_and_maxima_are_over_positions(double: Headless) -> None:
    whole = traced(double, **ONE, method="attrib", **EVERY)
    by_feature: dict[NodeRef, list[float]] = {}
    for ref, effect in nodes_of(whole).items():
        by_feature.setdefault(NodeRef(ref.source, ref.index), []).append(effect)
    summed, strongest = (nodes_of(traced(double, **ONE, method="attrib", aggregate=a, **EVERY)) for a in ("sum", "max"))
    assert_close(summed, {ref: sum(values) for ref, values in by_feature.items()})
    assert_close(strongest, {ref: max(values, key=abs) for ref, values in by_feature.items()})


def test_positions_of_prompts_of_different_lengths_do_not_correspond(engine: Headless) -> None:
    with pytest.raises(BadRequest, match=r"2 different lengths.*Aggregate by sum or max"):
        traced(engine, pairs=PAIRS, aggregate="none")


def test_pairs_that_cannot_be_used_are_named(engine: Headless) -> None:
    broken = Pair("in the end", "several tokens", "of the bag", " in")
    longer = Pair("in the end", " of", "of the bags", " in")
    circuit = traced(engine, pairs=(broken, *SHORT, longer))
    notes = circuit.provenance.settings["notes"]
    assert notes[0] == "2 of 4 pairs left out"
    assert "tokens, not one" in notes[1]
    assert "must have the same number" in notes[2] or "tokens, the prompt" in notes[2]
    assert circuit.examples == 2
    with pytest.raises(BadRequest, match=r"None of the 1 pairs can be used\. The first: 'several tokens' is"):
        traced(engine, pairs=(broken,))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "x", "pairs": SHORT}, "Both pairs and a prompt"),
        ({"pairs": SHORT, "position": 1}, "position was given with pairs"),
        ({"pairs": SHORT, "chat": True}, "chat"),
        ({"prompt": PROMPT, "patch": "in the"}, "The patch prompt has 2 tokens, the prompt 8"),
        ({"prompt": PROMPT, "target": ("end",)}, "'end' is 3 tokens, not one"),
        ({"prompt": PROMPT, "target": ("",)}, "'' is 0 tokens, not one"),
        ({"prompt": PROMPT, "target": (" a",), "against": (" of",), "metric": "logprob"}, "compares with nothing"),
        ({"prompt": PROMPT, "target": (" a",), "metric": "difference"}, "something to compare with"),
        ({"prompt": PROMPT, "target": (" a",), "metric": "kl"}, "a target was given too"),
        ({"prompt": PROMPT, "steps": 0}, "at least one"),
        ({"prompt": PROMPT, "max_nodes": 0}, "at least one"),
        ({"prompt": PROMPT, "node_threshold": -0.1}, "-0.1 is not a threshold for nodes"),
        ({"prompt": PROMPT, "edge_threshold": float("nan")}, "nan is not a threshold for edges"),
        ({"prompt": PROMPT, "sources": ("9-res",)}, "Open are 1-res-tiny"),
        ({"prompt": PROMPT, "neurons": ("heads",)}, "'heads' is not a kind of site"),
        ({"prompt": PROMPT, "neurons": ("resid_post",), "sources": ("1-res-tiny",)}, "Both dictionaries and raw"),
    ],
)
def test_requests_that_make_no_sense_say_so(engine: Headless, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        traced(engine, **asked)


def test_two_dictionaries_of_one_site_are_refused(
    opened: Callable[..., Headless], folders: tuple[Path, ...], tmp_path: Path
) -> None:
    twin = tiny.save_dictionary(tmp_path / "1-res-twin", "standard", layer=1)
    headless = opened(dictionaries=(*folders, twin))
    with pytest.raises(BadRequest, match=r"Several dictionaries read blocks.1.hook_resid_post"):
        traced(headless, **ONE)
    assert traced(headless, **ONE, sources=("1-res-twin", "2-res-tiny")).finished


# --- precision, memory, repetition --------------------------------------------------------------------------------


def test_float32_is_near_float64(engine: Headless, opened: Callable[..., Headless]) -> None:
    single, exact = (traced(engine, **ONE, dtype=dtype, **EVERY) for dtype in ("float32", "float64"))
    assert (single.settings.dtype, exact.settings.dtype) == ("float32", "float64")
    assert_close(nodes_of(single), nodes_of(exact), 1e-3)
    assert nodes_of(single) != nodes_of(exact)
    assert engine.engine.opened.model.dtype == torch.float32
    assert engine.engine.opened.dictionaries["1-res-tiny"].precision == torch.float32


def test_a_model_in_bfloat16_is_traced_in_float32_and_left_as_it_was(
    opened: Callable[..., Headless], engine: Headless
) -> None:
    """As if its rounded weights had been opened in float32; also when the trace is stopped on the way."""
    low, rounded = opened("bfloat16"), opened()
    for parameter in rounded.engine.opened.model.hf.parameters():
        parameter.data = parameter.data.bfloat16().float()
    before = {name: p.clone() for name, p in low.engine.opened.model.hf.named_parameters()}
    circuit = traced(low, **ONE)
    assert circuit.settings.dtype == "float32"
    assert_close(nodes_of(circuit), nodes_of(traced(rounded, **ONE)), 1e-4)
    node = circuit.nodes[1].ref
    assert verified(low, node).measured == pytest.approx(verified(rounded, node).measured, rel=1e-3)
    stopped_after(low, 2)
    after = dict(low.engine.opened.model.hf.named_parameters())
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(after[name], p) for name, p in before.items())
    assert last(low, Run(id=5, prompt=PROMPT), FeaturesFound).result.features


def test_two_traces_are_equal_to_the_last_bit(engine: Headless) -> None:
    first, second = (msgspec.structs.replace(traced(engine, **ONE), seconds=0.0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("method", ["ig", "exact"])
def test_out_of_memory_halves_a_pass_and_changes_no_number(double: Headless, method: str, rows: int) -> None:
    whole = traced(double, **ONE, method=method, **EVERY)
    with at_most(double, rows) as tried:
        pieces = traced(double, **ONE, method=method, **EVERY)
    assert max(tried) > rows
    assert_close(nodes_of(pieces), nodes_of(whole), 1e-5)
    assert_close(edges_of(pieces), edges_of(whole), 1e-5)


def test_out_of_memory_while_edges_are_gathered_counts_none_twice(
    double: Headless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two sources of one target: what the first had given is not added again."""
    asked = {**ONE, "neurons": ("resid_post", "attn_out"), "method": "attrib", "max_nodes": 40, "edge_threshold": 0.0}
    whole = traced(double, **asked)
    contract, calls = torch.einsum, 0

    def full_once(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return contract(*arguments)

    monkeypatch.setattr(torch, "einsum", full_once)
    pieces = traced(double, **asked)
    assert calls > 2
    assert_close(edges_of(pieces), edges_of(whole), 1e-5)


@pytest.mark.parametrize("kind", ["the prompt itself", "a row of a pass"])
def test_when_not_one_row_fits_it_is_said(opened: Callable[..., Headless], kind: str) -> None:
    headless = opened()
    if kind == "the prompt itself":
        with at_most(headless, 0), pytest.raises(OutOfMemory, match="does not fit in memory"):
            traced(headless, **ONE)
    else:
        hook = headless.engine.opened.model.hf.model.layers[3].register_forward_pre_hook(_full_for_gradients)
        with pytest.raises(OutOfMemory, match=r"8 tokens does not fit in memory\. Shorten the prompt"):
            traced(headless, **ONE)
        hook.remove()
    assert traced(headless, **ONE).nodes[1:]


def _full_for_gradients(*_: Any) -> None:
    if torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory")
