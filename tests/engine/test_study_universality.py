"""Two sides compared, against numpy's correlations of activations kept whole, and a copy that must be found again."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import BadRequest, SaescopeError
from engine.events import StudyGrown
from engine.headless import Headless
from engine.headless_studies import study_settings
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import MeasureStudy, Open
from engine.studies.effects import mean_effects
from engine.studies.measure import Growing
from engine.studies.universality import sides as universality_sides
from engine.studies.universality.study import measure
from engine.study_results import StudyResult, Table
from tests import tiny
from tests.circuit_asking import PAIRS
from tests.engine.study_scene import figure, numbers

GROUP = 16
"""Contexts that are read at a time: sinks are told by the median norm among them."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one` at layer 1, `twin`, the same features in another order, `later` at layer 2, and a text."""
    root = tmp_path_factory.mktemp("universality")
    one = tiny.sae("topk", hook="blocks.1.hook_resid_post", metadata={"prepend_bos": False})
    one.save_model(root / "one")
    order = np.random.default_rng(5).permutation(tiny.D_SAE)
    (root / "order.json").write_text(json.dumps(order.tolist()))
    with torch.no_grad():
        one.W_dec.copy_(one.W_dec[order].clone())
        one.W_enc.copy_(one.W_enc[:, order].clone())
        one.b_enc.copy_(one.b_enc[order].clone())
    one.save_model(root / "twin")
    tiny.save_dictionary(root / "later", "standard", layer=2, seed=9)
    rng = np.random.default_rng(0)
    words = ["the", "of", "in", "end", "bag", "a", "bit", "thin", "moth", "fence", "x1", "zebra"]
    documents = [" ".join(rng.choice(words, size=30)) for _ in range(20)]
    (root / "text.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    tiny.save_model(tiny.model("llama", seed=3), root / "other_model")
    tiny.save_dictionary(root / "theirs", "topk", layer=1, seed=4, metadata={"prepend_bos": True})
    strange = tiny.save_model(tiny.model("llama", seed=3), root / "strange_model")
    spec = json.loads((strange / "tokenizer.json").read_text())
    ids = spec["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (strange / "tokenizer.json").write_text(json.dumps(spec))
    return root


@pytest.fixture(scope="module")
def opened(llama_folder: Path, root: Path) -> OpenSet:
    places = (str(root / "one"), str(root / "later"))
    return open_set(Open(id=1, model=str(llama_folder), dictionaries=places, device="cpu", dtype="float32"), Job())


def _study(opened: OpenSet, growing: Growing | None = None, **asked: Any) -> StudyResult:
    settings: Any = study_settings("universality", asked)
    return measure(opened, settings, growing or Growing(Job()))


def _activations(opened: OpenSet, source: str, text: Path, length: int, bos: list[int]) -> tuple[Any, Any]:
    """Of every token of text, in order: its activations, and whether it counts; read one context at a time."""
    dictionary = opened.dictionaries[source]
    contexts = []
    for line in text.read_text().splitlines():
        ids = opened.model.tokenizer.encode(json.loads(line)["text"], bos=False)
        pieces = [ids[n : n + length] for n in range(0, len(ids), length)]
        contexts += [bos + piece for piece in pieces if len(piece) >= 16]
    values, counts = [], []
    for start in range(0, len(contexts), GROUP):
        group = contexts[start : start + GROUP]
        rows = [opened.model.capture(torch.tensor([ids]), [dictionary.site])[dictionary.site][0] for ids in group]
        median = torch.cat(rows).norm(dim=1).median()
        for x in rows:
            keep = (x.norm(dim=1) <= 4 * median) & (torch.arange(len(x)) > 0)
            values.append(dictionary.encode(x)[len(bos) :].numpy())
            counts.append(keep[len(bos) :].numpy())
    return values, counts


def _best(x: Any, y: Any, fires: int) -> dict[int, tuple[set[int], float]]:
    """Of every column of x that is not zero often enough, the most correlated of y."""
    mine = np.flatnonzero((x != 0).sum(0) >= fires)
    theirs = np.flatnonzero((y != 0).sum(0) >= fires)
    r = np.corrcoef(x[:, mine].T.astype(np.float64), y[:, theirs].T.astype(np.float64))[: len(mine), len(mine) :]
    return {
        int(i): ({int(theirs[j]) for j in np.flatnonzero(row > row.max() - 1e-6)}, float(row.max()))
        for i, row in zip(mine, r, strict=True)
    }


def _found(table: Table) -> dict[int, tuple[int, float]]:
    def index(name: Any) -> int:
        return int(str(name).rpartition(":")[2])

    rows = zip(table.column("feature"), table.column("match"), table.column("r"), strict=True)
    return {index(a): (index(b), float(r or 0)) for a, b, r in rows}


def _agree(found: dict[int, tuple[int, float]], expected: dict[int, tuple[set[int], float]]) -> None:
    assert set(found) == set(expected)
    assert len(found) > 10
    for feature, (match, r) in found.items():
        assert match in expected[feature][0]
        assert r == pytest.approx(expected[feature][1], abs=2e-5)


def test_a_permuted_copy_is_found_again_feature_by_feature(opened: OpenSet, root: Path) -> None:
    order = json.loads((root / "order.json").read_text())
    result = _study(opened, sources=("one",), other=(str(root / "twin"),), text=(str(root / "text.jsonl"),))
    table = result.table("matches")
    for feature, (match, r) in _found(table).items():
        assert order[match] == feature
        assert r == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(np.array(table.column("cosine"), float), 1, atol=1e-5)
    assert set(table.column("mutual")) == {"yes"}
    assert len(table.rows) > 20
    for name in ("median correlation", "with a match", "with a match, backwards", "mutual", "cosine agrees"):
        assert result.figures[name] == pytest.approx(1, abs=1e-9)
    assert figure(result, "median by chance") < 0.6
    counts = result.table("correlations").column("features")
    assert counts[-1] == len(table.rows)
    assert list(opened.dictionaries) == ["one", "later"]  # nothing is left behind


@pytest.mark.parametrize("sparse", [True, False])
def test_correlations_are_those_of_activations_kept_whole(
    opened: OpenSet, root: Path, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.studies.universality.matching._SPARSE", 0 if sparse else 10**9)
    text = root / "text.jsonl"
    result = _study(opened, sources=("one",), other=("later",), text=(str(text),), context=32, fires=5, tokens=10**6)
    x, counted = _activations(opened, "one", text, 32, [])
    y, also = _activations(opened, "later", text, 32, [])
    assert len(x) > 2 * GROUP
    both = [a & b for a, b in zip(counted, also, strict=True)]
    rows = [np.concatenate([part[keep] for part, keep in zip(parts, both, strict=True)]) for parts in (x, y)]
    _agree(_found(result.table("matches")), expected := _best(*rows, 5))
    assert result.figures["median correlation"] == pytest.approx(
        float(torch.tensor([r for _, r in expected.values()]).median()), abs=2e-5
    )
    back = _best(rows[1], rows[0], 5)
    shown = np.mean([r > 0.5 for _, r in back.values()])
    assert result.figures["with a match, backwards"] == pytest.approx(shown)
    mutual = [any(i in back[j][0] for j in matches) for i, (matches, _) in expected.items()]
    assert result.figures["mutual"] == pytest.approx(np.mean(mutual))
    groups = [slice(n, n + GROUP) for n in range(0, len(x), GROUP)]
    moved = []
    for group in groups:
        part = np.concatenate([p[keep] for p, keep in zip(y[group], both[group], strict=True)])
        moved.append(np.roll(part, len(part) // 2, axis=0))
    lucky = _best(rows[0], np.concatenate(moved), 5)
    assert result.figures["median by chance"] == pytest.approx(
        float(torch.tensor([r for _, r in lucky.values()]).median()), abs=1e-4
    )
    decoders = [opened.dictionaries[source].decoder.numpy() for source in ("one", "later")]
    for row in result.table("best").rows:
        a, b = (decoders[n][int(str(row[n]).rpartition(":")[2])] for n in (0, 1))
        assert row[3] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert f"{sum(map(len, rows[:1])):,} tokens" in " ".join(result.notes)


def test_only_those_that_fire_most_are_compared_in_large_ones(opened: OpenSet, root: Path) -> None:
    text = str(root / "text.jsonl")
    whole = _study(opened, sources=("one",), other=("later",), text=(text,), fires=2)
    result = _study(opened, sources=("one",), other=("later",), text=(text,), fires=2, most=12)
    least = sorted(numbers(whole.table("matches"), "fires"), reverse=True)[11]
    assert len(result.table("matches").rows) == 12
    assert min(numbers(result.table("matches"), "fires")) >= least
    assert "12 features that fire most" in " ".join(result.notes)


def test_another_model_is_read_beside_and_let_go(opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = root / "text.jsonl"
    seen: list[Any] = []
    real: Callable[..., OpenSet] = open_set

    def watched(request: Open, job: Job) -> OpenSet:
        found = real(request, job)
        seen.append(weakref.ref(found.model.hf))
        return found

    monkeypatch.setattr(universality_sides, "open_set", watched)
    asked: dict[str, Any] = {"other_model": str(root / "other_model"), "other": (str(root / "theirs"),)}
    result = _study(opened, sources=("one",), **asked, text=(str(text),), context=32, fires=5, tokens=10**6)
    assert seen[0]() is None
    their = real(Open(id=1, model=asked["other_model"], dictionaries=asked["other"], device="cpu"), Job())
    assert their.ids("a", False)[0] == 256  # they begin with BOS, and what is open does not
    x, counted = _activations(opened, "one", text, 32, [])
    y, also = _activations(their, "theirs", text, 32, [256])
    both = [a & b for a, b in zip(counted, also, strict=True)]
    rows = [np.concatenate([part[keep] for part, keep in zip(parts, both, strict=True)]) for parts in (x, y)]
    _agree(_found(result.table("matches")), _best(*rows, 5))
    assert str(result.table("matches").column("match")[0]).startswith("other_model@theirs:")
    assert result.table("matches").column("cosine")[0] is None
    assert result.provenance.settings["other_side"]["dictionaries"] == {"theirs": their.dictionaries["theirs"].sha256}
    assert list(opened.dictionaries) == ["one", "later"]


def test_the_same_model_is_not_opened_twice(
    opened: OpenSet, root: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> OpenSet:
        raise AssertionError("it is open already")

    monkeypatch.setattr(universality_sides, "open_set", never)
    text = (str(root / "text.jsonl"),)
    result = _study(opened, sources=("one",), other_model=str(llama_folder), other=(str(root / "later"),), text=text)
    plain = _study(opened, sources=("one",), other=("later",), text=text)
    assert result.tables == plain.tables  # what is open already is not read again either


def test_a_selection_stands_side_by_side(opened: OpenSet, root: Path) -> None:
    file = root / "pairs.jsonl"
    rows = [{"clean": p.clean, "answer": p.answer, "patch": p.patch, "patch_answer": p.patch_answer} for p in PAIRS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: dict[str, Any] = {"pairs": (f"made={file}",), "method": "attrib", "count": 7, "fires": 2}
    result = _study(opened, sources=("one",), other=("later",), **asked, text=(str(root / "text.jsonl"),))
    ids = [(opened.ids(p.clean, False), opened.ids(p.patch or "", False)) for p in PAIRS]
    answers = [opened.model.tokenizer.encode(a or "", bos=False)[0] for p in PAIRS for a in (p.answer, p.patch_answer)]
    total = 0.0
    for n, (clean, patch) in enumerate(ids):
        good, bad = answers[2 * n : 2 * n + 2]
        for sign, prompt in ((1, clean), (-1, patch)):
            with torch.no_grad():
                logits = opened.model.hf(torch.tensor([prompt])).logits[0, -1]
            total += sign * float(logits[good] - logits[bad]) / len(ids)
    assert result.figures["total effect: made, one"] == pytest.approx(total, abs=1e-4)
    assert result.figures["total effect: made, later"] == pytest.approx(total, abs=1e-4)
    for source in ("one", "later"):
        mean = mean_effects(opened, PAIRS, "attrib", [opened.dictionaries[source]], Growing(Job()))
        effects = mean.features[source].double().numpy()
        order = np.argsort(-np.abs(effects), kind="stable")[:7]
        chosen = [row for row in result.table("chosen").rows if row[1] == source]
        assert {row[3] for row in chosen} == {f"{source}:{i}" for i in order}
        shares = np.cumsum(np.sort(np.abs(effects))[::-1]) / np.abs(effects).sum()
        curve = [row[1:] for row in result.table("cumulative").rows if row[0] == f"made, {source}"]
        np.testing.assert_allclose([r for _, r in curve], [shares[int(n or 0) - 1] for n, _ in curve], atol=1e-5)
        row = next(row for row in result.table("effects").rows if row[1] == source)
        assert row[-2] == pytest.approx(shares[6], abs=1e-5)
        assert row[-1] == int(np.argmax(shares >= 0.5)) + 1
    depths = result.table("depths")
    assert depths.column("one")[5] == 7  # after block 1 of 4: half of the way
    assert depths.column("later")[7] == 7
    assert [s.name for s in result.sets] == ["made, one", "made, later"]
    match = _found(result.table("matches"))
    picked = [{int(str(row[3]).split(":")[1]) for row in result.table("chosen").rows if row[1] == s} for s in ("one", "later")]  # fmt: skip  # noqa: E501
    assert result.figures["in both: made"] == sum(match[i][0] in picked[1] for i in picked[0] if i in match)


def test_models_of_other_tokenizers_are_compared_by_effects_alone(opened: OpenSet, root: Path) -> None:
    asked: dict[str, Any] = {"other_model": str(root / "strange_model"), "other": (str(root / "later"),)}
    with pytest.raises(BadRequest, match="different tokenizers"):
        _study(opened, **asked)
    file = root / "few.jsonl"
    file.write_text(json.dumps({"clean": "in the end", "answer": " in", "patch": "in the bag", "patch_answer": " a"}))
    result = _study(opened, **asked, pairs=(str(file),), method="attrib")
    assert "tokenizers differ" in " ".join(result.notes)
    assert [t.name for t in result.tables] == ["effects", "depths", "cumulative", "chosen"]
    assert {row[1] for row in result.table("effects").rows} == {opened.model.name, "strange_model"}


def test_named_features_come_first(opened: OpenSet, root: Path) -> None:
    text = (str(root / "text.jsonl"),)
    plain = _study(opened, sources=("one",), other=("later",), text=text)
    feature = str(plain.table("matches").rows[5][0])
    result = _study(opened, features=(feature,), sources=("one",), other=("later",), text=text)
    assert result.tables[0].rows[0][:7] == plain.table("matches").rows[5]
    assert result.figures[feature] == plain.table("matches").rows[5][2]


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({}, "Nothing was named"),
        ({"sources": ("one",), "other": ("one",)}, "both sides"),
        ({"other": ("one", "later")}, "on the other side"),
        ({"other": ("nowhere",)}, "nowhere"),
        ({"other": ("/nowhere",)}, "no folder"),
        ({"other_model": "/nowhere", "other": ("one",)}, "/nowhere"),
        ({"other": ("later",), "features": ("later:3",)}, "not among what is compared"),
        ({"other": ("later",), "features": ("one:64",)}, "has no feature"),
        ({"other": ("later",), "text": ("/nowhere.txt",)}, "no file"),
        ({"other": ("later",), "pairs": ("/nowhere.jsonl",)}, "/nowhere.jsonl"),
        ({"other": ("later",), "fires": 1}, "fires"),
    ],
)
def test_what_makes_no_sense_is_said(opened: OpenSet, asked: dict[str, Any], cause: str) -> None:
    with pytest.raises(SaescopeError) as refused:
        _study(opened, **asked)
    assert cause in refused.value.message
    assert refused.value.remedy


def test_text_without_a_stretch_is_said(opened: OpenSet, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("in the end")
    with pytest.raises(BadRequest, match="no stretch"):
        _study(opened, other=("later",), text=(str(tmp_path / "short.txt"),))


def test_what_is_there_so_far_is_shown(opened: OpenSet, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", -1.0)
    events: list[Any] = []
    growing = Growing(Job(1, events.append))
    result = _study(opened, growing, sources=("one",), other=("later",), text=(str(root / "text.jsonl"),), context=32)
    seen = [e.result for e in events if isinstance(e, StudyGrown)]
    assert len(seen) > 1
    assert not seen[0].finished
    assert figure(seen[0], "matched") < figure(result, "matched")


@pytest.mark.default_set
def test_two_layers_of_the_default_set_share_features(default_set: Path) -> None:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=None))
    asked = {"sources": ("9-res-sc",), "other": ("13-res-sc",), "tokens": 400}
    events = headless.ask(MeasureStudy(id=2, settings=study_settings("universality", asked)))
    result = next(e.result for e in reversed(events) if isinstance(e, StudyGrown))
    assert result.finished
    assert figure(result, "median correlation") > 2 * figure(result, "median by chance")
    plural = next(row for row in result.table("matches").rows if row[0] == "9-res-sc:345")
    assert plural[1] == "13-res-sc:160"  # the README's circuit goes from one to the other
    assert float(plural[3] or 0) > 0.9
