"""Giving a feature a label of one's own: what is there already is never lost by accident, nor changed on its way in."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest
from textual import events

from engine.protocol import FeatureRef, Request, ShowCard
from sessions.store import new_session
from tests.tui.driving import SIZES, Driver, driving, replaying
from tests.tui.test_labels import at_once, labelled, ready
from tui import reducer
from tui.recorder import to_session
from tui.screens.naming import NamingPage
from tui.state import State

UNLABELLED = FeatureRef("4-res-fk", 1)


async def named(user: Driver, feature: FeatureRef, text: str) -> None:
    """Give a label without the page, and forget the card as if it had not been read."""
    user.app.labels.put(feature, text)
    await user.until(lambda s: s.labels.get(str(feature)) == text)
    user.app.change(lambda s: reducer.select_feature(s, feature))
    await user.until(lambda s: s.card)


def page(user: Driver) -> NamingPage:
    assert isinstance(user.app.screen, NamingPage)
    return user.app.screen


def hold_cards(user: Driver) -> list[Request]:
    """From now on requests for cards are kept here instead of being sent."""
    held: list[Request] = []
    send = user.app.send
    user.app.send = lambda request: held.append(request) if isinstance(request, ShowCard) else send(request)  # type: ignore[method-assign]
    return held


def forget_cards(user: Driver) -> None:
    user.app.change(lambda s: msgspec.structs.replace(s, cards={}))


async def test_a_label_whose_card_is_unread_is_not_taken_away_by_enter() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        await named(user, UNLABELLED, "mine")
        send, held = user.app.send, hold_cards(user)
        forget_cards(user)
        await user.press("N")
        assert page(user).field.value == ""
        assert "is being read" in user.text
        await user.press("enter")
        assert isinstance(user.app.screen, NamingPage)
        assert "nothing was taken away" in user.text
        assert user.state.labels[str(UNLABELLED)] == "mine"
        assert held
        user.app.send = send  # type: ignore[method-assign]
        send(held[-1])
        await user.until(lambda s: s.card)
        await user.until(lambda s: page(user).field.value == "mine")
        assert "It is “mine” now; an empty line takes that away." in user.text
        await user.press("enter")
        assert user.state.labels[str(UNLABELLED)] == "mine"
        assert user.state.notice is not None
        assert user.state.notice.text == f"{UNLABELLED} is “mine”, as before."


async def test_what_was_typed_meanwhile_stays_in_the_field() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        await named(user, UNLABELLED, "mine")
        send, held = user.app.send, hold_cards(user)
        forget_cards(user)
        await user.press("N", *"new")
        user.app.send = send  # type: ignore[method-assign]
        send(held[-1])
        await user.until(lambda s: s.card)
        await user.until(lambda s: "It is “mine” now" in user.text)
        assert page(user).field.value == "new"
        await user.press("enter")
        await user.until(lambda s: s.labels.get(str(UNLABELLED)) == "new")


async def test_only_a_label_there_was_is_gone() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, UNLABELLED))
        await user.until(lambda s: s.card)
        await user.press("N", "enter")
        assert user.state.notice is not None
        assert user.state.notice.text == f"{UNLABELLED} has no label of yours, as before."
        await user.press("N", *"mine", "enter")
        await user.until(lambda s: s.labels.get(str(UNLABELLED)) == "mine")
        await user.press("N", "ctrl+u", "enter")
        state = await user.until(lambda s: str(UNLABELLED) not in s.labels)
        assert state.notice is not None
        assert state.notice.text == f"Your label of {UNLABELLED} is gone."


def said(user: Driver) -> str:
    return user.state.notice.text if user.state.notice is not None else ""


async def test_a_label_is_said_to_be_kept_when_it_is() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.labels.put(UNLABELLED, " mine ")
        assert said(user) == ""
        await user.until(lambda s: s.labels.get(str(UNLABELLED)) == "mine")
        assert said(user) == f"{UNLABELLED} is “mine”."
        assert user.state.naming == frozenset()


async def test_a_label_that_is_refused_is_not_said_to_be_kept() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, UNLABELLED))
        await user.until(lambda s: s.card)
        await user.press("N", "slash", *"fail", "enter")
        await user.until(lambda s: s.notice is not None and s.notice.level == "error")
        assert "asks the fake engine to fail" in said(user)
        assert str(UNLABELLED) not in user.state.labels
        assert user.state.naming == frozenset()
        assert any("asks the fake engine to fail" in line.text for line in user.state.log)


@pytest.mark.parametrize("closed", [False, True], ids=["dead", "not noticed yet"])
@pytest.mark.parametrize("text", ["new", ""])
async def test_without_an_engine_the_line_stays_on_the_page(text: str, closed: bool) -> None:
    async with driving() as user:
        await user.press("escape", "3")
        await named(user, UNLABELLED, "mine")
        await user.press("N")
        await user.until(lambda s: page(user).field.value == "mine")
        await user.press("ctrl+u", *text)
        client = user.app._client
        assert client is not None

        async def never() -> None:
            """It is not started again."""

        user.app._start_engine = never  # type: ignore[method-assign]
        if closed:
            client.cut()
        else:
            os.kill(client._link.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
            await user.until(lambda s: s.engine.phase == "lost")
        before = said(user)
        await user.press("enter")
        assert page(user).field.value == text
        assert user.state.unready[0] in user.text
        assert said(user) == before
        assert user.state.naming == frozenset()
        await user.press("escape")


async def test_a_card_that_comes_under_another_page_is_seen() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        await named(user, UNLABELLED, "mine")
        send, held = user.app.send, hold_cards(user)
        forget_cards(user)
        await user.press("N")
        naming = page(user)
        looked: list[FeatureRef] = []
        user.app.labels.card_of = looked.append  # type: ignore[assignment, method-assign]
        await user.press("ctrl+p")
        await user.pilot.pause(0.15)
        assert user.app.screen is not naming
        assert looked == []
        user.app.send = send  # type: ignore[method-assign]
        send(held[-1])
        await user.until(lambda s: s.cards.get(UNLABELLED))
        await user.press("escape")
        assert page(user) is naming
        assert naming.field.value == "mine"


async def test_keys_that_waited_come_before_those_after_them() -> None:
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, UNLABELLED))
        await user.until(lambda s: s.card)
        user.app._held = [events.Key("N", "N"), events.Key("s", "s")]
        at_once(user, "x", "m", "enter")
        user.app.take_keys()
        await user.until(lambda s: s.labels.get(str(UNLABELLED)))
        assert user.state.labels[str(UNLABELLED)] == "sxm"
        assert user.app._patience is None


async def test_nothing_takes_the_focus_from_a_field_that_is_about_to_get_keys() -> None:
    async with driving() as user:
        await user.press("escape", "3", "slash")
        user.app._held, user.app._moving = [events.Key("x", "x")], True
        user.app._tick()
        await user.pilot.pause()
        assert user.app.inspect.features.filter.has_focus
        user.app.take_keys()
        await user.until(lambda s: s.needle == "x")


async def test_a_card_comes_without_a_prompt() -> None:
    async with driving() as user:
        await user.press("escape", "B", *"capital", "enter")
        await user.until(lambda s: s.feature is not None and s.card)
        assert user.state.result is None
        assert "“capital cities”" in user.text
        assert "fires on" in user.text


async def test_a_label_is_kept_as_it_was_written() -> None:
    """Joiners inside an emoji, line ends and control characters are shown as glyphs, not replaced by them."""
    text = "two\n👩‍🔬 women\x0b\x1b[31m at\tit"
    async with driving() as user:
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.select_feature(s, UNLABELLED))
        await user.until(lambda s: s.card)
        await user.press("N")
        page(user).field.post_message(events.Paste(f"{text}\n"))
        await user.pilot.pause()
        assert page(user).field.value == text
        shown = next(line for line in user.lines() if "two⏎" in line)
        assert "women␋␛[31m at⇥it" in shown
        await user.press("enter")
        state = await user.until(lambda s: s.labels.get(str(UNLABELLED)))
        assert state.labels[str(UNLABELLED)] == text
        assert state.notice is not None
        assert "women␋␛[31m at⇥it" in state.notice.text


async def test_a_recording_says_what_cannot_be_done_in_it() -> None:
    async with driving() as user:
        state = await ready(user)
        session = to_session(state, new_session(state.opening))
    async with replaying(session) as user:
        await user.press("escape", "N")
        assert user.app.screen is user.app.inspect
        assert "This is a recording: labels are given in a live session." in user.text


@pytest.mark.parametrize("size", SIZES)
async def test_a_long_label_stands_whole_on_its_card(size: tuple[int, int]) -> None:
    long = " ".join(f"word{n} of a long explanation" for n in range(6))
    async with driving(size) as user:
        await user.press("escape", "3")
        await named(user, FeatureRef("4-res-fk", 3), long)
        await user.press("4")
        card = user.app.inspect.card.body.plain_lines
        end = next(n for n, line in enumerate(card) if "”" in line)
        assert " ".join(line.strip() for line in card[: end + 1]).startswith(f"“{long}”")
        assert card[end].strip().endswith("you") or card[end + 1].strip() == "you"
        assert all(len(line) <= user.app.inspect.card.body.scrollable_content_region.width for line in card[: end + 1])


async def test_the_header_of_the_list_follows_its_labels() -> None:
    async with driving() as user:
        state = await ready(user)
        await user.press("escape", "3")
        user.app.change(lambda s: reducer.filter_by(s, "peaks-on-nothing"))
        user.app.change(lambda s: msgspec.structs.replace(s, labels={}, needle=""))
        await user.pilot.pause()
        assert any(line.rstrip().endswith(" peaks on") for line in user.lines())
        feature = state.rows[0].ref
        user.app.labels.put(feature, "mine")
        await user.until(lambda s: s.labels.get(str(feature)) == "mine")
        assert any(line.rstrip().endswith(" label") for line in user.lines())
        assert labelled(user.state) == [feature]


async def test_a_label_another_program_gave_is_there_after_the_next_run() -> None:
    async with driving() as user:
        state = await ready(user)
        feature = labelled(state)[0]
        theirs = state.labels[str(feature)]

        def older(s: State) -> State:
            card = msgspec.structs.replace(s.cards[feature], labels=())
            labels = {k: v for k, v in s.labels.items() if k != str(feature)}
            return msgspec.structs.replace(s, labels=labels, cards={**s.cards, feature: card}, feature=feature)

        user.app.change(lambda s: reducer.select_feature(s, feature))
        await user.until(lambda s: s.card)
        user.app.change(older)
        assert feature not in labelled(user.state)
        await user.run()
        state = await user.until(lambda s: s.card and s.card.labels)
        assert state.labels[str(feature)] == theirs
        assert state.cards[feature].labels[0].text == theirs
