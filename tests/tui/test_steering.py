"""The steering pane by its keys and its mouse, with the fake engine."""

from __future__ import annotations

import pytest

from engine.protocol import FeatureRef, Intervention
from tests.tui.driving import SIZES, Driver, driving
from tui import reducer
from tui.panes.steering_list import InterventionList
from tui.state import State

MAXIMUM = 44.1


def acting(user: Driver) -> Intervention:
    row = user.state.steering.row
    assert row is not None
    return row.intervention


def listed(user: Driver) -> list[str]:
    """The lines of the interventions."""
    return [line[line.index("[") :] for line in user.lines() if "[x] " in line or "[ ] " in line]


def mark(user: Driver, count: int) -> None:
    """Mark the first features of the list."""
    for row in user.state.rows[:count]:
        user.app.change(lambda s, ref=row.ref: reducer.toggle_mark(s, ref))


async def steering(user: Driver) -> State:
    """A prompt was run and its best feature taken into steering."""
    await user.run()
    await user.press("s")
    assert user.app.inspect.at == "steering"
    return await user.until(lambda s: s.steering.rows and s.cards.get(s.feature))


@pytest.mark.parametrize("size", SIZES)
async def test_steering_streams_two_texts(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await steering(user)
        await user.press("l", "l")
        state = await user.until(lambda s: s.steers and not s.tasks)
        result = state.steers[-1].result
        assert result.interventions == (Intervention(state.feature, 0.5 * MAXIMUM),)  # type: ignore[arg-type]
        assert "plain0" in user.text
        assert "▸ steered1" in user.text
        assert "parts at 1" in user.text
        assert "seed 0 · T .700 · error kept" in user.text
        assert "next: ·of .41" in user.text
        assert "[x]" in user.text
        assert "+.500" in user.text


async def test_every_key_of_the_strength() -> None:
    async with driving() as user:
        await steering(user)
        expected = 0.0
        for key, step in (
            ("right", 0.25), ("l", 0.25), ("left", -0.25), ("h", -0.25), ("L", 0.025), ("shift+right", 0.025),
            ("H", -0.025), ("shift+left", -0.025), ("l", 0.25),
        ):  # fmt: skip
            await user.press(key)
            expected += step * MAXIMUM
            assert acting(user).strength == pytest.approx(expected, abs=1e-4), key
        await user.press("0")
        assert acting(user).strength == 0
        await user.press("equals_sign")
        await user.press(*"-2x", "enter")
        assert acting(user).strength == pytest.approx(-2 * MAXIMUM)
        state = await user.until(lambda s: not s.tasks and s.steers)
        assert state.steers[-1].result.interventions == state.steering.acting
        assert user.app.inspect.steering.list.has_focus


async def test_a_strength_that_is_none_is_said_and_can_be_mended() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("equals_sign", *"much", "enter")
        assert "'much' is not a strength" in user.text
        assert user.app.inspect.steering.field.has_focus
        await user.press("ctrl+u", *"6", "enter")
        assert acting(user).strength == 6
        assert user.state.notice is None
        await user.press("equals_sign", "escape")
        assert user.app.inspect.steering.list.has_focus
        assert not user.app.inspect.steering.field.display


async def test_rows_are_added_moved_over_turned_off_and_deleted() -> None:
    async with driving() as user:
        await steering(user)
        first = user.state.steering.rows[0].intervention.feature
        for _ in range(2):
            await user.press("3", "j", "space")
        marks = user.state.marks
        await user.press("s")
        assert [r.intervention.feature for r in user.state.steering.rows] == [first, marks[1]]
        await user.press("S")
        assert [r.intervention.feature for r in user.state.steering.rows] == [first, marks[1], marks[0]]
        assert len(listed(user)) == 3
        assert user.state.steering.cursor == 1
        await user.press("down")
        assert user.state.steering.cursor == 2
        await user.press("k", "up", "k")
        assert user.state.steering.cursor == 0
        await user.press("j", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        await user.press("x")
        state = await user.until(lambda s: not s.tasks and len(s.steers[-1].result.interventions) == 2)
        assert [r.on for r in state.steering.rows] == [True, False, True]
        assert listed(user)[1].startswith("[ ]")
        assert "1 of 3 off" in user.text
        await user.press("d")
        assert [r.intervention.feature for r in user.state.steering.rows] == [first, marks[0]]
        await user.press("d", "d")
        assert "no feature: select one and press s" in user.text
        await user.press("l")
        assert "There is nothing to steer" in user.text


async def test_rows_added_while_the_pane_is_hidden_are_all_there() -> None:
    async with driving() as user:
        await user.run()
        mark(user, 5)
        await user.press("3", "S")
        await user.pilot.pause()
        assert len(user.state.steering.rows) == 5
        assert len(listed(user)) == 5
        assert "← → change the strength" in user.text


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_many_rows_leave_room_for_the_texts(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.run()
        user.app.steers.take(tuple(FeatureRef("9-res-fk", n) for n in range(40)))
        await user.press("escape", "6", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        assert "plain0" in user.text
        assert "9-res-fk:39 " in user.text
        await user.press(*["k"] * 39)
        assert user.state.steering.cursor == 0
        assert "9-res-fk:0 " in user.text


async def test_steering_the_marked_needs_marks() -> None:
    async with driving() as user:
        await user.run()
        await user.press("S")
        assert "No feature is marked" in user.text
        assert user.app.inspect.at == "tokens"


async def test_kinds_and_positions_regenerate() -> None:
    async with driving((200, 50)) as user:
        await steering(user)
        await user.press("l")
        await user.until(lambda s: s.steers and not s.tasks)
        for shown in ("clamp", "scale", "→ zero", "→ mean", "→ noise", "rescale", "cap", "add"):
            before = user.state.steers
            await user.press("m")
            state = await user.until(lambda s, b=before: s.steers is not b and not s.tasks)
            assert state.steers[-1].result.interventions == state.steering.acting
            assert shown in listed(user)[0]
        for shown in ("generated", "prompt only", "token 7", "all tokens"):
            await user.press("p")
            assert shown in listed(user)[0]
        await user.press("P", "ctrl+u", *"9:2", "enter")
        assert "is an empty range" in user.text
        await user.press("ctrl+u", *"2:5", "enter")
        assert str(acting(user).positions) == "2:5"
        assert "token 2:5" in listed(user)[0] or "2:5" in listed(user)[0]
        state = await user.until(lambda s: not s.tasks)
        assert state.steers[-1].result.interventions == state.steering.acting


async def test_an_ablation_has_no_strength() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("m", "m", "m")
        assert acting(user).kind == "ablate"
        for key in ("l", "H", "0", "equals_sign"):
            await user.press("j", key)
            assert "An ablation has no strength" in user.text
        assert "━" not in listed(user)[0]


async def test_error_seed_settings_live_and_colour() -> None:
    async with driving((200, 50)) as user:
        await steering(user)
        await user.press("l", "D")
        state = await user.until(lambda s: s.steers and not s.tasks and not s.steers[-1].result.keep_error)
        assert "error dropped" in user.text
        await user.press("r")
        state = await user.until(lambda s: not s.tasks and s.steers[-1].result.provenance.settings["seed"] == 1)
        assert "seed 1" in user.text
        await user.press("o")
        field = user.app.inspect.steering.field
        assert field.placeholder == "tokens 40  T 0.7  top-p 1  top-k 0  penalty 1  seed 1  error dropped"
        assert field.value == ""
        field.value = 'tokens 6  T 0  top-p .9  watch " she"  patch "other prompt"'
        await user.press("enter")
        state = await user.until(lambda s: not s.tasks and len(s.steers[-1].result.steps) == 6)
        assert acting(user).patch == "other prompt"
        assert acting(user).to == "patch"
        assert "seed 1 · T 0 · error dropped · top-p .900" in user.text
        assert "·she ." in user.text
        await user.press("o")
        assert field.placeholder.endswith('patch "other prompt"')
        field.value = "tokens none"
        await user.press("enter")
        assert "tokens is a whole number" in user.text
        await user.press("escape")
        assert state.steering.sampling.tokens == 6
        await user.press("v", "f")
        assert user.state.steering.live
        assert " live · seed" in user.text
        assert user.state.steering.colour == "probability"
        assert "p(steered) − p(plain)" in user.text


async def test_the_text_cursor_moves_over_generated_tokens() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("l", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        await user.press("full_stop", "full_stop")
        assert "token 2  plain ·plain2" in user.text
        await user.press("comma")
        assert user.state.steering.token == 1
        await user.press(*["full_stop"] * 60)
        assert user.state.steering.token == 39
        assert "plain39" in user.text.partition("token 39")[0]
        await user.press("pageup", "ctrl+u")
        assert "▸ steered1" in user.text
        await user.press("pagedown", "ctrl+d")
        assert "▸ steered1" not in user.text


async def test_a_click_points_at_a_generated_token() -> None:
    async with driving((120, 40)) as user:
        await steering(user)
        await user.press("l", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        text = user.app.inspect.steering.text
        line = next(n for n, shown in enumerate(text.plain_lines) if "plain4" in shown)
        await user.pilot.click(text, (text.plain_lines[line].index("plain4"), line))
        await user.pilot.pause()
        assert user.state.steering.token == 4
        assert user.app.inspect.steering.list.has_focus


@pytest.mark.parametrize("size", SIZES)
async def test_the_mouse_drags_a_slider_and_clicks_a_box(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await steering(user)
        await user.press("3", "j", "s", "k")
        rows = user.app.inspect.steering.list
        assert isinstance(rows, InterventionList)
        line = listed(user)[1]
        shown = user.lines()[next(n for n, x in enumerate(user.lines()) if line in x)]
        start = shown.index("─", shown.index(line)) - rows.region.x
        width = len(line) - len(line.replace("─", "").replace("●", ""))
        await user.pilot.mouse_down(rows, (start + width // 2, 1))
        for step in range(width // 2 + 4):
            await user.pilot.hover(rows, (start + width // 2 + step, 1))
        await user.pilot.mouse_up(rows, (start + width + 3, 1))
        state = await user.until(lambda s: s.steers and not s.tasks)
        assert state.steering.cursor == 1
        assert acting(user).strength == pytest.approx(4 * MAXIMUM)
        assert state.steers[-1].result.interventions == state.steering.acting
        await user.pilot.hover(rows, (start + 2, 1))
        assert acting(user).strength == pytest.approx(4 * MAXIMUM)
        await user.pilot.click(rows, (2, 0))
        await user.pilot.pause()
        assert [row.on for row in user.state.steering.rows] == [False, True]
        assert user.state.steering.cursor == 0


async def test_only_lines_that_changed_are_drawn_again() -> None:
    async with driving() as user:
        await user.run()
        mark(user, 3)
        await user.press("3", "S")
        await user.press("6", "enter")
        await user.until(lambda s: s.steers and not s.tasks and s.saved)
        pane = user.app.inspect.steering
        drawn: dict[str, set[int]] = {"rows": set(), "text": set()}
        pane.list.redraw_lines = drawn["rows"].update  # type: ignore[method-assign]
        pane.text.redraw_lines = drawn["text"].update  # type: ignore[method-assign]
        await user.press("full_stop")
        assert drawn == {"rows": set(), "text": {1}}
        drawn["text"].clear()
        user.app.steers.do("coarse", 1)
        assert drawn["rows"] == {user.state.steering.cursor}


async def test_a_warning_of_the_engine_is_said_in_the_pane() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("enter")
        await user.until(lambda s: s.steers and not s.tasks)
        assert "add 0 changes nothing" in user.text


async def test_without_a_prompt_there_is_nothing_to_continue() -> None:
    async with driving() as user:
        user.app.steers.take((FeatureRef("9-res-fk", 31),))
        await user.press("escape", "6", "l")
        assert "There is no prompt to continue" in user.text
        assert acting(user).strength > 0
        assert user.state.tasks == ()


async def test_another_prompt_takes_the_texts_away() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("l", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        await user.run("two words")
        await user.press("escape", "6")
        assert "steered1" not in user.text
        assert len(listed(user)) == 1
        await user.press("enter")
        state = await user.until(lambda s: len(s.steers) > 1 and not s.tasks)
        assert state.steers[-1].result.prompt == "two words"
        await user.press("(")
        assert "The Eiffel" in user.state.steering.texts.prompt  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 99, 100, 130, 160, 200])
async def test_numbers_stay_whole_at_every_width(width: int) -> None:
    async with driving((width, 30)) as user:
        await steering(user)
        await user.press("equals_sign", *"2.5x", "enter")
        await user.until(lambda s: s.steers and not s.tasks)
        (line,) = listed(user)
        assert "+2.50" in line
        assert ":" in line
        assert "●" in line
        assert "add" in line
        assert "all" in line
        pane = user.app.inspect.steering.list.size.width
        assert ("word" in line) == (pane >= 68)


async def test_a_feature_is_added_by_its_name() -> None:
    async with driving() as user:
        await user.run()
        await user.press("6", "a", *"4-res-fk:77 9-res-fk:5", "enter")
        state = await user.until(lambda s: len(s.steering.rows) == 2 and s.cards.get(s.feature))
        assert state.feature == FeatureRef("9-res-fk", 5)
        assert state.steering.cursor == 1
        assert user.app.inspect.steering.list.has_focus


@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "No feature was named"), ("4-res-fk", "is not a feature"), ("3-no:1", "No dictionary called 3-no is open"),
     ("4-res-fk:4096", "Its features are 0 to 4095")],
)  # fmt: skip
async def test_a_name_that_is_no_feature_is_said(typed: str, said: str) -> None:
    async with driving() as user:
        await user.run()
        await user.press("6", "a", *typed, "enter")
        await user.until(lambda s: s.notice is not None)
        assert said in user.text
        assert user.state.steering.rows == ()
        assert user.app.inspect.steering.field.value == typed
