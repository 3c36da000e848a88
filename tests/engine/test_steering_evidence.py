"""Controls, sweeps and flips: every figure beside a slow computation of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import BadRequest
from engine.headless import Headless
from engine.opening import OpenSet
from engine.protocol import (
    ControlFound,
    ControlResult,
    FeatureRef,
    Intervention,
    MeasureControl,
    MeasureSweep,
    Open,
    Steer,
    Steered,
    SweepGrown,
    SweepResult,
)
from engine.steering.sweep import smallest_flip, strengths_to_try
from engine.steering.values import random_direction

PROMPT = "in the end of the"


@pytest.fixture
def headless(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> Headless:
    engine = Headless(lambda *_: None)
    engine.ask(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders))))
    return engine


@pytest.fixture
def opened(headless: Headless) -> OpenSet:
    return headless.engine.opened


def _asked(*interventions: Intervention, **settings: Any) -> Steer:
    return Steer(**{"id": 2, "prompt": PROMPT, "interventions": interventions, "tokens": 8, "seed": 1, **settings})


def _add(index: int, strength: float, **more: Any) -> Intervention:
    return Intervention(FeatureRef("1-res-tiny", index), strength, **more)


def _control(headless: Headless, *interventions: Intervention, directions: int = 3, **settings: Any) -> ControlResult:
    request = MeasureControl(id=3, steer=_asked(*interventions, **settings), directions=directions)
    return next(e.result for e in headless.ask(request) if isinstance(e, ControlFound))


def _sweep(headless: Headless, *interventions: Intervention, **settings: Any) -> list[SweepResult]:
    steer = {k: settings.pop(k) for k in ("tokens", "watch", "temperature") if k in settings}
    request = MeasureSweep(id=3, steer=_asked(*interventions, **steer), **settings)
    return [e.result for e in headless.ask(request) if isinstance(e, SweepGrown)]


def _next_logits(opened: OpenSet, vector: Tensor | None) -> Tensor:
    """Of the next token with a vector added after layer 1, by plain torch."""
    ids = torch.tensor([opened.ids(PROMPT, False)])
    layer = opened.model.hf.model.layers[1]
    handle = layer.register_forward_hook(lambda _m, _a, out: out if vector is None else out + vector)
    try:
        with torch.no_grad():
            return opened.model.hf(ids).logits[0, -1]
    finally:
        handle.remove()


def _kl(p: Tensor, q: Tensor) -> float:
    return float(torch.nn.functional.kl_div(q.log_softmax(0), p.log_softmax(0), log_target=True, reduction="sum"))


def test_controls_are_random_directions_of_the_same_norm(headless: Headless, opened: OpenSet) -> None:
    result = _control(headless, _add(3, 5.0))
    row = opened.dictionaries["1-res-tiny"].decoder[3]
    plain = _next_logits(opened, None)
    for arm, direction in [(result.steered, row)] + [
        (arm, random_direction(row, seed, "1-res-tiny:3")) for seed, arm in enumerate(result.controls)
    ]:
        assert float(direction.norm()) == pytest.approx(float(row.norm()), rel=1e-5)
        assert arm.kl_first == pytest.approx(_kl(plain, _next_logits(opened, 5.0 * direction)), rel=1e-3)
    assert len({arm.text for arm in result.controls}) > 1
    assert len(result.controls) == 3


def test_the_arms_of_a_control_are_those_of_steering(headless: Headless) -> None:
    parts = (_add(3, 5.0), _add(9, 1.5, kind="clamp"))
    result = _control(headless, *parts, watch=(" the",))
    run = next(e.result for e in headless.ask(_asked(*parts, watch=(" the",))) if isinstance(e, Steered))
    assert run.scores is not None
    assert run.steps[0].plain is not None
    assert run.steps[0].steered is not None
    assert result.steered.text == run.steered.text
    assert result.plain.text == run.plain.text
    assert result.steered.first_divergence == run.first_divergence
    assert result.steered.kl == pytest.approx(sum(run.kl) / len(run.kl), rel=1e-3)
    assert result.steered.perplexity == pytest.approx(run.scores.steered_perplexity, rel=1e-3)
    assert result.plain.perplexity == pytest.approx(run.scores.plain_perplexity, rel=1e-3)
    assert result.steered.watched == pytest.approx(run.steps[0].steered.watched, rel=1e-3)
    assert result.plain.watched == pytest.approx(run.steps[0].plain.watched, rel=1e-3)


def test_many_controls_come_in_several_batches(headless: Headless) -> None:
    result = _control(headless, _add(3, 5.0), directions=11, tokens=3)
    few = _control(headless, _add(3, 5.0), directions=2, tokens=3)
    assert len(result.controls) == 11
    assert [c.text for c in few.controls] == [c.text for c in result.controls[:2]]


def test_a_sweep_is_one_run_per_strength(headless: Headless) -> None:
    strengths = (4.0, -6.0, 0.0, 9.0)
    parts = (_add(9, 1.0), _add(3, 0.0))
    grown = _sweep(headless, *parts, strengths=strengths, varied=1, controls=1)
    result = grown[-1]
    assert [p.strength for p in result.points] == sorted(strengths)
    assert len(grown) == 1
    for point in result.points:
        run = next(e.result for e in headless.ask(_asked(parts[0], _add(3, point.strength))) if isinstance(e, Steered))
        assert point.steered.text == run.steered.text
        assert point.steered.kl_first == pytest.approx(run.kl[0], rel=1e-3, abs=1e-6)
        assert len(point.controls) == 1


def test_a_long_sweep_grows(headless: Headless) -> None:
    grown = _sweep(headless, _add(3, 0.0), strengths=tuple(range(-9, 10)), tokens=2)
    assert [len(r.points) for r in grown] == [8, 16, 19]
    assert grown[0].points == grown[-1].points[:8]


def test_the_flip_is_where_the_answer_overtakes(headless: Headless, opened: OpenSet) -> None:
    row = opened.dictionaries["1-res-tiny"].decoder[3]
    plain, pushed = _next_logits(opened, None), _next_logits(opened, 40.0 * row)
    letters = [i for i in range(256) if opened.model.tokenizer.text([i]).isascii()]
    rival = max(letters, key=lambda i: float(plain[i] - pushed[i]))
    answer = max(letters, key=lambda i: float(pushed[i] - plain[i]) if plain[i] < plain[rival] else -99.0)
    texts = [opened.model.tokenizer.text([i]) for i in (answer, rival)]
    result = _sweep(
        headless, _add(3, 0.0), strengths=tuple(range(-40, 41, 5)), tokens=1, answer=texts[0], against=texts[1]
    )[-1]
    flip = result.flip
    assert flip is not None
    assert flip.positive is not None
    assert (flip.answer.id, flip.against.id) == (answer, rival)

    def margin(strength: float) -> float:
        logits = _next_logits(opened, strength * row)
        return float(logits[answer] - logits[rival])

    assert flip.margin == pytest.approx(margin(0.0), rel=1e-3)
    assert margin(flip.positive) > 0
    assert margin(flip.positive - 0.05) < 0  # nothing smaller on this step of the grid does it
    unnamed = _sweep(headless, _add(3, 0.0), strengths=(0.0, 40.0), tokens=1, answer=texts[0])[-1].flip
    assert unnamed is not None
    assert unnamed.against.id == int(plain.argmax())


@pytest.mark.parametrize(
    ("edge", "sign", "expected"),
    [(3.2, 1, 3.2), (3.2, -1, None), (100.0, 1, None), (0.0, 1, 0.0)],
)
def test_smallest_flip(edge: float, sign: int, expected: float | None) -> None:
    asked: list[float] = []

    def margin(strength: float) -> float:
        asked.append(strength)
        return strength - edge + (1e-9 if edge == 0 else 0)

    tried = [(float(s), float(s) - edge + (1e-9 if edge == 0 else 0)) for s in range(-5, 6)]
    found = smallest_flip(tried, sign, margin)
    if expected is None:
        assert found is None
        assert asked == []
    else:
        assert found == pytest.approx(expected, abs=0.01)
        assert found is not None
        assert found - edge >= 0


def test_strengths_are_chosen_around_the_maximum(opened: OpenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.steering.sweep.largest_activation", lambda dictionary, index: 10.0)

    def tried(*given: float, **more: Any) -> list[float]:
        return strengths_to_try(opened, _add(3, 1.0, **more), given)

    assert (tried()[0], tried()[8], tried()[16]) == (-40.0, 0.0, 40.0)
    assert tried(unit="max")[16] == 4.0
    assert tried(kind="scale")[::16] == [-1.0, 3.0]
    assert tried(kind="clamp")[::16] == [0.0, 40.0]
    assert tried(3.0, -1.0, 3.0) == [-1.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"varied": 3}, "no intervention 3"),
        ({"controls": 99}, "99 random directions"),
        ({"strengths": tuple(map(float, range(501)))}, "501 strengths"),
        ({"against": " the"}, "none that is sought"),
        ({"answer": " the", "against": " the"}, "compared with itself"),
        ({"answer": "in the"}, "not one"),
        ({}, "maximum of 1-res-tiny:3 is not known"),
    ],
)
def test_bad_sweeps_are_named(headless: Headless, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        _sweep(headless, _add(3, 0.0), **({"strengths": (1.0,)} if "3 is not" not in said else {}) | settings)


def test_an_ablation_cannot_be_swept(headless: Headless) -> None:
    with pytest.raises(BadRequest, match="no strength to vary"):
        _sweep(headless, _add(3, 0.0, kind="ablate"), strengths=(1.0,))


@pytest.mark.parametrize("directions", [0, 51])
def test_bad_controls_are_named(headless: Headless, directions: int) -> None:
    with pytest.raises(BadRequest, match="random directions"):
        _control(headless, _add(3, 1.0), directions=directions)
