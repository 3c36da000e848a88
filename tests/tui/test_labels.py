"""Labels on the screen: shown where features are listed, found by words, given by the user, kept in the session."""

from __future__ import annotations

import pytest

from engine.protocol import FeatureRef
from sessions.store import new_session
from tests.tui.driving import SIZES, Driver, driving, replaying
from tui import reducer
from tui.recorder import to_session
from tui.screens.asking import AskPage
from tui.screens.labels import LabelsPage
from tui.screens.numbers import NumbersPage
from tui.state import State


def _labelled(state: State) -> list[FeatureRef]:
    return [row.ref for row in state.rows if row.label]


async def _ready(user: Driver) -> State:
    await user.run()
    return await user.until(lambda s: s.labels)


@pytest.mark.parametrize("size", SIZES)
async def test_a_label_stands_in_the_list_and_on_the_card(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        state = await _ready(user)
        refs = _labelled(state)
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
        state = await _ready(user)
        word = state.labels[str(_labelled(state)[0])]
        await user.press("escape", "slash", *(c if c != " " else "space" for c in word))
        after = await user.until(lambda s: s.needle == word)
        assert after.rows
        assert {row.label for row in after.rows} == {word}


async def test_ones_own_label_comes_first_and_can_be_taken_away() -> None:
    async with driving() as user:
        state = await _ready(user)
        feature = _labelled(state)[0]
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
        await _ready(user)
        first, second = FeatureRef("4-res-fk", 1), FeatureRef("4-res-fk", 2)
        user.app.labels.put(first, "one")
        user.app.labels.put(second, "two")
        await user.until(lambda s: s.labels.get(str(first)) == "one" and s.labels.get(str(second)) == "two")


@pytest.mark.parametrize("size", SIZES)
async def test_a_feature_is_found_by_the_words_of_its_label(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await _ready(user)
        await user.press("escape", "B")
        page = user.app.screen
        assert isinstance(page, LabelsPage)
        await user.until(lambda s: s.found is not None)
        assert "3000 labels" in user.text
        await user.press(*"capital")
        state = await user.until(lambda s: s.found is not None and s.found.query == "capital")
        assert state.found is not None
        assert 0 < len(state.found.hits) < state.found.total
        assert f"Labels · {len(state.found.hits)} of {state.found.total}" in user.text
        assert all(hit.label.text == "capital cities" for hit in page.list.hits)
        await user.press("enter", "j", "enter")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == state.found.hits[1].feature
        await user.until(lambda s: s.card)
        assert "“capital cities”" in user.text


async def test_labels_like_a_feature_and_like_what_was_found() -> None:
    async with driving() as user:
        state = await _ready(user)
        feature = _labelled(state)[0]
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, feature))
        await user.press("tilde")
        state = await user.until(lambda s: s.found is not None and s.found.like == feature)
        assert f"Labels like {feature}" in user.text
        await user.press("j", "l")
        assert state.found is not None
        wanted = state.found.hits[1].feature
        await user.until(lambda s: s.found is not None and s.found.like == wanted)
        await user.press("escape")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == feature


async def test_nothing_found_says_why() -> None:
    async with driving() as user:
        await _ready(user)
        await user.press("escape", "B", *"zzz[b]")
        await user.until(lambda s: s.found is not None and s.found.query == "zzz[b]")
        assert "No label has zzz[b]." in user.text


@pytest.mark.parametrize("size", SIZES)
async def test_how_the_numbers_are_made_is_one_key_away(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.until(lambda s: s.engine.phase == "ready")
        await user.press("escape", "M")
        assert isinstance(user.app.screen, NumbersPage)
        for words in ("fake-1l", "float32 on cpu", "activations are raw f", "blocks.4.hook_resid_post", "b_dec"):
            assert words in user.text
        await user.press("escape")
        assert user.app.screen is user.app.inspect


async def test_a_recording_has_its_labels_and_gives_none() -> None:
    async with driving() as user:
        state = await _ready(user)
        session = to_session(state, new_session(state.opening))
    async with replaying(session) as user:
        assert _labelled(user.state) == _labelled(state)
        await user.press("escape", "B")
        assert user.app.screen is user.app.inspect
        assert "This is a recording" in user.text
