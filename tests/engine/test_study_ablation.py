"""Ablation studies: groups, the thesis' scores of plainly hooked runs, what is refused and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest, SaescopeError
from engine.headless import Headless
from engine.opening import OpenSet
from engine.protocol import Event, MeasureStudy, Open, StudyGrown
from engine.study_results import Bars, StudyResult
from engine.study_settings.ablation import Ablation
from tests import tiny
from tests.engine.steering_scene import open_engine

PAIRS = [
    {"clean": "in the end of the", "patch": "of the end in the", "answer": " the", "patch_answer": " of"},
    {"clean": "of the end in the", "patch": "in the end of the", "answer": " of", "patch_answer": " the"},
    {"clean": "in the inn of a", "patch": "of the inn in a", "answer": " a", "patch_answer": " in"},
]  # fmt: skip
ONE, TWO, OTHER = "1-res-tiny:3", "1-res-tiny:9", "2-res-tiny:5"


@pytest.fixture(scope="module")
def headless(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    return open_engine(llama_folder, *dictionary_folders)


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return _written(tmp_path / "pairs.jsonl", PAIRS)


def _written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def _study(headless: Headless, **settings: Any) -> StudyResult:
    return _grown(headless, **settings)[-1]


def _grown(headless: Headless, **settings: Any) -> list[StudyResult]:
    events = headless.ask(MeasureStudy(id=2, settings=Ablation(**settings)))
    return [event.result for event in events if isinstance(event, StudyGrown)]


def _rows(result: StudyResult, name: str) -> list[dict[str, Any]]:
    table = result.table(name)
    return [dict(zip([c.name for c in table.columns], row, strict=True)) for row in table.rows]


def test_scores_are_the_thesis_formulas_of_hooked_runs(headless: Headless, opened: OpenSet, pairs: str) -> None:
    """Two features of one dictionary and one of another, taken out by plain hooks on the Hugging Face module."""
    result = _study(headless, pairs=(pairs,), features=(ONE, TWO, OTHER), to="resample", largest=3)
    whole = _rows(result, "whole")[0]
    assert (whole["pairs"], whole["to"], whole["examples"]) == ("pairs", "resample", 3)
    assert whole["m(M)"] == pytest.approx(_hooked(opened, {}), abs=1e-4)
    rows = [*_rows(result, "one"), *_rows(result, "combinations")]
    assert [row["group"] for row in rows] == [
        ONE, TWO, OTHER, f"{ONE} + {TWO}", f"{ONE} + {OTHER}", f"{TWO} + {OTHER}", f"{ONE} + {TWO} + {OTHER}",
    ]  # fmt: skip
    for row in rows:
        taken: dict[int, list[int]] = {}
        for name in row["group"].split(" + "):
            taken.setdefault(int(name[0]), []).append(int(name.split(":")[1]))
        assert row["m(rest)"] == pytest.approx(_hooked(opened, taken), abs=1e-4), row
        assert row["features"] == len(row["group"].split(" + "))
        m, empty = whole["m(M)"], whole["m(∅)"]
        assert row["bias"] == pytest.approx((m - row["m(rest)"]) / m, rel=1e-3, abs=1e-4)
        assert row["faithfulness"] == pytest.approx((row["m(C)"] - empty) / (m - empty), rel=1e-3, abs=1e-4)
        assert row["completeness"] == pytest.approx((row["m(rest)"] - empty) / (m - empty), rel=1e-3, abs=1e-4)
    by_name = {row["group"]: row["m(rest)"] for row in rows}
    assert abs(by_name[f"{ONE} + {TWO}"] - by_name[TWO]) > 1e-3, "the first of the two counts"
    best = _rows(result, "best")
    for size, row in enumerate(best, 1):
        same = [other for other in rows if other["features"] == size]
        assert row["combination"] == max(same, key=lambda other: other["bias"])["group"]
    chosen = max(best, key=lambda row: row["bias"])
    assert {str(m.feature) for m in result.sets[-1].members} == set(chosen["combination"].split(" + "))
    assert result.figures["best bias score, resample"] == chosen["bias"]


def _hooked(opened: OpenSet, taken: dict[int, list[int]]) -> float:
    """Mean metric with features of layers at their patch values, all at once, in every pass."""
    model, tokenizer = opened.model, opened.model.tokenizer
    total = 0.0
    for pair in PAIRS:
        ids, patch = (torch.tensor([tokenizer.encode(pair[name], bos=False)]) for name in ("clean", "patch"))
        answer, other = (tokenizer.encode(pair[name], bos=False)[0] for name in ("answer", "patch_answer"))
        values: dict[int, Tensor] = {}

        def look(layer: int, values: dict[int, Tensor] = values) -> Any:
            def hook(_m: Any, _a: Any, out: Any) -> None:
                values[layer] = opened.dictionaries[f"{layer}-res-tiny"].encode(out[0])

            return hook

        def put(layer: int, indices: list[int], values: dict[int, Tensor] = values) -> Any:
            dictionary = opened.dictionaries[f"{layer}-res-tiny"]

            def hook(_m: Any, _a: Any, out: Any) -> Any:
                f = dictionary.encode(out[0])
                return out + ((values[layer] - f)[:, indices] @ dictionary.decoder[indices])[None]

            return hook

        with torch.no_grad():
            with _attached(model, {layer: look(layer) for layer in taken}):
                model.hf(patch)
            with _attached(model, {layer: put(layer, indices) for layer, indices in taken.items()}):
                logits = model.hf(ids).logits[0, -1]
        total += float(logits[answer] - logits[other])
    return total / len(PAIRS)


class _attached:
    """Hooks on the outputs of blocks."""

    def __init__(self, model: Any, hooks: dict[int, Any]) -> None:
        self._model, self._hooks = model, hooks

    def __enter__(self) -> None:
        layers = self._model.hf.model.layers
        self._handles = [layers[n].register_forward_hook(hook) for n, hook in self._hooks.items()]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def test_groups_by_layer_kind_and_set(headless: Headless, pairs: str, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text(f"# two of them\n{ONE}\n\n{OTHER}  # late\n")
    result = _study(headless, pairs=(pairs,), features=(ONE, TWO, str(text)), to="zero", by=("layer", "kind", "set"))
    assert [t.name for t in result.tables] == ["whole", "layer", "bias-layer", "kind", "bias-kind", "set", "bias-set"]
    assert [(r["group"], r["features"]) for r in _rows(result, "layer")] == [("layer 1", 2), ("layer 2", 1)]
    assert [(r["group"], r["features"]) for r in _rows(result, "kind")] == [("resid", 3)]
    assert [(r["group"], r["features"]) for r in _rows(result, "set")] == [("features", 2), ("mine", 2)]
    layer_one = next(r for r in _rows(result, "layer") if r["group"] == "layer 1")
    assert layer_one["m(rest)"] == next(r for r in _rows(result, "set") if r["group"] == "features")["m(rest)"]
    for view in result.views:
        table = result.table(view.table)
        assert isinstance(view, Bars)
        assert {view.label, *view.values} <= {c.name for c in table.columns}


def test_several_data_sets_and_both_kinds_stand_apart(headless: Headless, pairs: str, tmp_path: Path) -> None:
    other = _written(tmp_path / "other.jsonl", PAIRS[2:])
    result = _study(headless, pairs=(pairs, f"NAME={other}"), features=(ONE,), by=("one",))
    rows = _rows(result, "one")
    assert [(r["pairs"], r["to"]) for r in rows] == [
        ("NAME", "zero"), ("NAME", "resample"), ("pairs", "zero"), ("pairs", "resample"),
    ]  # fmt: skip
    alone = _study(headless, pairs=(other,), features=(ONE,), by=("one",))
    assert [r["m(rest)"] for r in rows[:2]] == [r["m(rest)"] for r in _rows(alone, "one")]
    assert _rows(result, "bias-one")[0]["group"] == f"pairs: {ONE}"
    assert result.figures["pairs: m(M)"] != result.figures["NAME: m(M)"]


def test_without_features_the_strongest_are_taken(headless: Headless, pairs: str) -> None:
    result = _study(headless, pairs=(pairs,), to="zero", by=("one",), count=4)
    strongest = result.sets[0]
    assert strongest.name == "strongest"
    assert len(strongest.members) == 4
    sizes = [abs(m.effect or 0.0) for m in strongest.members]
    assert sizes == sorted(sizes, reverse=True)
    assert list(result.settings["features"]) == [str(m.feature) for m in strongest.members]


def test_it_grows_and_what_is_there_is_kept(headless: Headless, pairs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", 0.0)
    grown = _grown(headless, pairs=(pairs,), features=(ONE, TWO, OTHER), to="zero", by=("one",))
    assert [len(one.table("one").rows) for one in grown] == [1, 2, 3]
    assert [one.finished for one in grown] == [False, False, True]
    assert grown[0].table("one").rows == grown[-1].table("one").rows[:1]


def test_sinks_are_held_against_zero_and_it_is_said(headless: Headless, pairs: str) -> None:
    result = _study(headless, pairs=(pairs,), features=(ONE,), by=("one",))
    assert any("sinks keep" in note for note in result.notes)
    assert any("own patch prompt" in note for note in result.notes)
    assert any("is kept" in note for note in result.notes)
    removed = _study(headless, pairs=(pairs,), features=(ONE,), by=("one",), errors="remove")
    assert any("becomes zero or that of the patch prompt" in note for note in removed.notes)
    assert _rows(removed, "one")[0]["m(rest)"] != _rows(result, "one")[0]["m(rest)"]
    assert _rows(removed, "whole")[0]["m(M)"] == _rows(result, "whole")[0]["m(M)"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": ("layers",)}, "'layers' is not a value of --by"),
        ({"features": ("1-res-tiny:64",)}, "no feature 64"),
        ({"features": ("9-res-tiny:1",)}, "No dictionary called 9-res-tiny"),
        ({"features": ("nonsense",)}, "neither a feature nor a file"),
        ({"features": (OTHER,), "sources": ("1-res-tiny",)}, "not of a dictionary that takes part"),
        ({"sources": ("7-res-tiny",)}, "7-res-tiny"),
        (
            {"features": tuple(f"1-res-tiny:{n}" for n in range(40)), "by": ("combinations",), "largest": 9},
            "combinations of at most 9 features would be ablated",
        ),
    ],
)
def test_what_cannot_be_is_refused(headless: Headless, pairs: str, settings: Any, said: str) -> None:
    with pytest.raises(SaescopeError, match=said) as refused:
        _study(headless, **{"pairs": (pairs,), "features": (ONE,), **settings})
    assert refused.value.remedy


def test_resampling_needs_patch_prompts(headless: Headless, tmp_path: Path) -> None:
    bare = _written(tmp_path / "bare.jsonl", [{"clean": "in the end of the", "answer": " the"}])
    with pytest.raises(BadRequest, match="bare has no patch prompts"):
        _study(headless, pairs=(bare,), features=(ONE,), to="resample")
    both = _study(headless, pairs=(bare,), features=(ONE,), by=("one",))
    assert [row["to"] for row in _rows(both, "one")] == ["zero"]
    assert any("to zero only" in note for note in both.notes)


def test_too_many_combinations_are_left_out_where_nobody_asked(headless: Headless, pairs: str) -> None:
    many = tuple(f"1-res-tiny:{n}" for n in range(9))
    result = _study(headless, pairs=(pairs,), features=many, to="zero", examples=1)
    assert "combinations" not in {table.name for table in result.tables}
    assert any(note.startswith("120 combinations were not ablated") for note in result.notes)


def test_two_dictionaries_at_one_site_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    folders = [tiny.save_dictionary(tmp_path / f"{n}-tiny", "topk", layer=1, seed=n) for n in (1, 2)]
    headless = open_engine(llama_folder, *folders)
    pairs = _written(tmp_path / "pairs.jsonl", PAIRS)
    with pytest.raises(BadRequest, match="Several dictionaries write at blocks"):
        _study(headless, pairs=(pairs,), features=("1-tiny:0",))
    only = _study(headless, pairs=(pairs,), features=("1-tiny:0",), sources=("1-tiny",), by=("one",))
    assert len(_rows(only, "one")) == 2


# --- the default set --------------------------------------------------------------------------------------------------


@pytest.mark.default_set
@pytest.mark.timeout(300)
def test_the_default_set_s_number_feature_carries_the_agreement(default_set: Path) -> None:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, device="cpu", dtype="float32"))
    events: list[Event] = headless.ask(
        MeasureStudy(
            id=2,
            settings=Ablation(
                pairs=("tests/data/agreement_train.jsonl",), features=("13-res-sc:3467", "25-res-sc:3792"), examples=4,
                by=("one",), to="resample",
            ),
        )
    )  # fmt: skip
    result = next(e.result for e in reversed(events) if isinstance(e, StudyGrown))
    faith, keys = _rows(result, "one")
    assert abs(faith["bias"]) < 0.05 < 0.3 < keys["bias"]
