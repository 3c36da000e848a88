"""Ablation: the strongest over several data sets, what is refused before anything is computed, and long tables."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.pairs import read_pairs
from engine.results import FeatureRef
from engine.studies.ablation import study as ablation
from engine.studies.ablation import tables as ablation_tables
from engine.studies.ablation.groups import Group, groups_of
from engine.studies.effects import mean_effects
from engine.studies.given import set_of
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.ablation import Ablation
from tests.engine.steering_scene import open_engine
from tests.engine.test_study_ablation import PAIRS

ONE = "1-res-tiny:3"


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> OpenSet:
    return open_engine(llama_folder, *dictionary_folders).engine.opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pairs, the same with clean and patch prompts exchanged, and without patch prompts."""
    folder = tmp_path_factory.mktemp("pairs")
    rows: dict[str, Sequence[dict[str, str]]] = {
        "forth": PAIRS,
        "back": [{**pair, "clean": pair["patch"], "patch": pair["clean"]} for pair in PAIRS],
        "bare": [{k: v for k, v in pair.items() if k != "patch"} for pair in PAIRS],
        "long": [{**PAIRS[0], "answer": " the end of the"}],
    }
    found = {name: folder / f"{name}.jsonl" for name in rows}
    for name, path in found.items():
        path.write_text("\n".join(map(json.dumps, rows[name])))
    return {name: str(path) for name, path in found.items()}


def _study(opened: OpenSet, **settings: Any) -> StudyResult:
    return ablation.measure(opened, Ablation(**{"by": ("one",), "to": "zero", **settings}), Growing(Job()))


@pytest.mark.parametrize("names", [("forth", "back"), ("forth", "bare")])
def test_the_strongest_are_those_that_are_strongest_in_any_data_set(
    opened: OpenSet, files: dict[str, str], names: tuple[str, str]
) -> None:
    result = _study(opened, pairs=tuple(files[name] for name in names), count=5)
    effects: dict[str, list[float]] = {}
    for name in names:
        pairs = read_pairs(Path(files[name]), None)
        mean = mean_effects(opened, pairs, "ig", list(opened.dictionaries.values()), Growing(Job()))
        for source, values in mean.features.items():
            for index, value in enumerate(values.tolist()):
                effects.setdefault(f"{source}:{index}", []).append(value)
    best = {ref: max(values, key=abs) for ref, values in effects.items()}
    order = sorted(best, key=lambda ref: -abs(best[ref]))[:5]
    assert [str(m.feature) for m in result.sets[0].members] == order
    for member in result.sets[0].members:
        assert member.effect == pytest.approx(best[str(member.feature)], rel=1e-4)
    if names[1] == "back":
        assert any(abs(sum(effects[ref])) < 0.5 * max(map(abs, effects[ref])) for ref in order), "they do cancel"
    assert all(f"the 3 pairs of {name}" in result.sets[0].rule for name in names)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": ("layers",)}, "'layers' is not a value of --by"),
        ({"by": ("combinations",), "count": 60}, "More than 2,000 combinations of at most 3 features"),
        ({"pairs": ("forth", "long")}, "long: None of the 1 pairs can be used"),
    ],
)
def test_what_cannot_be_is_refused_before_the_strongest_are_sought(
    opened: OpenSet, files: dict[str, str], settings: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(ablation, "mean_effects", lambda *given, **more: calls.append(given))
    names = settings.pop("pairs", ("forth",))
    with pytest.raises(BadRequest, match=said) as refused:
        _study(opened, pairs=tuple(files[name] for name in names), **settings)
    assert not calls
    assert "circuit" not in refused.value.remedy
    assert refused.value.remedy


def test_combinations_of_a_large_set_are_refused_at_once(opened: OpenSet) -> None:
    many = set_of(opened, "many", [FeatureRef("1-res-tiny", n) for n in range(20_000)], "all")
    began = time.perf_counter()
    with pytest.raises(BadRequest, match="More than 2,000 combinations of at most 20000 features"):
        groups_of(opened, [many], Ablation(by=("combinations",), largest=20_000))
    _, notes = groups_of(opened, [many, many], Ablation(largest=20_000))
    assert notes == ["More than 2,000 combinations were not ablated; --by combinations asks for them."]
    assert time.perf_counter() - began < 2


def test_combinations_of_several_sets_count_together(opened: OpenSet) -> None:
    sets = [set_of(opened, f"s{n}", [FeatureRef("1-res-tiny", i) for i in range(20)], "some") for n in range(2)]
    settings = Ablation(by=("combinations",), largest=3)  # 20 + 190 + 1,140 of each
    assert len(groups_of(opened, sets[:1], settings)[0]) == 1350
    with pytest.raises(BadRequest, match="More than 2,000"):
        groups_of(opened, sets, settings)


def test_long_tables_are_cut_and_say_so(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.cutting.MOST_ROWS", 10)
    whole = ablation_tables.Whole("d", "zero", 3, 1.0, 0.5)
    refs = [FeatureRef("1-res-tiny", n) for n in range(12)]
    found = [ablation_tables.Measured(whole, Group("one", str(ref), (ref,)), 0.1, 0.2) for ref in refs]
    tables = {table.name: table for table in ablation_tables.told(opened, [whole], found, ["d"])["tables"]}
    for name in ("one", "bias-one"):
        assert (len(tables[name].rows), tables[name].total) == (10, 12)
    assert tables["whole"].total is None
    few = ablation_tables.told(opened, [whole], found[:10], ["d"])["tables"]
    assert {table.total for table in few} == {None}


def test_effects_of_each_data_set_have_their_own_baseline(opened: OpenSet, files: dict[str, str]) -> None:
    """A set with patch prompts and one without go together, and both are ablated."""
    result = _study(opened, pairs=(files["forth"], files["bare"]), to="both", count=2)
    assert {row[0] for row in result.table("one").rows} == {"forth", "bare"}
    assert torch.tensor([row[4] for row in result.table("one").rows]).isfinite().all()
