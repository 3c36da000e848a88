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


@pytest.mark.parametrize("way", ["k", "J", "click"])
async def test_a_cursor_that_was_hidden_comes_back_with_the_first_movement(way: str) -> None:
    async with driving() as user:
        state = await user.run()
        await user.press("3", "g")
        listed = user.app.inspect.features.list
        elsewhere = FeatureRef("4-res-fk", 4095)
        user.app.change(lambda s: reducer.select_feature(s, elsewhere))
        await user.pilot.pause()
        assert (listed.cursor, listed.is_marked(0)) == (0, False)
        if way == "click":
            await user.pilot.click("#feature-list", offset=(5, 1))
        else:
            await user.press(way)
        wanted = state.rows[1 if way == "J" else 0].ref
        await user.until(lambda s: s.feature == wanted)
        assert listed.is_marked(listed.cursor)
        await user.press("space")
        assert user.state.marks == (wanted,)


async def test_a_key_that_moves_nothing_leads_nowhere() -> None:
    async with driving() as user:
        state = await user.run()
        await user.press("3", "g")
        await user.until(lambda s: s.feature == state.rows[0].ref)
        listed = user.app.inspect.features.list
        listed.move(-1)
        assert listed.ahead is None
        assert listed.cursor == 0


async def test_rows_reordered_before_a_movement_is_told_do_not_undo_it() -> None:
    """Where the cursor was put stands now what is selected, and what it was put on stands elsewhere."""
    async with driving() as user:
        everything = (await user.run()).rows
        await user.press("3")
        site = next(row.ref.source for row in everything if row.ref.source != everything[0].ref.source)
        some = [row for row in everything if row.ref.source == site]
        place = next(n for n, row in enumerate(some) if everything.index(row) == n + 1)
        user.app.change(lambda s: msgspec.structs.replace(s, site=site, feature=some[place].ref))
        await user.until(lambda s: s.card)
        listed = user.app.inspect.features.list
        assert listed.cursor == place
        listed.move(1)
        user.app.change(lambda s: msgspec.structs.replace(s, site=None))
        assert listed.rows[place + 1].ref == user.state.feature
        await user.until(lambda s: s.feature == some[place + 1].ref)
        assert listed.rows[listed.cursor].ref == user.state.feature


async def test_a_change_of_size_or_theme_does_not_take_back_a_cursor_that_moved() -> None:
    async with driving() as user:
        state = await user.run()
        await user.press("3", "g")
        await user.until(lambda s: s.feature == state.rows[0].ref)
        listed = user.app.inspect.features.list
        listed.move(1)
        user.app.inspect.show(user.state, None)
        assert listed.cursor == 1
        await user.until(lambda s: s.feature == state.rows[1].ref)


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
