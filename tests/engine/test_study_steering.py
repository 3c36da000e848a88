"""Steering studies find the flips that a slow scan with plain hooks finds, and tell why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import SaescopeError
from engine.headless import Headless
from engine.opening import OpenSet
from engine.protocol import FeatureRef, MeasureStudy, Open, StudyGrown
from engine.steering.values import random_direction
from engine.steering_results import parse_positions
from engine.studies.steering.flips import cannot_act, grid
from engine.study_results import StudyResult
from engine.study_settings.steering import Steering
from tests import tiny
from tests.engine.steering_scene import open_engine

PROMPTS = ("in the end of the", "of the end in the", "in the inn of a")
EARLY, LAST = "1-res-tiny", "3-res-tiny"
STRONGEST = 40.0
STEPS = 100
"""Of the slow scan."""
Change = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def headless(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Headless:
    """Dictionaries after block 1 and after the last block; one feature has a decoder row of zeros."""
    root = tmp_path_factory.mktemp("steering")
    folders = [tiny.save_dictionary(root / f"{layer}-res-tiny", "topk", layer=layer) for layer in (1, 3)]
    engine = open_engine(llama_folder, *folders)
    engine.engine.opened.dictionaries[LAST].decoder[63] = 0
    return engine


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


@pytest.fixture
def pairs(opened: OpenSet, tmp_path: Path) -> str:
    """Each answered with its likeliest token that is one of text, the sixth likeliest to be flipped to."""
    rows = []
    for prompt in PROMPTS:
        order = _plain(opened, _ids(opened, prompt)).argsort(descending=True).tolist()
        texts = [
            text for token in order if (text := opened.model.tokenizer.token(token).text) and _is_one(opened, text)
        ]
        rows.append({"clean": prompt, "answer": texts[0], "patch_answer": texts[5]})
    return _written(tmp_path / "pairs.jsonl", rows)


def _is_one(opened: OpenSet, text: str) -> bool:
    return text.isascii() and text.strip().isalpha() and len(opened.model.tokenizer.encode(text, bos=False)) == 1


def _written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def _ids(opened: OpenSet, prompt: str) -> list[int]:
    return opened.model.tokenizer.encode(prompt, bos=False)


def _study(headless: Headless, **settings: Any) -> StudyResult:
    asked = Steering(**{"unit": "raw", "strongest": STRONGEST, "control": False, **settings})
    events = headless.ask(MeasureStudy(id=2, settings=asked))
    return next(event.result for event in reversed(events) if isinstance(event, StudyGrown))


def _rows(result: StudyResult, name: str) -> list[dict[str, Any]]:
    table = result.table(name)
    return [dict(zip([c.name for c in table.columns], row, strict=True)) for row in table.rows]


# --- the slow way -----------------------------------------------------------------------------------------------------


def _hooked(opened: OpenSet, layer: int, change: Change, ids: Sequence[int]) -> Tensor:
    """Next-token logits [V] with a plain hook on a block of the Hugging Face module, no cache."""
    handle = opened.model.hf.model.layers[layer].register_forward_hook(lambda _m, _a, out: change(out))
    try:
        return _plain(opened, ids)
    finally:
        handle.remove()


def _plain(opened: OpenSet, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = opened.model.hf(torch.tensor([list(ids)])).logits[0, -1]
    return found


def _pair(opened: OpenSet, row: dict[str, Any]) -> tuple[int, int]:
    sought, answer = (opened.model.tokenizer.encode(row[name], bos=False)[0] for name in ("sought", "answer"))
    return sought, answer


def _scanned(margin_at: Callable[[float], float], sign: int, steps: int = STEPS) -> float | None:
    """The first strength that flips, strengths one after the other on the study's scale."""
    for n in range(1, steps + 1):
        strength = sign * STRONGEST * (n / steps) ** 2
        if margin_at(strength) > 0:
            return strength
    return None


def _agrees(ours: float | None, margin_at: Callable[[float], float], sign: int) -> None:
    """Ours flips and nothing a little weaker does; a slow scan finds none that is smaller by more than its step."""
    slow = _scanned(margin_at, sign)
    if ours is None:
        assert all(margin_at(sign * strength) <= 0 for strength in grid(STRONGEST))
        return
    assert slow is not None
    assert margin_at(ours) > 0
    assert margin_at(0.97 * ours) <= 0 or abs(ours) < 0.02
    step = 2 * (abs(ours) * STRONGEST) ** 0.5 / STEPS + STRONGEST / STEPS**2
    assert abs(ours) <= abs(slow) + 1e-6
    assert abs(slow) - abs(ours) < step + 1e-3


# --- equal to it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "layer"), [(EARLY, 1), (LAST, 3)])
def test_the_smallest_strengths_are_those_of_a_slow_scan(
    headless: Headless, opened: OpenSet, pairs: str, source: str, layer: int
) -> None:
    """Hooks on the Hugging Face module, one strength after the other."""
    result = _study(headless, pairs=(pairs,), features=(f"{source}:3", f"{source}:10"))
    rows = _rows(result, "strengths")
    assert len(rows) == 6
    flips = 0
    for row in rows:
        direction = opened.dictionaries[source].decoder[int(row["feature"].split(":")[1])]
        ids, (sought, answer) = _ids(opened, row["prompt"]), _pair(opened, row)

        def margin_at(
            strength: float, d: Tensor = direction, ids: list[int] = ids, s: int = sought, a: int = answer
        ) -> float:
            logits = _hooked(opened, layer, lambda x: x + strength * d, ids)
            return float(logits[s] - logits[a])

        assert row["margin"] == pytest.approx(margin_at(0.0), abs=1e-4)
        for sign, name in ((1, "positive"), (-1, "negative")):
            _agrees(row[name], margin_at, sign)
            flips += row[name] is not None
        both = [row[name] for name in ("positive", "negative") if row[name] is not None]
        assert row["strength"] == min(both, key=abs, default=None)
        assert row["status"] == ("flips" if both else "never")
    assert flips >= 2, "something to compare"


def test_a_last_layer_feature_changes_the_next_token(headless: Headless, opened: OpenSet, pairs: str) -> None:
    """The thesis steered `[:, :-1]`: after the last block that changes no logit, and such features were "never"."""
    result = _study(headless, pairs=(pairs,), features=(f"{LAST}:3",))
    row = next(row for row in _rows(result, "strengths") if row["status"] == "flips")
    direction, ids = opened.dictionaries[LAST].decoder[3], _ids(opened, row["prompt"])
    sought, answer = _pair(opened, row)

    def thesis(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :-1] += row["strength"] * direction
        return x

    assert torch.equal(_hooked(opened, 3, thesis, ids), _plain(opened, ids))
    ours = _hooked(opened, 3, lambda x: x + row["strength"] * direction, ids)
    assert ours[sought] > ours[answer]
    model = opened.model.hf
    held: list[Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _m, args: held.append(args[0]))
    _plain(opened, ids)
    handle.remove()
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(held[0][0, -1] + row["strength"] * direction))
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("source", "layer"), [(EARLY, 1), (LAST, 3)])
def test_generated_tokens_are_steered_too(
    headless: Headless, opened: OpenSet, tmp_path: Path, source: str, layer: int
) -> None:
    """With several tokens the greedy text is searched, every token of it drawn under the same steering."""
    ids = _ids(opened, PROMPTS[0])
    plain = _greedy(opened, layer, torch.tensor(0.0), ids)
    index, sought = _said_late(opened, source, layer, ids, plain)
    token = opened.model.tokenizer.token
    answer = next(t for t in _plain(opened, ids).argsort(descending=True).tolist() if _is_one(opened, token(t).text))
    row = {"clean": PROMPTS[0], "answer": token(answer).text, "patch_answer": token(sought).text}
    pairs = _written(tmp_path / "late.jsonl", [row])
    result = _study(headless, pairs=(pairs,), features=(f"{source}:{index}",), tokens=4, sign="positive")
    found = _rows(result, "strengths")[0]
    direction = opened.dictionaries[source].decoder[index]

    def flipped(strength: float) -> bool:
        said = _greedy(opened, layer, strength * direction, ids)
        return [t for t in said if t in (sought, answer)][:1] == [sought]

    assert found["status"] == "flips"
    assert flipped(found["strength"])
    assert not flipped(0.97 * found["strength"])
    assert not any(flipped(strength) for strength in grid(STRONGEST) if strength < found["strength"])
    alone = _study(headless, pairs=(pairs,), features=(f"{source}:{index}",), tokens=4, positions="prompt")
    assert _rows(alone, "strengths")[0]["positive"] != found["strength"], "new tokens are steered in the other"


def _greedy(opened: OpenSet, layer: int, vector: Tensor, ids: Sequence[int]) -> list[int]:
    text = list(ids)
    for _ in range(4):
        text.append(int(_hooked(opened, layer, lambda x: x + vector, text).argmax()))
        if text[-1] in opened.model.end_ids:
            break
    return text[len(ids) :]


def _said_late(opened: OpenSet, source: str, layer: int, ids: Sequence[int], plain: list[int]) -> tuple[int, int]:
    """A feature under which the text says, after its first token, a word that the plain text does not."""
    for index, strength in product(range(63), (12.0, 3.0)):
        first, *later = _greedy(opened, layer, strength * opened.dictionaries[source].decoder[index], ids)
        for token in later:
            if token not in (first, *plain) and _is_one(opened, opened.model.tokenizer.token(token).text):
                return index, token
    raise AssertionError("no feature does")


def test_the_control_is_a_random_direction_of_the_same_length(headless: Headless, opened: OpenSet, pairs: str) -> None:
    result = _study(headless, pairs=(pairs,), features=(f"{EARLY}:3",), control=True)
    direction = random_direction(opened.dictionaries[EARLY].decoder[3], 0, f"{EARLY}:3")
    assert direction.norm() == pytest.approx(float(opened.dictionaries[EARLY].decoder[3].norm()), rel=1e-5)
    rows = _rows(result, "strengths")
    assert any(row["random"] is not None for row in rows)
    for row in rows:
        ids, (sought, answer) = _ids(opened, row["prompt"]), _pair(opened, row)

        def margin_at(strength: float, ids: list[int] = ids, s: int = sought, a: int = answer) -> float:
            logits = _hooked(opened, 1, lambda x: x + strength * direction, ids)
            return float(logits[s] - logits[a])

        if row["random"] is None:
            assert all(margin_at(way * strength) <= 0 for strength in grid(STRONGEST) for way in (1, -1))
        else:
            assert max(margin_at(way * row["random"] * 1.001) for way in (1, -1)) > 0
            assert max(margin_at(way * row["random"] * 0.97) for way in (1, -1)) <= 0
    share = sum(row["random"] is not None for row in rows) / 3
    assert _rows(result, "features")[0]["random share"] == pytest.approx(share, rel=1e-4)


# --- never, cannot act, already ---------------------------------------------------------------------------------------


def test_what_cannot_act_is_told_apart_from_what_never_flips(headless: Headless, pairs: str) -> None:
    weak = _study(headless, pairs=(pairs,), features=(f"{LAST}:3", f"{LAST}:63"), strongest=1e-6)
    rows = _rows(weak, "strengths")
    assert {row["status"] for row in rows if row["feature"] == f"{LAST}:3"} == {"never"}
    assert {row["status"] for row in rows if row["feature"] == f"{LAST}:63"} == {"cannot act"}
    assert all(row["strength"] is None for row in rows)
    assert f"The decoder row of {LAST}:63 is zero." in weak.notes
    before_the_end = _study(headless, pairs=(pairs,), features=(f"{LAST}:3", f"{EARLY}:3"), positions="0:2")
    by_feature = {row["feature"]: row for row in _rows(before_the_end, "features")}
    assert (by_feature[f"{LAST}:3"]["cannot act"], by_feature[f"{EARLY}:3"]["cannot act"]) == (3, 0)
    assert any("cannot act: after the attention of the last layer" in note for note in before_the_end.notes)
    outside = _study(headless, pairs=(pairs,), features=(f"{EARLY}:3",), positions="20:30")
    assert {row["status"] for row in _rows(outside, "strengths")} == {"cannot act"}
    assert outside.figures["flipped"] is None


@pytest.mark.parametrize(
    ("source", "positions", "tokens", "acts"),
    [
        (LAST, "all", 1, True),
        (LAST, "generated", 1, True),
        (LAST, "prompt", 1, True),
        (LAST, "7", 1, True),
        (LAST, "6", 1, False),
        (LAST, "0:7", 3, False),
        (EARLY, "0:7", 1, True),
        (EARLY, "8:", 1, False),
        (EARLY, "8:", 2, True),
    ],
)
def test_cannot_act_is_what_changes_no_logit(
    opened: OpenSet, source: str, positions: str, tokens: int, acts: bool
) -> None:
    where = parse_positions(positions)
    assert (cannot_act(opened, FeatureRef(source, 3), where, 8, tokens) is None) == acts
    if tokens > 1:
        return
    ids = _ids(opened, PROMPTS[0])
    assert len(ids) == 8
    on = torch.tensor([where.holds(n, 8) for n in range(8)])[:, None]
    direction = opened.dictionaries[source].decoder[3]
    steered = _hooked(opened, int(source[0]), lambda x: x + 5 * on * direction, ids)
    assert torch.equal(steered, _plain(opened, ids)) != acts


def test_what_is_flipped_already_is_left_out_of_shares(
    headless: Headless, opened: OpenSet, pairs: str, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    rows[0]["answer"], rows[0]["patch_answer"] = rows[0]["patch_answer"], rows[0]["answer"]
    turned = _written(tmp_path / "turned.jsonl", rows)
    result = _study(headless, pairs=(turned,), features=(f"{LAST}:3",))
    first, *others = _rows(result, "strengths")
    assert (first["status"], first["strength"]) == ("flips already", None)
    assert first["margin"] > 0
    summary = _rows(result, "features")[0]
    flipped = [abs(row["strength"]) for row in others if row["status"] == "flips"]
    assert (summary["already"], summary["flips"], summary["never"]) == (1, len(flipped), 2 - len(flipped))
    assert summary["share"] == pytest.approx(len(flipped) / 2)
    assert summary["largest"] == max(flipped)
    assert result.figures["flipped already"] == 1


# --- what it is asked -------------------------------------------------------------------------------------------------


def test_features_come_in_the_order_of_their_success(headless: Headless, pairs: str) -> None:
    features = [f"{LAST}:{n}" for n in range(5)] + [f"{LAST}:63"]
    result = _study(headless, pairs=(pairs,), features=tuple(features), strongest=5.0)
    counts = [row["flips"] for row in _rows(result, "features")]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 1
    assert [str(m.feature) for m in result.sets[0].members] == [
        row["feature"] for row in _rows(result, "features") if row["flips"]
    ]
    for view in result.views:
        names = {column.name for column in result.table(view.table).columns}
        named = {getattr(view, key) for key in ("row", "column", "value", "label") if hasattr(view, key)}
        assert named <= names


def test_it_grows_prompt_by_prompt(headless: Headless, pairs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", 0.0)
    asked = Steering(pairs=(pairs,), features=(f"{LAST}:3",), unit="raw", control=False)
    grown = [e.result for e in headless.ask(MeasureStudy(id=2, settings=asked)) if isinstance(e, StudyGrown)]
    assert [len(one.table("strengths").rows) for one in grown] == [1, 2, 3]
    assert [one.finished for one in grown] == [False, False, True]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": ()}, "No feature was named"),
        ({"features": ("3-res-tiny:64",)}, "no feature 64"),
        ({"unit": "max"}, "has no cards"),
        ({"positions": "nowhere"}, "names no positions"),
        ({"positions": "5:5"}, "empty range"),
        ({"strongest": float("inf")}, "is not a strength"),
        ({"tokens": 1000}, "the model reads 128"),
        ({"pairs": ("missing.jsonl",)}, "missing"),
        ({"pairs": ()}, "No data set"),
    ],
)
def test_what_cannot_be_is_refused(headless: Headless, pairs: str, settings: Any, said: str) -> None:
    with pytest.raises(SaescopeError, match=said) as refused:
        _study(headless, **{"pairs": (pairs,), "features": (f"{LAST}:3",), **settings})
    assert refused.value.remedy


def test_pairs_need_a_second_answer(headless: Headless, tmp_path: Path) -> None:
    bare = _written(tmp_path / "bare.jsonl", [{"clean": PROMPTS[0], "answer": " the"}])
    with pytest.raises(SaescopeError, match="bare has no second answers to flip to"):
        _study(headless, pairs=(bare,), features=(f"{LAST}:3",))


# --- the default set --------------------------------------------------------------------------------------------------


@pytest.mark.default_set
@pytest.mark.timeout(300)
def test_the_default_set_s_number_feature_flips_the_verb(default_set: Path) -> None:
    """Far below its maximum, and a random direction of its length needs many times as much."""
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, device="cpu", dtype="float32"))
    settings = {"pairs": ("tests/data/agreement_train.jsonl",), "features": ("25-res-sc:3792",), "examples": 2}
    result = _study(headless, **settings, unit="max", strongest=10.0, control=True)
    for row in _rows(result, "strengths"):
        assert row["status"] == "flips"
        assert abs(row["strength"]) < 0.5
        assert row["random"] > 2 * abs(row["strength"])
        plural = row["answer"] in (" have", " were", " are", " do")
        assert (row["strength"] < 0) == plural, "it stands for a plural subject"
