"""Steering told in plain text: interventions in words, and strings that would act on a terminal do not."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest

from engine.fake import FakeEngine
from engine.job import Job
from engine.protocol import (
    AblationResult,
    AblationsRanked,
    AnyRequest,
    ControlFound,
    ControlResult,
    Event,
    FeatureRef,
    ImpactFound,
    ImpactResult,
    Intervention,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    Positions,
    RankAblations,
    Steer,
    Steered,
    SteerResult,
    SweepGrown,
    SweepResult,
    Token,
)
from engine.steering_reports import ablation_text, impact_text, steer_text, sweep_text
from engine.steering_results import Change, Flip
from tests.e2e.command import hidden_characters
from tests.nasty import NASTY

E_ = TypeVar("E_", bound=Event)
R_ = TypeVar("R_", bound=msgspec.Struct)

A = FeatureRef("9-res-fk", 7)
PROMPT = "the capital of France is"
STEER = Steer(id=1, prompt=PROMPT, interventions=(Intervention(A, 60.0),), tokens=4, watch=(" of",))
KINDS = (
    (Intervention(A, 60.0), "add +60 (2.4 × max) at all tokens"),
    (Intervention(A, -2.5, unit="max"), "add -2.5 × max (-62.5) at all tokens"),
    (Intervention(A, 3.0, unit_norm=True), "add +3 (0.12 × max) along the unit vector at all tokens"),
    (Intervention(A, 12.0, "clamp", positions=Positions("prompt")), "clamp to 12 (0.48 × max) at the prompt's tokens"),
    (Intervention(A, 0.0, "clamp", positions=Positions("generated")), "clamp to 0 at generated tokens"),
    (Intervention(A, 0.5, "scale", positions=Positions("range", 4, 5)), "scale by 0.5 at token 4"),
    (
        Intervention(A, 2.0, "rescale", positions=Positions("range", 4, 9)),
        "rescale its direction by 2 at tokens 4 to 8",
    ),
    (Intervention(A, 3.0, "cap", positions=Positions("range", 4)), "cap its direction at 3 at tokens from 4 on"),
    (Intervention(A, kind="ablate", special=False), "ablate to zero at all tokens, special ones left out"),
    (Intervention(A, kind="ablate", to="mean"), "ablate to the corpus mean at all tokens"),
    (Intervention(A, kind="ablate", to="noise", seed=3), "ablate to noise (seed 3) at all tokens"),
    (Intervention(A, kind="ablate", to="patch", patch="x\x1b[31m"), "ablate to its value on 'x␛[31m' at all tokens"),
)


def _answer(request: AnyRequest, kind: type[E_]) -> Any:
    """The result in the event of one kind that a fake engine gives last."""
    seen: list[Event] = []
    FakeEngine().handle(request, Job(request.id, seen.append))
    return next(event for event in reversed(seen) if isinstance(event, kind)).result  # type: ignore[attr-defined]


def _run(**changes: Any) -> SteerResult:
    result: SteerResult = msgspec.structs.replace(_answer(STEER, Steered), **changes)
    return result


def _with(result: R_, text: str) -> R_:
    """The same result with `text` wherever a model, a file or a prompt says something."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return text if isinstance(value, str) and key in {"text", "source", "patch", "warnings", "prompt"} else value

    return msgspec.convert(poison(msgspec.to_builtins(result)), type(result))


@pytest.mark.parametrize(("one", "words"), KINDS)
def test_an_intervention_in_words(one: Intervention, words: str) -> None:
    assert steer_text([_run(interventions=(one,), acted=())], maxima={str(A): 25.0}).splitlines()[0] == f"{A} {words}"


def test_the_maximum_need_not_be_known() -> None:
    said = [
        steer_text([_run(interventions=(one,), acted=(1,))]).splitlines()[0]
        for one in (Intervention(A, 60.0), Intervention(A, 2.0, unit="max"))
    ]
    assert said == [f"{A} add +60 at all tokens; acted on 1 token", f"{A} add +2 × max at all tokens; acted on 1 token"]


def test_figures_and_texts_of_a_run() -> None:
    run = _run(first_divergence=2, kl=(0.5, 1.5), warnings=("one", "one", "two"), keep_error=False)
    assert run.scores is not None
    first, steered = run.steps[0].plain, run.steps[0].steered
    assert first is not None
    assert steered is not None
    _, error, *rest = steer_text([run]).splitlines()
    assert error == "error dropped: where one acts, the reconstruction stands"
    assert rest[:3] == ["caution: one", "caution: two", ""]
    assert rest[3] == "KL 0.5 nats at the first token, mean 1; texts part at generated token 2"
    assert rest[4].startswith(f"perplexity under the plain model: plain {run.scores.plain_perplexity:.3g}, steered ")
    assert rest[5] == f"probability at the first token: ·of {first.watched[0]:.3g} → {steered.watched[0]:.3g}"
    assert rest[6:] == ["", f"plain:   {run.plain.text}", "", f"steered: {run.steered.text}"]


def test_an_empty_run_and_one_of_an_older_session() -> None:
    """Nothing was generated, nothing was scored."""
    printed = steer_text([_run(kl=(), steps=(), scores=None, first_divergence=None, acted=())])
    assert "nothing generated; texts part never" in printed
    assert "perplexity" not in printed
    assert "probability" not in printed


def test_a_change_is_told_with_what_changed() -> None:
    kept = Intervention(FeatureRef("9-res-fk", 8), kind="ablate")
    chosen = (Intervention(A, 60.0), kept)
    change = Change(3, (Intervention(A, -1.0, unit="max"), kept))
    back = Change(5, chosen)
    lines = steer_text([_run(interventions=chosen, acted=(), changes=(change, back))]).splitlines()
    assert f"from generated token 3 on: {A} add -1 × max at all tokens" in lines
    assert "from generated token 5 on: as at first" in lines


def test_the_table_of_a_sweep_is_straight() -> None:
    result: SweepResult = _answer(MeasureSweep(id=1, steer=STEER, controls=2, answer=" a", against=" b"), SweepGrown)
    lines = sweep_text(result).splitlines()
    table = lines[2 : lines.index("", 2)]
    assert len(table) == 2 + len(result.points)
    assert len({len(line) for line in (table[0], *table[2:])}) == 1
    assert lines[-1].startswith("logit ·a − ·b = ")


@pytest.mark.parametrize(
    ("margin", "negative", "positive", "said"),
    [
        (-1.0, None, 2.5, "·a is the likelier one from +2.5"),
        (-1.0, -3.0, 2.5, "·a is the likelier one from -3 and from +2.5"),
        (-1.0, None, None, "no strength tried makes ·a the likelier one"),
        (1.0, 0.0, 0.0, "·a is the likelier one already"),
    ],
)
def test_where_an_answer_flips(margin: float, negative: float | None, positive: float | None, said: str) -> None:
    result: SweepResult = _answer(MeasureSweep(id=1, steer=STEER), SweepGrown)
    flip = Flip(Token(1, " a"), Token(2, " b"), margin, positive, negative)
    line = sweep_text(msgspec.structs.replace(result, flip=flip)).splitlines()[-1]
    assert line == f"logit ·a − ·b = {margin:+.3g} without steering; {said}"


@pytest.mark.parametrize("text", NASTY)
def test_nothing_acts_on_a_terminal(text: str) -> None:
    patched = Intervention(A, kind="ablate", to="patch", patch="x")
    steer = msgspec.structs.replace(STEER, interventions=(patched, Intervention(A, 2.0, unit="max")))
    run: SteerResult = msgspec.structs.replace(
        _answer(steer, Steered), warnings=("w",), changes=(Change(1, (patched,)),)
    )
    control: ControlResult = _answer(MeasureControl(id=1, steer=steer), ControlFound)
    sweep: SweepResult = _answer(
        MeasureSweep(id=1, steer=steer, varied=1, controls=1, answer=" a", against=" b"), SweepGrown
    )
    impact: ImpactResult = _answer(MeasureImpact(id=1, prompt=PROMPT, interventions=(patched,)), ImpactFound)
    ranked: AblationResult = _answer(RankAblations(id=1, prompt=PROMPT), AblationsRanked)
    for printed in (
        steer_text([_with(run, text)] * 2, [_with(control, text)] * 2),
        sweep_text(_with(sweep, text)),
        impact_text(_with(impact, text)),
        ablation_text(_with(ranked, text)),
    ):
        assert hidden_characters(printed) == set()
        assert len(printed.splitlines()) > 5
