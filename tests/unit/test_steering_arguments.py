"""Interventions as typed: groups of options, strengths, changes, and what is refused before a model is loaded."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.commands.common import one_line_errors
from engine.commands.groups import Grouped, preset_reader, typed
from engine.errors import BadRequest
from engine.protocol import FeatureRef, Intervention, Positions
from engine.steering_results import KINDS
from engine.typed_interventions import (
    STRONGEST,
    Typed,
    read_changes,
    read_interventions,
    read_strength,
    read_strengths,
)

A, B = FeatureRef("1-res", 3), FeatureRef("2-res", 5)
PRESET = (Intervention(FeatureRef("9-res", 9), 1.5), Intervention(FeatureRef("9-res", 8), kind="ablate"))


def _parsed(*arguments: str) -> tuple[Intervention, ...]:
    """What the options mean, through a real command."""
    found: list[tuple[Intervention, ...]] = []
    app = typer.Typer()

    @app.callback()
    def outside(context: typer.Context) -> None:
        context.obj = lambda name: PRESET if name == "mine" else ()

    @app.command("go", cls=Grouped)
    def go(context: typer.Context, prompt: str, tokens: Annotated[int, typer.Option()] = 1) -> None:
        found.append(read_interventions(typed(context), preset_reader(context)))

    done = CliRunner().invoke(app, ["go", *arguments])
    if done.exception is not None:
        raise done.exception
    return found[0]


# --- groups -------------------------------------------------------------------------------------------------------


def test_each_feature_begins_a_group() -> None:
    found = _parsed(
        "--feature", "1-res:3", "--add=-3", "--unit-norm", "--positions", "2:9", "--no-special", "the prompt",
        "--tokens", "3", "--feature=2-res:5", "--ablate", "patch", "--patch", "another --add", "--feature", "1-res:4",
        "--ablate", "noise", "--noise-seed", "7", "--positions=generated", "--feature", "1-res:6", "--clamp", "-1.5x",
    )  # fmt: skip
    assert found == (
        Intervention(A, -3.0, unit_norm=True, positions=Positions("range", 2, 9), special=False),
        Intervention(B, kind="ablate", to="patch", patch="another --add"),
        Intervention(FeatureRef("1-res", 4), kind="ablate", to="noise", seed=7, positions=Positions("generated")),
        Intervention(FeatureRef("1-res", 6), -1.5, kind="clamp", unit="max"),
    )


def test_the_nth_feature_takes_the_nth_strength_where_all_features_come_first() -> None:
    both = (Intervention(A, 3.0), Intervention(B, -2.0))
    assert _parsed("x", "--feature", "1-res:3", "--add", "3", "--feature", "2-res:5", "--add", "-2") == both
    assert _parsed("--feature", "1-res:3", "--feature", "2-res:5", "--add", "3", "--add", "-2", "x") == both
    found = _parsed(
        "x", "--feature", "1-res:3", "--feature", "2-res:5", "--add", "3", "--positions", "prompt", "--scale", "0"
    )
    assert found == (Intervention(A, 3.0, positions=Positions("prompt")), Intervention(B, 0.0, kind="scale"))


def test_presets_stand_where_they_were_typed() -> None:
    found = _parsed("x", "--feature", "1-res:3", "--add", "3", "--preset", "mine", "--feature", "2-res:5", "--cap", "2")
    assert found == (Intervention(A, 3.0), *PRESET, Intervention(B, 2.0, kind="cap"))
    assert _parsed("x", "--preset", "mine") == PRESET


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "There is nothing to steer with."),
        ("--preset none", "There is nothing to steer with."),
        ("--add 1", "--add 1 stands before any --feature."),
        ("--unit-norm --feature a:1", "--unit-norm stands before any --feature."),
        ("--preset mine --add 1", "--add 1 follows a preset, not a --feature."),
        ("--feature a:1", "a:1 has no --add, --clamp, --scale, --ablate, --rescale or --cap."),
        ("--feature a:1 --unit-norm", "a:1 has no --add"),
        ("--feature a:1 --feature a:2 --add 1", "a:1 has no --add"),
        ("--feature a:1 --add 1 --feature a:2", "a:2 has no --add"),
        ("--feature a:1 --add 1 --add 2", "a:1 has both --add 1 and --add 2."),
        ("--feature a:1 --add 1 --scale 2", "a:1 has both --add 1 and --scale 2."),
        ("--feature a:1 --feature a:2 --add 1 --add 2 --add 3", "a:1 has no --add"),
        ("--feature a:1 --feature a:2 --positions 1 --add 1 --add 2", "It is not clear to which feature --positions 1"),
        ("--feature a:1 --add 1 --positions all --positions 2", "a:1 has --positions twice."),
        ("--feature a:1 --add 1 --unit-norm --unit-norm", "a:1 has --unit-norm twice."),
        ("--feature a --add 1", "'a' is not a feature."),
        ("--feature a:-1 --add 1", "'a:-1' is not a feature."),
        ("--feature a:1 --clamp 1 --unit-norm", "--unit-norm has no meaning for --clamp. Give it with --add."),
        ("--feature a:1 --add 1 --patch x", "--patch has no meaning for --add. Give it with --ablate patch."),
        ("--feature a:1 --cap 1 --noise-seed 2", "--noise-seed has no meaning for --cap. Give it with --ablate noise."),
        ("--feature a:1 --ablate zero --patch x", "--patch has no meaning for --ablate zero."),
        ("--feature a:1 --ablate patch", "--ablate patch needs a prompt to take the value from."),
        ("--feature a:1 --ablate patch --patch x --noise-seed 1", "--noise-seed has no meaning for --ablate patch."),
        ("--feature a:1 --ablate noise --noise-seed -1", "'-1' is not a seed."),
        ("--feature a:1 --ablate noise --noise-seed 9223372036854775808", "is not a seed."),
        ("--feature a:1 --ablate all", "'all' is nothing to ablate to. Use zero, mean, patch or noise."),
        ("--feature a:1 --add much", "'much' is not a strength."),
        ("--feature a:1 --add x", "'x' is not a strength."),
        ("--feature a:1 --add nan", "'nan' is not a strength."),
        ("--feature a:1 --clamp -infx", "'-infx' is not a strength."),
        ("--feature a:1 --add 1e30", "'1e30' is not a strength."),
        ("--feature a:1 --scale 2x", "--scale is not measured in multiples of the maximum."),
        ("--feature a:1 --add 1 --positions last", "'last' names no positions."),
        ("--feature a:1 --add 1 --positions 3:3", "'3:3' is an empty range."),
    ],
)
def test_what_is_refused(line: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        _parsed("prompt", *line.split())
    assert said in str(refused.value)
    assert refused.value.remedy


def test_without_someone_who_reads_presets_they_are_refused() -> None:
    app = typer.Typer()

    @app.command(cls=Grouped)
    @one_line_errors
    def go(context: typer.Context) -> None:
        read_interventions(typed(context), preset_reader(context))

    done = CliRunner().invoke(app, ["--preset", "mine"])
    assert (done.exit_code, done.stderr) == (2, "saescope: Presets cannot be read here. Use --feature.\n")


# --- round trips --------------------------------------------------------------------------------------------------

_numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e29, max_value=1e29)
_features = st.builds(FeatureRef, st.from_regex(r"[\w-]+", fullmatch=True), st.integers(0, 10**9))
_positions = st.one_of(
    st.sampled_from([Positions(), Positions("prompt"), Positions("generated")]),
    st.builds(
        lambda start, length: Positions("range", start, None if length is None else start + length),
        st.integers(0, 10**6),
        st.none() | st.integers(1, 1000),
    ),
)
_prompts = st.text(st.characters(codec="utf-8"))
_where: dict[str, Any] = {"positions": _positions, "special": st.booleans()}
_units = st.sampled_from(["raw", "max"])
_interventions = st.one_of(
    st.builds(Intervention, _features, _numbers, unit=_units, unit_norm=st.booleans(), **_where),
    st.builds(Intervention, _features, _numbers, st.just("clamp"), unit=_units, **_where),
    st.builds(Intervention, _features, _numbers, st.sampled_from(["scale", "rescale", "cap"]), **_where),
    st.builds(Intervention, _features, kind=st.just("ablate"), to=st.sampled_from(["zero", "mean"]), **_where),
    st.builds(
        Intervention, _features, kind=st.just("ablate"), to=st.just("noise"), seed=st.integers(0, 2**63 - 1), **_where
    ),
    st.builds(Intervention, _features, kind=st.just("ablate"), to=st.just("patch"), patch=_prompts, **_where),
)


def _words(one: Intervention, *, equals: bool) -> list[list[str]]:
    """The options that mean an intervention, those of its group in one list each."""
    suffix = "x" if one.unit == "max" else ""
    options = [
        ("feature", str(one.feature)),
        (one.kind, one.to if one.kind == "ablate" else f"{one.strength!r}{suffix}"),
    ]
    options += [("unit-norm", "")] * one.unit_norm + [("no-special", "")] * (not one.special)
    options += [("positions", str(one.positions))] * (one.positions != Positions())
    options += [("patch", one.patch or "")] * (one.to == "patch") + [("noise-seed", str(one.seed))] * (
        one.to == "noise"
    )
    flags = {"unit-norm", "no-special"}
    return [
        [f"--{name}"] if name in flags else [f"--{name}={value}"] if equals else [f"--{name}", value]
        for name, value in options
    ]


@given(st.lists(_interventions, min_size=1, max_size=4), st.booleans())
@example([Intervention(A, -3.5), Intervention(A, -0.0)], False)
def test_what_is_typed_comes_back(wanted: list[Intervention], equals: bool) -> None:
    line = [word for one in wanted for option in _words(one, equals=equals) for word in option]
    assert list(_parsed("prompt", *line)) == wanted


@given(st.lists(_interventions, min_size=2, max_size=4))
def test_and_with_all_features_first(wanted: list[Intervention]) -> None:
    parts = [_words(one, equals=True) for one in wanted]
    line = [first[0] for first, *_ in parts] + [option[0] for _, *rest in parts for option in rest]
    assert list(_parsed("prompt", *line)) == wanted


@given(st.lists(st.tuples(st.sampled_from(["feature", "preset", "positions", "patch", *KINDS]), st.text(max_size=5))))
def test_whatever_is_typed_it_is_understood_or_refused(options: list[tuple[str, str]]) -> None:
    try:
        found = read_interventions([Typed(*one) for one in options], lambda name: PRESET)
    except BadRequest:
        return
    assert found
    assert all(math.isfinite(one.strength) for one in found)


# --- strengths ----------------------------------------------------------------------------------------------------


def test_strengths_in_both_units() -> None:
    assert read_strength("add", "8") == (8.0, "raw")
    assert read_strength("add", " -2.5X ") == (-2.5, "max")
    assert read_strength("clamp", "1e3×") == (1000.0, "max")
    assert read_strength("cap", "-1e-3") == (-0.001, "raw")


@given(st.text(max_size=8))
def test_a_strength_is_a_number_the_model_survives_or_is_refused(text: str) -> None:
    try:
        value, _ = read_strength("add", text)
    except BadRequest:
        return
    assert abs(value) < STRONGEST


def test_a_range_and_a_list_of_strengths() -> None:
    values, unit = read_strengths("-4x:4x:17", "add")
    assert (unit, len(values), values[0], values[8], values[-1]) == ("max", 17, -4.0, 0.0, 4.0)
    assert read_strengths("0:1:11", "add")[0][3] == 0.3, "as one would write it"
    assert read_strengths("2x,0,1x,2x", "clamp") == ((0.0, 1.0, 2.0), "max")
    assert read_strengths("3", "scale") == ((3.0,), "raw")
    assert read_strengths("0", "add") == ((0.0,), None)
    assert read_strengths("1:-1:3", "add")[0] == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a strength."),
        ("1,,2", "'' is not a strength."),
        ("1,2x", "'1,2x' mixes multiples of the maximum with plain numbers."),
        ("-1x:1:3", "mixes multiples"),
        ("1:2", "'1:2' is not a range of strengths."),
        ("1:2:1", "is not a range of strengths."),
        ("1:2:many", "is not a range of strengths."),
        ("1:2:501", "is not a range of strengths."),
        ("1:2:3:4", "is not a range of strengths."),
        ("1:inf:3", "'inf' is not a strength."),
        (",".join(["1"] * 501), "501 are too many strengths."),
    ],
)
def test_strengths_that_are_none(text: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_strengths(text, "add")
    assert said in str(refused.value)


@given(_numbers, _numbers, st.integers(2, 500))
def test_a_range_has_its_ends_and_rises(low: float, high: float, count: int) -> None:
    values, _ = read_strengths(f"{low!r}:{high!r}:{count}", "scale")
    assert values[-1] == pytest.approx(max(low, high), rel=1e-11)
    assert values[0] == pytest.approx(min(low, high), rel=1e-11)
    assert list(values) == sorted(set(values))
    assert len(values) <= count


def test_changes_of_the_first_strength() -> None:
    chosen = (Intervention(A, 3.0), Intervention(B, kind="ablate"))
    found = read_changes(["12:20", "3:-1x"], chosen, 40)
    assert found == {
        12: (Intervention(A, 20.0), chosen[1]),
        3: (Intervention(A, -1.0, unit="max"), chosen[1]),
    }
    assert read_changes([], chosen, 40) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20", "'20' is not a change. Write STEP:STRENGTH"),
        (":20", "':20' is not a change."),
        ("-1:20", "'-1:20' is not a change."),
        ("0:20", "A strength cannot change at generated token 0. Change it from token 1 to 39."),
        ("40:20", "A strength cannot change at generated token 40."),
        ("3:fast", "'fast' is not a strength."),
        ("3:nan", "'nan' is not a strength."),
    ],
)
def test_changes_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_changes([text], (Intervention(A, 3.0),), 40)
    assert said in str(refused.value)


def test_a_step_twice_and_an_ablation_cannot_change() -> None:
    with pytest.raises(BadRequest, match="changed twice at token 3"):
        read_changes(["3:1", "3:2"], (Intervention(A, 3.0),), 40)
    with pytest.raises(BadRequest, match="1-res:3 is ablated, which has no strength"):
        read_changes(["3:1"], (Intervention(A, kind="ablate"),), 40)
    with pytest.raises(BadRequest, match="Generate more --tokens"):
        read_changes(["1:1"], (Intervention(A, 3.0),), 1)
