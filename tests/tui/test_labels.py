"""Labels on the screen: shown where features are listed, found by words, given by the user, kept in the session."""

from __future__ import annotations

import pytest
from textual import events

from engine.protocol import EngineFault, Failed, FeatureRef
from sessions.store import new_session
from tests.tui.driving import SIZES, Driver, driving, replaying
from tui import reducer
from tui.recorder import to_session
from tui.screens.asking import AskPage
from tui.screens.labels import LabelsPage
from tui.screens.numbers import NumbersPage
from tui.state import State


def labelled(state: State) -> list[FeatureRef]:
    return [row.ref for row in state.rows if row.label]


def page(user: Driver) -> LabelsPage:
    assert isinstance(user.app.screen, LabelsPage)
    return user.app.screen


def at_once(user: Driver, *keys: str) -> None:
    """Keys that arrive in one piece, as over a slow line."""
    for key in keys:
        user.app.post_message(events.Key(key, key if len(key) == 1 else None))


async def ready(user: Driver) -> State:
    await user.run()
    return await user.until(lambda s: s.labels)


@pytest.mark.parametrize("size", SIZES)
async def test_a_label_stands_in_the_list_and_on_the_card(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        state = await ready(user)
        refs = labelled(state)
        assert 0 < len(refs) < len(state.rows)
        assert {ref.index % 3 for ref in refs} == {0}
        await user.press("escape", "3")
        assert any(line.rstrip().endswith(" label") for line in user.lines())
        place = state.rows.index(next(row for row in state.rows if row.ref == refs[0]))
        await user.press("g", *["j"] * place)
        await user.until(lambda s: s.feature == refs[0] and s.card)
        await user.press("4")
        assert f"“{state.labels[str(refs[0])]}”" in user.text


async def test_the_filter_knows_labels() -> None:
    async with driving() as user:
        state = await ready(user)
        word = state.labels[str(labelled(state)[0])]
        await user.press("escape", "slash", *(c if c != " " else "space" for c in word))
        after = await user.until(lambda s: s.needle == word)
        assert after.rows
        assert {row.label for row in after.rows} == {word}


async def test_ones_own_label_comes_first_and_can_be_taken_away() -> None:
    async with driving() as user:
        state = await ready(user)
        feature = labelled(state)[0]
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, feature))
        theirs = state.labels[str(feature)]
        await user.until(lambda s: s.card)
        await user.press("N")
        assert isinstance(user.app.screen, AskPage)
        await user.press(*"mine", "enter")
        state = await user.until(lambda s: s.labels.get(str(feature)) == "mine")
        assert [label.text for label in state.cards[feature].labels] == ["mine", theirs]
        assert to_session(state, new_session(state.opening)).labels[str(feature)] == "mine"
        await user.press("N")
        assert user.app.screen.field.value == "mine"
        await user.press("ctrl+u", "enter")
        state = await user.until(lambda s: s.labels.get(str(feature)) == theirs)
        assert [label.text for label in state.cards[feature].labels] == [theirs]


async def test_two_labels_given_at_once_are_both_kept() -> None:
    """A newer request supersedes an older one of its kind; not where that would lose what the user wrote."""
    async with driving() as user:
        await ready(user)
        first, second = FeatureRef("4-res-fk", 1), FeatureRef("4-res-fk", 2)
        user.app.labels.put(first, "one")
        user.app.labels.put(second, "two")
        await user.until(lambda s: s.labels.get(str(first)) == "one" and s.labels.get(str(second)) == "two")


@pytest.mark.parametrize("size", SIZES)
async def test_a_feature_is_found_by_the_words_of_its_label(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await ready(user)
        await user.press("escape", "B")
        await user.until(lambda s: s.found is not None)
        assert "3000 labels" in user.text
        await user.press(*"capital")
        state = await user.until(lambda s: s.found is not None and s.found.query == "capital")
        assert state.found is not None
        assert 0 < len(state.found.hits) < state.found.total
        assert f"Labels · {len(state.found.hits)} of {state.found.total}" in user.text
        assert all(hit.label.text == "capital cities" for hit in page(user).list.hits)
        await user.press("down", "enter")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == state.found.hits[1].feature
        await user.until(lambda s: s.card)
        assert "“capital cities”" in user.text


async def test_labels_like_a_feature_and_like_what_was_found() -> None:
    async with driving() as user:
        state = await ready(user)
        feature = labelled(state)[0]
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, feature))
        await user.press("tilde")
        state = await user.until(lambda s: s.found is not None and s.found.like == feature)
        assert f"Labels like {feature}" in user.text
        await user.press("down", "tab")
        assert state.found is not None
        wanted = state.found.hits[1].feature
        await user.until(lambda s: s.found is not None and s.found.like == wanted)
        await user.press("escape")
        await user.until(lambda s: s.found is not None and s.found.like == feature)
        assert page(user).list.cursor == 1
        await user.press("escape")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == feature


async def test_keys_that_come_at_once_move_and_take() -> None:
    async with driving() as user:
        await user.press("escape", "B", *"capital")
        found = (await user.until(lambda s: s.found is not None and s.found.query == "capital")).found
        assert found is not None
        at_once(user, "down", "down", "down", "pagedown", "up", "pageup", "down")
        await user.pilot.pause()
        assert page(user).list.cursor == 3
        assert page(user).field.has_focus
        at_once(user, "down", "enter")
        await user.until(lambda s: s.feature == found.hits[4].feature)
        assert user.app.screen is user.app.inspect


async def test_enter_right_after_typing_takes_what_these_words_find() -> None:
    async with driving() as user:
        await user.press("escape", "B", *"towns")
        await user.until(lambda s: s.found is not None and s.found.query == "towns")
        await user.press("ctrl+u")
        await user.until(lambda s: s.found is not None and not s.found.query)
        at_once(user, *"landmark", "enter")
        state = await user.until(lambda s: s.feature is not None and s.card)
        assert state.card is not None
        assert state.card.labels[0].text == "landmarks"


async def test_typing_leaves_labels_like_another() -> None:
    async with driving() as user:
        await user.press("escape", "B", *"capital")
        await user.until(lambda s: s.found is not None and s.found.query == "capital")
        await user.press("ctrl+l")
        await user.until(lambda s: s.found is not None and s.found.like is not None)
        assert page(user).field.value == ""
        assert "esc back" in user.text
        await user.press("escape")
        await user.until(lambda s: s.found is not None and s.found.like is None)
        assert page(user).field.value == "capital"
        assert "esc closes" in user.text
        await user.press("tab")
        await user.until(lambda s: s.found is not None and s.found.like is not None)
        await user.press(*"town")
        await user.until(lambda s: s.found is not None and s.found.query == "town")
        assert "esc closes" in user.text
        await user.press("escape")
        assert user.app.screen is user.app.inspect


@pytest.mark.parametrize("size", SIZES)
async def test_the_keys_stand_whole_in_the_heading(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.press("escape", "B", *"capital")
        await user.until(lambda s: s.found is not None and s.found.query == "capital")
        assert user.lines()[0].endswith("↑↓ · enter takes · tab like it · esc closes")
        await user.press("tab")
        await user.until(lambda s: s.found is not None and s.found.like is not None)
        assert user.lines()[0].endswith("↑↓ · enter takes · tab like it · esc back")
        assert "Labels like 4-res-fk:" in user.lines()[0]


async def test_a_click_moves_and_another_takes() -> None:
    async with driving() as user:
        await user.press("escape", "B", *"capital")
        state = await user.until(lambda s: s.found is not None and s.found.query == "capital")
        assert state.found is not None
        wanted = state.found.hits[2].feature
        await user.pilot.click("#label-list", offset=(5, 2))
        assert page(user).list.cursor == 2
        assert page(user).field.has_focus
        await user.pilot.click("#label-list", offset=(5, 2))
        await user.until(lambda s: s.feature == wanted)


async def test_a_feature_without_a_label_has_none_like_it() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, FeatureRef("4-res-fk", 1)))
        await user.until(lambda s: s.card)
        await user.press("tilde")
        assert user.app.screen is user.app.inspect
        assert "4-res-fk:1 has no label. N gives it one" in " ".join(user.text.split())


async def test_why_nothing_can_be_compared_is_said_on_the_page() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, FeatureRef("4-res-fk", 3)))
        await user.until(lambda s: s.card)
        await user.press("tilde")
        await user.until(lambda s: s.found is not None)
        error = EngineFault("bad_request", "No label came with an embedding.", "Fetch some.")
        user.app.labels.seek("", FeatureRef("4-res-fk", 3))
        page(user)._waits = True
        user.app.receive(Failed(id=user.state.seeking, error=error))
        await user.pilot.pause()
        assert "No label came with an embedding. Fetch some." in user.text


@pytest.mark.parametrize("size", SIZES)
async def test_the_last_column_is_cut_before_the_scrollbar_and_says_so(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await ready(user)
        long = "a label that goes on " * 20
        feature = labelled(user.state)[0]
        user.app.labels.put(feature, long)
        await user.until(lambda s: s.labels.get(str(feature)) == long.strip())
        await user.press("escape", "3")
        listed = user.app.inspect.features.list
        row = user.state.rows.index(next(row for row in user.state.rows if row.ref == feature))
        width = listed.scrollable_content_region.width
        assert width < listed.size.width
        assert listed.draw_line(row + 1 - listed.scroll_offset.y).crop(0, width).text.endswith("…")
        await user.press("B", *"goes")
        await user.until(lambda s: s.found is not None and s.found.query == "goes")
        found = page(user).list
        shown = found.draw_line(0).crop(0, found.scrollable_content_region.width).text
        assert shown.endswith("…" if size[0] < 70 + 2 else "you")


async def test_nothing_found_says_why() -> None:
    async with driving() as user:
        await ready(user)
        await user.press("escape", "B", *"zzz[b]")
        await user.until(lambda s: s.found is not None and s.found.query == "zzz[b]")
        assert "No label has zzz[b]." in user.text


@pytest.mark.parametrize("size", SIZES)
async def test_how_the_numbers_are_made_is_one_key_away(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.until(lambda s: s.engine.phase == "ready")
        await user.press("escape", "M")
        shown = user.app.screen
        assert isinstance(shown, NumbersPage)
        for words in ("fake-1l", "float32 on cpu", "activations are raw f", "blocks.4.hook_resid_post", "b_dec"):
            assert words in user.text
        await user.press("escape")
        assert user.app.screen is user.app.inspect


async def test_a_recording_has_its_labels_and_gives_none() -> None:
    async with driving() as user:
        state = await ready(user)
        session = to_session(state, new_session(state.opening))
    async with replaying(session) as user:
        assert labelled(user.state) == labelled(state)
        await user.press("escape", "B")
        assert user.app.screen is user.app.inspect
        assert "This is a recording" in user.text
