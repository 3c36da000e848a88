"""Two sides compared: what is said of effects, which sets there are, what is refused early, and how memory is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.errors import BadRequest, OutOfMemory
from engine.headless_studies import study_settings
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import Open
from engine.studies import effects
from engine.studies.given import given_sets
from engine.studies.measure import Growing
from engine.studies.select.study import measure as measure_selection
from engine.studies.universality import effects as universality_effects
from engine.studies.universality import reading as universality_reading
from engine.studies.universality import study as universality
from engine.studies.universality.matching import Tally
from engine.study_results import StudyResult
from tests import tiny
from tests.engine.study_scene import figure

PAIRS = [
    {"clean": "in the end", "answer": " of", "patch": "of the bag", "patch_answer": " in"},
    {"clean": "in the bit", "answer": " in", "patch": "in the bag", "patch_answer": " the"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("notes")
    for name, layer in (("one", 1), ("later", 2), ("unopened", 2)):
        more = {"metadata": {"prepend_bos": False, "neuronpedia_id": "gpt2-small/one"}} if name == "one" else {}
        tiny.save_dictionary(root / name, "topk", layer=layer, seed=layer, **more)
    tiny.save_model(tiny.model("llama", seed=3), root / "other_model")
    bare = [{"clean": pair["clean"], "answer": pair["answer"]} for pair in PAIRS]
    long = [{**PAIRS[0], "answer": " the end of the"}]
    for name, rows in (("pairs", PAIRS), ("bare", bare), ("long", long)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "text.txt").write_text("the bag of the end in the thin fence a bit of moth " * 40)
    return root


@pytest.fixture(scope="module")
def opened(llama_folder: Path, root: Path) -> OpenSet:
    places = (str(root / "one"), str(root / "later"))
    return open_set(Open(id=1, model=str(llama_folder), dictionaries=places, device="cpu", dtype="float32"), Job())


def _study(opened: OpenSet, root: Path, *names: str, **asked: Any) -> StudyResult:
    given: dict[str, Any] = {
        "sources": ("one",),
        "other": ("later",),
        "text": (str(root / "text.txt"),),
        "method": "attrib",
    }
    given |= {"pairs": tuple(str(root / f"{name}.jsonl") for name in names), "fires": 2, "count": 5}
    settings: Any = study_settings("universality", given | asked)
    return universality.measure(opened, settings, Growing(Job()))


def test_both_sides_say_what_selection_says(opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(effects.mean_effects.__kwdefaults__ or {}, "budget", 3)
    notes = _study(opened, root, "pairs", "bare", method="exact").notes
    settings: Any = study_settings("select", {"pairs": (str(root / "pairs.jsonl"),), "method": "exact"})
    selected = measure_selection(opened, settings, Growing(Job())).notes
    assert selected[0] in notes
    assert "The metric is logit(answer) − logit(patch answer) at the last token." in notes
    assert "The metric is the answer's logit at the last token where a pair has no second answer." in notes
    for side in ("one", "later"):
        mine = [note for note in notes if note.startswith(f"pairs, {side}: ")]
        assert any("effects are gradients in part" in note for note in mine)
        assert any("1 pairs differ in their first token" in note for note in mine)
    assert any("gradients in part" in note for note in selected)


def test_sets_are_of_open_dictionaries_with_their_pages(opened: OpenSet, root: Path) -> None:
    result = _study(opened, root, "pairs")
    assert [one.name for one in result.sets] == ["pairs, one", "pairs, later"]
    assert {member.neuronpedia for member in result.sets[0].members} == {"gpt2-small/one"}
    beside = _study(opened, root, "pairs", other=(str(root / "unopened"),))
    assert [one.name for one in beside.sets] == ["pairs, one"]
    file = root / "beside.json"
    file.write_bytes(msgspec.json.encode(beside))
    assert len(given_sets(opened, [str(file)])[0].members) == 5


def test_the_other_side_is_told_as_provenance_not_as_a_setting(opened: OpenSet, root: Path) -> None:
    result = _study(
        opened, root, "pairs", other=(str(root / "unopened"),), other_model=str(root / "other_model"), tokens=64
    )
    assert result.provenance.settings["other_side"]["model"] == "other_model"
    assert "other_side" not in result.settings
    study_settings("universality", result.settings)  # it can be asked again


def test_every_data_set_is_looked_at_before_the_first_is_measured(
    opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(universality_effects, "mean_effects", lambda *given, **more: calls.append(given))
    monkeypatch.setattr("engine.studies.select.study.mean_effects", lambda *given, **more: calls.append(given))
    with pytest.raises(BadRequest, match="long: None of the 1 pairs can be used") as refused:
        _study(opened, root, "pairs", "long")
    assert refused.value.remedy == "`saescope prompts check` says what is wrong with each."
    settings: Any = study_settings("select", {"pairs": [str(root / f"{n}.jsonl") for n in ("pairs", "long")]})
    with pytest.raises(BadRequest, match="long: None of the 1 pairs can be used") as refused:
        measure_selection(opened, settings, Growing(Job()))
    assert "circuit" not in refused.value.remedy
    assert not calls


def test_fewer_features_are_matched_where_more_do_not_fit(
    opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _study(opened, root)
    assert not any("lowered" in note for note in whole.notes)
    monkeypatch.setattr(universality_reading, "available_bytes", lambda device: int(12 * 20**2 / 0.4) + 1)
    made: list[int] = []

    def noted(first: torch.Tensor, n: int, second: torch.Tensor, m: int) -> Tally:
        made.extend((len(first), len(second)))
        return Tally(first, n, second, m)

    monkeypatch.setattr(universality_reading, "Tally", noted)
    result = _study(opened, root)
    assert made == [20, 20]
    assert any(note.startswith("--most 4096 was lowered to 20") for note in result.notes)
    assert any("the 20 features that fire most" in note for note in result.notes)
    assert 0 < figure(result, "matched") <= 20
    both = {row[:2]: row[2] for row in whole.table("matches").rows}
    for row in result.table("matches").rows:
        assert row[2] == pytest.approx(both.get(row[:2], row[2]), abs=1e-6)


def test_what_does_not_fit_all_the_same_is_told(opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise MemoryError

    monkeypatch.setattr(universality_reading, "Tally", full)
    with pytest.raises(OutOfMemory, match="have in common does not fit") as refused:
        _study(opened, root)
    assert "--most" in refused.value.remedy


def test_totals_are_told_only_of_tables_that_lack_rows(opened: OpenSet, root: Path) -> None:
    result = _study(opened, root, top=3)
    totals = {table.name: (len(table.rows), table.total) for table in result.tables}
    count = result.figures["matched"]
    assert totals["best"] == totals["own"] == (3, count)
    assert totals["matches"] == (count, None)
