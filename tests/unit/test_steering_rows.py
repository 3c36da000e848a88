"""What the user does to rows and settings of steering."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fake import fake_card
from engine.protocol import CardRead, FeatureRef, Intervention, Positions
from tests.samples import WITH_PAGE, WITHOUT_PAGE
from tests.unit.test_reducer import after, one_run
from tui import reducer, steering_rows
from tui.state import State
from tui.steering_state import mark_of, parse_strength, reach_of, strength_of, with_strength

SCALE = 44.1


def row(state: State) -> Intervention:
    assert state.steering.row is not None
    return state.steering.row.intervention


def start() -> State:
    """A row at zero of a feature whose maximum is known."""
    return steering_rows.add(after(one_run(), CardRead(card=fake_card(WITH_PAGE))), WITH_PAGE)


def test_a_feature_has_one_row_and_others_stay() -> None:
    state = steering_rows.put_strength(start(), 0, 5.0)
    state = steering_rows.add(state, WITHOUT_PAGE)
    assert [r.intervention for r in state.steering.rows] == [Intervention(WITH_PAGE, 5.0), Intervention(WITHOUT_PAGE)]
    assert state.steering.cursor == 1
    again = steering_rows.add(state, WITH_PAGE)
    assert (again.steering.rows, again.steering.cursor) == (state.steering.rows, 0)
    assert steering_rows.add(again, WITH_PAGE) is again


def test_all_marked_features_get_rows() -> None:
    state = steering_rows.add_all(start(), (WITHOUT_PAGE, WITH_PAGE))
    assert [r.intervention.feature for r in state.steering.rows] == [WITH_PAGE, WITHOUT_PAGE]


def test_many_small_steps_come_back_to_zero() -> None:
    state = start()
    for _ in range(30):
        state = steering_rows.step(state, 1, fine=True)
    assert row(state).strength == pytest.approx(30 * 0.025 * SCALE, abs=1e-3)
    for _ in range(30):
        state = steering_rows.step(state, -1, fine=True)
    assert row(state).strength == 0


def test_a_coarse_step_is_a_quarter_of_the_maximum_or_of_a_factor() -> None:
    assert row(steering_rows.step(start(), 1)).strength == pytest.approx(SCALE / 4)
    scale = steering_rows.put_rows(start(), (Intervention(WITH_PAGE, 1.0, kind="scale"),))
    assert row(steering_rows.step(scale, -1)).strength == 0.75
    assert row(steering_rows.to_mark(steering_rows.step(scale, -1))).strength == 1.0
    assert row(steering_rows.to_mark(steering_rows.step(start(), -1))).strength == 0.0


def test_multiples_of_the_maximum_become_raw_where_they_are_changed() -> None:
    state = steering_rows.put_rows(start(), (Intervention(WITH_PAGE, 2.0, unit="max"),))
    assert row(steering_rows.step(state, 1)) == Intervention(WITH_PAGE, 99.225)


def test_ablation_has_no_strength_to_change() -> None:
    state = steering_rows.put_rows(start(), (Intervention(WITH_PAGE, kind="ablate"),))
    assert steering_rows.step(state, 1) is state
    assert steering_rows.slide(state, 0, 0.5) is state


def test_the_kinds_go_round_and_strengths_are_remembered() -> None:
    state = steering_rows.put_strength(start(), 0, 20.0)
    seen = []
    for _ in range(8):
        seen.append((row(state).kind, row(state).to, row(state).strength))
        state = steering_rows.next_kind(state)
        if row(state).kind == "scale" and row(state).strength == 1.0:
            state = steering_rows.put_strength(state, 0, 1.5)
    assert seen == [
        ("add", "zero", 20.0),
        ("clamp", "zero", 20.0),
        ("scale", "zero", 1.5),
        ("ablate", "zero", 0.0),
        ("ablate", "mean", 0.0),
        ("ablate", "noise", 0.0),
        ("rescale", "zero", 1.5),
        ("cap", "zero", 20.0),
    ]
    assert row(state) == Intervention(WITH_PAGE, 20.0)


def test_a_patch_makes_the_row_an_ablation_to_it() -> None:
    state = steering_rows.put_patch(steering_rows.put_strength(start(), 0, 20.0), "The key")
    assert (row(state).kind, row(state).to, row(state).patch) == ("ablate", "patch", "The key")
    kinds = []
    for _ in range(9):
        state = steering_rows.next_kind(state)
        kinds.append(row(state).to)
    assert kinds.count("patch") == 1
    state = steering_rows.put_patch(state, None)
    assert (row(state).kind, row(state).to, row(state).patch) == ("ablate", "zero", None)


def test_positions_go_round_and_know_the_token_cursor() -> None:
    state = reducer.select_token(start(), 3)
    seen = []
    for _ in range(5):
        seen.append(str(row(state).positions))
        state = steering_rows.next_positions(state)
    assert seen == ["all", "generated", "prompt", "3", "all"]
    typed = steering_rows.put_positions(state, Positions("range", 2, 9))
    assert row(steering_rows.next_positions(typed)).positions == Positions("all")


def test_rows_can_be_turned_off_and_deleted() -> None:
    state = steering_rows.add(start(), WITHOUT_PAGE)
    off = steering_rows.toggle(state, 0)
    assert [one.feature for one in off.steering.acting] == [WITHOUT_PAGE]
    assert steering_rows.toggle(off, 0).steering == state.steering
    one = steering_rows.delete(state)
    assert (len(one.steering.rows), one.steering.cursor) == (1, 0)
    none = steering_rows.delete(one)
    assert none.steering.rows == ()
    assert none.steering.row is None
    for change in (steering_rows.to_mark, steering_rows.next_kind, steering_rows.next_positions):
        assert change(none) is none
    assert steering_rows.step(none, 1) is none
    assert steering_rows.put_patch(none, "x") is none


def test_presets_are_replaced_by_name_and_hold_what_is_on() -> None:
    state = steering_rows.toggle(steering_rows.add(start(), WITHOUT_PAGE), 0)
    state = steering_rows.keep_preset(state, "quiet")
    assert [p.interventions for p in state.presets] == [(Intervention(WITHOUT_PAGE),)]
    state = steering_rows.keep_preset(steering_rows.toggle(state, 0), "quiet")
    assert [len(p.interventions) for p in state.presets] == [2]


@pytest.mark.parametrize(
    ("typed", "kind", "strength"),
    [
        ("60", "add", 60.0),
        (" −2.5x ", "add", -2.5 * SCALE),
        ("2×", "clamp", 2 * SCALE),
        ("1.5", "scale", 1.5),
        ("1.5x", "scale", 1.5),
        ("0", "add", 0.0),
        ("x", "add", None),
        ("nan", "add", None),
        ("1e9", "add", None),
        ("", "add", None),
    ],
)
def test_strengths_can_be_typed(typed: str, kind: str, strength: float | None) -> None:
    one = Intervention(WITH_PAGE, kind=kind)  # type: ignore[arg-type]
    assert parse_strength(typed, one, SCALE) == (pytest.approx(strength) if strength is not None else None)


@given(st.sampled_from(["add", "clamp", "scale", "rescale", "cap"]), st.floats(-1, 1), st.floats(0.01, 1000))
def test_the_slider_and_the_strength_are_each_others_inverse(kind: str, share: float, scale: float) -> None:
    one = Intervention(FeatureRef("9-res-fk", 4001), kind=kind)  # type: ignore[arg-type]
    moved = with_strength(one, mark_of(one) + share * reach_of(one, scale))
    back = (strength_of(moved, scale) - mark_of(moved)) / reach_of(moved, scale)
    assert back == pytest.approx(share, abs=1e-4 / reach_of(one, scale))
