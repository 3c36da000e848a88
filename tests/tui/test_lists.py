"""The list, its filter and what follows them: the field is ahead of the state, and no pane comes back empty."""

from __future__ import annotations

import msgspec
import pytest

from engine.protocol import FeatureRef
from tests.tui.driving import SIZES, driving
from tui import reducer


@pytest.mark.parametrize("size", SIZES)
async def test_a_filter_comes_and_goes_and_the_list_still_moves(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.run()
        everything = user.state.rows
        await user.press("3", "j", "j", "slash", *"tower")
        await user.until(lambda s: s.needle == "tower" and s.rows)
        tokens = [t.text for t in user.state.result.tokens] if user.state.result else []
        assert {tokens[row.position] for row in user.state.rows} == {" Tower"}
        await user.press(*"zzz")
        await user.until(lambda s: s.needle == "towerzzz")
        assert "Nothing matches towerzzz" in user.text
        await user.press("enter", "j", "escape")
        await user.until(lambda s: s.needle == "")
        assert user.state.rows == everything
        for _ in range(3):
            before = user.state.feature
            await user.press("j")
            await user.until(lambda s, before=before: s.feature != before)  # type: ignore[misc]
            assert user.state.rows[user.app.inspect.features.list.cursor].ref == user.state.feature


async def test_what_is_selected_but_not_listed_has_no_cursor() -> None:
    async with driving() as user:
        await user.run()
        listed = user.app.inspect.features.list
        assert any(map(listed.is_marked, range(listed.row_count)))
        user.app.change(lambda s: reducer.select_feature(s, FeatureRef("4-res-fk", 4095)))
        await user.until(lambda s: s.feature not in {row.ref for row in s.rows})
        await user.pilot.pause()
        assert not any(map(listed.is_marked, range(listed.row_count)))


async def test_rows_that_change_do_not_take_back_a_cursor_that_moved() -> None:
    """Hints come for the rows just when the user has moved on and nothing has told the app yet."""
    async with driving() as user:
        state = await user.run()
        await user.press("3")
        listed = user.app.inspect.features.list
        listed.move(1)
        hints = {str(row.ref): "hint" for row in state.rows}
        user.app.change(lambda s: msgspec.structs.replace(s, hints={**s.hints, **hints}))
        assert listed.cursor == 1
        user.app.inspect.action_mark()
        assert user.state.marks == (state.rows[1].ref,)
        assert user.state.feature == state.rows[1].ref
        listed.move(1)
        user.app.change(lambda s: reducer.select_feature(s, state.rows[5].ref))
        assert listed.cursor == 5
        user.app.inspect.action_mark()
        assert user.state.marks == (state.rows[1].ref, state.rows[5].ref)


async def test_a_card_that_came_while_hidden_is_there_when_one_looks() -> None:
    async with driving((80, 24)) as user:
        await user.run()
        for _ in range(3):
            await user.press("4")
            await user.until(lambda s: s.card)
            assert "fires on" in user.text
            await user.press("3", "j")
            await user.until(lambda s: s.card and not s.tasks)
            await user.press("enter")
            await user.until(lambda s: s.card)
            assert "fires on" in user.text
            assert "activations over" in user.text


async def test_what_is_wrong_with_a_prompt_is_seen_in_one_column_too() -> None:
    async with driving((80, 24)) as user:
        await user.run()
        await user.press("1", "ctrl+g")
        await user.type("/fail")
        await user.press("enter")
        await user.until(lambda s: s.notice and s.notice.where == "prompt")
        await user.pilot.pause()
        assert user.state.notice is not None
        assert user.state.notice.text[:30] in user.text


async def test_a_filter_that_hides_the_selected_feature_selects_the_first_one_left() -> None:
    async with driving() as user:
        before = (await user.run()).feature
        await user.press("slash", *"tower", "enter")
        state = await user.until(lambda s: s.needle == "tower" and s.card)
        assert before not in {row.ref for row in state.rows}
        assert state.feature == state.rows[0].ref
        await user.press("s")
        assert [row.intervention.feature for row in user.state.steering.rows] == [state.rows[0].ref]
