"""What the engine answers with dictionaries that are fetched when used is what it answers with resident ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.formats.read import read
from engine.headless import Headless
from engine.memory.residency import PagedDictionary, Shelf, keep
from engine.protocol import (
    FeatureRef,
    FeaturesFound,
    Intervention,
    Row,
    RowRead,
    Run,
    Steer,
    Steered,
    Trace,
    TraceGrown,
)
from engine.results import Residency
from tests.circuit_asking import ONE, opened_engine
from tests.engine.residency_scene import SIZE, place, planned, save_four

PROMPT = "in the end of the"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return save_four(tmp_path_factory.mktemp("four"))


def open_paged(model: Path, folders: tuple[Path, ...], residency: Residency, at_once: float, dtype: str) -> Headless:
    """An engine whose dictionaries are paged, `at_once` of them on the device."""
    headless = opened_engine(model, folders, dtype)
    opened = headless.engine.opened
    shelf = Shelf(int(at_once * SIZE * (2 if dtype == "float64" else 1)))
    for source, folder in zip(list(opened.dictionaries), folders, strict=True):
        fresh = read(place(folder))
        plan = planned(residency, shelf.budget)
        opened.dictionaries[source] = keep(fresh, plan, shelf, opened.model.device, opened.model.dtype)
    return headless


def last(headless: Headless, request: Any, kind: type[Any]) -> Any:
    return [event for event in headless.ask(request) if isinstance(event, kind)][-1]


def features_and_rows(headless: Headless) -> list[Any]:
    result = last(headless, Run(id=2, prompt=PROMPT, top=30, rank="sum"), FeaturesFound).result
    rows = [last(headless, Row(id=3, feature=hit.ref), RowRead).values for hit in result.features[:8]]
    assert len(rows) == 8
    return [result.features, result.per_token, result.sites, rows]


def steering_and_circuits(headless: Headless) -> list[Any]:
    clamp = Intervention(FeatureRef("1-res-tiny", 3), 4.0, kind="clamp")
    scale = Intervention(FeatureRef("2-res-tiny", 5), 2.0, kind="scale")
    request = Steer(id=4, prompt=PROMPT, interventions=(clamp, scale), tokens=6)
    steered = last(headless, request, Steered).result
    asked = (("ig", "pass-through"), ("attrib", "dictionaries"))
    traces = [Trace(id=5, **ONE, method=m, gradients=g, max_nodes=30) for m, g in asked]  # type: ignore[arg-type]
    circuits = [last(headless, request, TraceGrown).circuit for request in traces]
    return [msgspec.structs.replace(steered, seconds=0.0), *((c.nodes, c.edges, c.metric) for c in circuits)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_answer_is_that_of_resident_dictionaries(
    llama_folder: Path, folders: tuple[Path, ...], dtype: str
) -> None:
    asked = [steering_and_circuits] if dtype == "float64" else [features_and_rows, steering_and_circuits]
    resident = opened_engine(llama_folder, folders, dtype)
    expected = [ask(resident) for ask in asked]
    residencies: tuple[tuple[Residency, float], ...] = (("host", 1), ("disk", 2.5), ("disk", 0.1))
    for residency, at_once in residencies:
        headless = open_paged(llama_folder, folders, residency, at_once, dtype)
        assert [ask(headless) for ask in asked] == expected, (residency, at_once)


def test_a_circuit_in_float64_leaves_nothing_pinned(llama_folder: Path, folders: tuple[Path, ...]) -> None:
    """The copies in higher precision take turns on the same shelf."""
    asked = Trace(id=5, **ONE, dtype="float64", max_nodes=30)

    def circuit(headless: Headless) -> Any:
        found = [event for event in headless.ask(asked) if isinstance(event, TraceGrown)][-1].circuit
        return found.nodes, found.edges

    headless = open_paged(llama_folder, folders, "disk", 4, "float32")
    first = next(iter(headless.engine.opened.dictionaries.values()))
    assert isinstance(first, PagedDictionary)
    assert circuit(headless) == circuit(opened_engine(llama_folder, folders))
    shelf = first._paging.shelf
    assert shelf.used <= shelf.budget
    assert first.in_precision(torch.float64) is first.in_precision(torch.float64)
    assert first.in_precision(torch.bfloat16) is first
    assert first.in_precision(torch.float64).encoder.dtype == torch.float64
