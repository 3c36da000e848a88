"""Asking an engine for circuits, and comparing what it says with what is so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled
from engine.headless import Headless
from engine.job import Job
from engine.protocol import (
    Check,
    Checked,
    Circuit,
    Event,
    Faithfulness,
    FaithfulnessFound,
    MeasureFaithfulness,
    NodeRef,
    Open,
    Pair,
    Trace,
    TraceGrown,
    Verify,
)
from tests.circuit_truth import Plain, load

PROMPT, PATCH = "in the end of the", "of the bag in a"
ONE: dict[str, Any] = {"prompt": PROMPT, "patch": PATCH, "target": (" the",), "against": (" a",)}
EVERY: dict[str, Any] = {"node_threshold": 0.0, "edge_threshold": 0.0}
PAIRS = (
    Pair("in the end", " of", "of the bag", " in"),
    Pair("the end of the", " a", "the bag in the", " of"),
    Pair("in the bit", " in", "of the bag", " the"),
)
"""The second is longer than the others."""
SHORT = (PAIRS[0], PAIRS[2])


def opened_engine(model: Path, dictionaries: Sequence[Path], dtype: str = "float32") -> Headless:
    """An engine of its own."""
    headless = Headless(lambda *_: None)
    places = tuple(map(str, dictionaries))
    headless.ask(Open(id=1, model=str(model), dictionaries=places, device="cpu", dtype=dtype))
    return headless


def last(headless: Headless, request: Any, kind: type[Any]) -> Any:
    return [event for event in headless.ask(request) if isinstance(event, kind)][-1]


def traced(headless: Headless, **asked: Any) -> Circuit:
    found: Circuit = last(headless, Trace(id=2, **asked), TraceGrown).circuit
    assert found.finished
    return found


def verified(headless: Headless, source: NodeRef, target: NodeRef | None = None) -> Check:
    check: Check = last(headless, Verify(id=3, source=source, target=target), Checked).check
    return check


def measured(headless: Headless, **asked: Any) -> Faithfulness:
    result: Faithfulness = last(headless, MeasureFaithfulness(id=3, **asked), FaithfulnessFound).result
    return result


def nodes_of(circuit: Circuit) -> dict[NodeRef, float]:
    return {node.ref: node.effect for node in circuit.nodes[1:]}


def edges_of(circuit: Circuit) -> dict[tuple[NodeRef, NodeRef], float]:
    return {(circuit.nodes[e.source].ref, circuit.nodes[e.target].ref): e.weight for e in circuit.edges}


def assert_close(ours: dict[Any, float], theirs: dict[Any, float], share: float = 3e-5) -> None:
    """Equal to a share of the largest; what is missing on one side counts as zero."""
    largest = max(abs(value) for value in theirs.values())
    assert largest > 1e-4
    for key in ours.keys() | theirs.keys():
        assert abs(ours.get(key, 0.0) - theirs.get(key, 0.0)) < share * largest, key


def plain_run(headless: Headless, folders: Sequence[Path], metric: Any, prompt: str = PROMPT, end: int = 0) -> Plain:
    """The truth of a prompt against `PATCH`, cut after `end` tokens."""
    open_set = headless.engine.opened
    parts = [load(folder, folder.name.removesuffix("-tiny"), folder.name.removesuffix("-tiny")) for folder in folders]
    rows = [open_set.ids(text, chat=False) for text in (prompt, PATCH)]
    ids, patch = (torch.tensor(row[: end or None]) for row in rows)
    return Plain(open_set.model.hf, "llama", parts, ids, patch, metric)


def by_node(found: dict[str, tuple[Tensor, Tensor]]) -> dict[NodeRef, float]:
    """Effects of features [T, F] and errors [T] by node."""
    named = {}
    for source, (features, errors) in found.items():
        for place, index in features.nonzero().tolist():
            named[NodeRef(source, index, place)] = float(features[place, index])
        for place, effect in enumerate(errors.tolist()):
            named[NodeRef(source, position=place)] = effect
    return named


@contextmanager
def at_most(headless: Headless, rows: int) -> Iterator[list[int]]:
    """A device on which a pass over more rows runs out of memory; gives the sizes that were tried."""
    tried: list[int] = []

    def full(_: Any, args: Any, kwargs: Any) -> None:
        tried.append(len(args[0] if args else kwargs["hidden_states"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    layers = headless.engine.opened.model.hf.model.layers
    handles = [layer.register_forward_pre_hook(full, with_kwargs=True) for layer in layers]
    try:
        yield tried
    finally:
        for handle in handles:
            handle.remove()


def tokens_of(headless: Headless, *texts: str) -> list[int]:
    return [headless.engine.opened.model.tokenizer.encode(text, bos=False)[0] for text in texts]


def stopped_after(headless: Headless, snapshots: int, blocks: Sequence[int] = ()) -> tuple[list[Circuit], int]:
    """A trace cancelled from within its k-th snapshot: what it showed, and how many `blocks` had been run by then."""
    seen: list[Circuit] = []
    run: list[int] = []

    def emit(event: Event) -> None:
        if isinstance(event, TraceGrown):
            seen.append(event.circuit)
            if len(seen) == snapshots:
                run.append(len(blocks))
                job.cancel()

    job = Job(2, emit)
    with pytest.raises(Cancelled):
        headless.engine.handle(Trace(id=2, **ONE, method="ig"), job)
    return seen, run[0]
