"""Editing a text and watching one feature follow."""

from __future__ import annotations

import pytest

from engine.protocol import Request, Run, TryText
from sessions.store import new_session
from tests.tui.driving import SIZES, Driver, driving, replaying
from tests.tui.test_labels import ready
from tui.recorder import to_session
from tui.screens.try_it import TryPage


def page(user: Driver) -> TryPage:
    assert isinstance(user.app.screen, TryPage)
    return user.app.screen


async def opened(user: Driver) -> TryPage:
    await ready(user)
    await user.press("Y")
    await user.until(lambda s: s.tried is not None)
    return page(user)


async def shown(user: Driver, text: str) -> None:
    """Wait until the tokens on the page are those of a text."""
    await user.until(lambda s: s.tried is not None and "".join(t.text for t in s.tried.tokens) == text)


@pytest.mark.parametrize("size", SIZES)
async def test_the_feature_follows_the_typing(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        shows = await opened(user)
        feature = user.state.feature
        assert str(feature) in user.lines()[0]
        assert user.state.result is not None
        assert shows.area.text == user.state.result.prompt
        runs = len(user.state.runs)
        await user.press(*" new", "space")
        await shown(user, user.state.result.prompt + " new ")
        assert "fires on" in user.text
        assert "known maximum" in user.text
        await user.press("ctrl+g")
        await user.settle()
        assert "Type some text" in user.text
        assert len(user.state.runs) == runs
        assert user.state.result == user.state.runs[-1].result


async def test_another_feature_of_the_list_and_back_to_its_card() -> None:
    async with driving() as user:
        await opened(user)
        refs = [row.ref for row in user.state.rows]
        await user.press("down", "down", "up", "down")
        await user.until(lambda s: s.tried is not None and s.tried.feature == refs[2])
        await user.press("escape")
        await user.until(lambda s: s.feature == refs[2])
        await user.press("Y")
        assert str(refs[2]) in user.lines()[0]


async def test_enter_runs_the_text_as_a_prompt() -> None:
    async with driving() as user:
        await opened(user)
        runs = len(user.state.runs)
        await user.press("ctrl+g", *"other words", "enter")
        await user.until(lambda s: len(s.runs) > runs)
        assert user.state.runs[-1].result.prompt == "other words"
        assert user.state.draft == "other words"


async def test_the_scale_is_the_texts_own_or_the_known_one() -> None:
    async with driving() as user:
        await opened(user)
        assert "the largest here" in user.text
        await user.press("tab")
        assert "its known maximum" in user.text
        await user.press("tab")
        assert "the largest here" in user.text


async def test_an_answer_to_an_older_text_is_dropped() -> None:
    async with driving() as user:
        await opened(user)
        held: list[Request] = []
        send = user.app.send

        def hold(request: Request) -> bool:
            held.append(request)
            return True

        user.app.send = lambda r: hold(r) if isinstance(r, TryText) else send(r)  # type: ignore[method-assign,assignment]
        await user.press("ctrl+g", *"one")
        await user.until(lambda _: bool(held))
        await user.press("ctrl+g", *"two")
        await user.until(lambda _: any(isinstance(r, TryText) and r.text == "two" for r in held))
        before = user.state.tried
        send(next(r for r in held if isinstance(r, TryText) and r.text.startswith("o")))
        await user.pilot.pause(0.3)
        assert user.state.tried is before
        send(held[-1])
        await shown(user, "two")


async def test_what_the_engine_refuses_is_said_on_the_page() -> None:
    async with driving() as user:
        shows = await opened(user)
        shows.area.text = "word /fail"
        await user.until(lambda s: s.notice is not None and s.notice.level == "error")
        assert user.state.notice is not None
        assert user.state.notice.text in user.text
        await user.press("ctrl+g", *"short")
        await shown(user, "short")


async def test_nothing_acts_on_the_terminal() -> None:
    async with driving((80, 24)) as user:
        shows = await opened(user)
        shows.area.text = "an \x1b[31mend [b]\x07 of \u202eabc\u2066 漢字 👩‍🚀"
        await shown(user, shows.area.text)
        assert not any(c in user.text for c in "\x1b\x07\u202e\u2066")
        assert "[b]" in user.text


async def test_another_feature_does_not_stand_over_old_numbers() -> None:
    async with driving() as user:
        shows = await opened(user)
        send, held = user.app.send, False
        user.app.send = lambda r: True if isinstance(r, TryText) and held else send(r)  # type: ignore[method-assign,assignment]
        held = True
        await user.press("down")
        assert "reading" in user.text
        assert "fires on" not in user.text
        assert shows.list.plain_lines == []


async def test_emptying_the_text_withdraws_the_question() -> None:
    async with driving() as user:
        await opened(user)
        send = user.app.send
        late: list[TryText] = []

        def hold(request: Request) -> bool:
            if not isinstance(request, TryText):
                return send(request)
            late.append(request)
            return True

        user.app.send = hold  # type: ignore[method-assign]
        await user.press("a")
        await user.until(lambda _: bool(late))
        await user.press("ctrl+g")
        await user.until(lambda s: not s.trying)
        send(late[0])
        await user.pilot.pause(0.3)
        assert "Type some text" in user.text
        assert "fires on" not in user.text


async def test_a_dead_engine_is_said_and_the_text_is_read_again() -> None:
    async with driving() as user:
        shows = await opened(user)
        user.app.send(Run(id=user.app.next_id(), prompt="/die"))
        await user.until(lambda s: s.engine.phase != "ready")
        await user.press(*" more")
        await user.until(lambda s: s.engine.phase == "ready")
        await shown(user, shows.area.text)
        assert "fires on" in user.text


async def test_without_a_feature_or_an_engine_it_says_why() -> None:
    async with driving() as user:
        await user.press("escape", "Y")
        assert "No feature is selected" in user.text
        await ready(user)
        state = user.state
    session = to_session(state, new_session(state.opening))
    async with replaying(session) as user:
        await user.until(lambda s: s.feature is not None)
        await user.press("3", "Y")
        assert not isinstance(user.app.screen, TryPage)
        assert "recording" in user.text
