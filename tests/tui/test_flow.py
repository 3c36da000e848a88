"""A user's way through the screen, state first; the fake engine is a real process that speaks the real protocol."""

from __future__ import annotations

import os
import signal

import pytest

from engine.protocol import FeatureRef
from sessions.store import path_of, read_session
from tests.tui.driving import PROMPT, SIZES, driving
from tui.app import SaescopeApp
from tui.screens.page import HelpPage, LogPage, PageScreen, TextPage


@pytest.mark.parametrize("size", SIZES)
async def test_a_prompt_brings_tokens_features_and_a_card(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        state = await user.run()
        assert state.result is not None
        assert [t.text for t in state.result.tokens] == [
            "The",
            " Eiffel",
            " Tower",
            " is",
            " in",
            " the",
            " city",
            " of",
        ]
        assert state.feature == state.rows[0].ref
        assert state.token == 7
        assert "3 Features" in user.text
        assert str(state.rows[0].ref.index) in user.text
        assert user.app.screen.focused is user.app.inspect.tokens.home


@pytest.mark.parametrize("size", SIZES)
async def test_one_can_type_at_once(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.press(*"abc")
        assert user.state.draft == "abc"


async def test_typing_works_before_the_engine_is_ready() -> None:
    async with driving(held=True) as user:
        await user.type(PROMPT)
        await user.press("enter")
        await user.until(lambda s: s.queued)
        assert user.state.engine.phase != "ready"
        assert "the prompt runs when it is ready" in user.text
        user.open_now()
        state = await user.until(lambda s: s.result is not None)
        assert state.result is not None
        assert state.result.prompt == PROMPT


async def test_keys_typed_while_the_engine_reports_are_not_lost() -> None:
    """Progress events redraw the screen many times a second; the field keeps what was typed between them."""
    async with driving(held=True) as user:
        for character in PROMPT:
            user.app.screen.query_one("#prompt-area").insert(character)  # type: ignore[attr-defined]
            user.app.change(lambda s: __import__("msgspec").structs.replace(s, saved="x"))
            await user.pilot.pause(0.01)
        await user.until(lambda s: s.draft == PROMPT)


async def test_the_token_count_follows_typing() -> None:
    async with driving() as user:
        await user.type("one two three")
        await user.until(lambda s: s.draft_tokens == 3)
        assert "3 tok" in user.text
        await user.press("ctrl+t")
        assert user.state.chat
        assert "chat on" in user.text


async def test_the_cursor_moves_from_token_to_token() -> None:
    async with driving() as user:
        await user.run()
        await user.press("g")
        assert user.state.token == 0
        assert "attention sink, left out of rankings" in user.text
        await user.press("l", "l", "right")
        assert user.state.token == 3
        await user.press("h", "G")
        assert user.state.token == 7
        await user.press("l")
        assert user.state.token == 7
        await user.press("3", "{", "{")
        assert user.state.token == 5
        assert user.app.inspect.at == "features"


async def test_features_of_the_token_under_the_cursor() -> None:
    async with driving() as user:
        await user.run()
        await user.press("t")
        state = user.state
        assert state.scope == "token"
        assert {row.position for row in state.rows} == {state.token}
        before = state.rows
        await user.press("h")
        assert user.state.rows != before
        await user.press("t")
        assert user.state.scope == "prompt"


async def test_selecting_a_feature_colours_the_tokens_and_fills_the_card() -> None:
    async with driving() as user:
        state = await user.run()
        await user.press("3", "j", "j")
        chosen = state.rows[2].ref
        state = await user.until(lambda s: s.feature == chosen and s.card is not None)
        assert state.values == state.result.features[2].values  # type: ignore[union-attr]
        assert state.card is not None
        assert state.card.ref == chosen
        assert str(chosen) in user.text
        await user.press("enter")
        assert user.app.inspect.at == "card"
        await user.press("u")
        assert user.state.feature is None
        assert "anything that fires" in user.text


async def test_a_feature_outside_the_top_is_read_on_demand() -> None:
    async with driving() as user:
        await user.run()
        await user.press("t", "3")
        outside = next(r for r in user.state.rows if user.state.values_of(r.ref) is None)
        user.app.change(lambda s: __import__("tui.reducer", fromlist=["x"]).select_feature(s, outside.ref))
        state = await user.until(lambda s: s.values is not None)
        assert state.values is not None
        assert state.values[state.token] == pytest.approx(outside.activation)


async def test_sites_order_filter_and_marks() -> None:
    async with driving() as user:
        state = await user.run()
        await user.press("]")
        assert user.state.site == state.sites[0]
        assert {r.ref.source for r in user.state.rows} == {state.sites[0]}
        await user.press("[", "o")
        assert user.state.site is None
        assert [r.share for r in user.state.rows] == sorted((r.share for r in user.state.rows), reverse=True)
        await user.press("slash")
        await user.press(*"word3")
        assert user.state.needle == "word3"
        assert user.state.rows
        assert all("word3" in r.hint for r in user.state.rows)
        await user.press("enter")
        assert user.app.inspect.features.list.has_focus
        await user.press("space")
        assert user.state.marks == (user.state.feature,)
        assert "●" in user.text
        await user.press("escape")
        assert user.state.needle == ""
        await user.press("space")
        assert user.state.marks == ()


async def test_ranking_anew_runs_the_prompt_again() -> None:
    async with driving() as user:
        await user.run()
        await user.press("R")
        state = await user.until(lambda s: len(s.runs) == 2 and not s.tasks)
        assert [r.result.rank for r in state.runs] == ["max", "sum"]
        await user.press("(")
        assert user.state.shown == 0
        await user.press(")")
        assert user.state.shown == 1


async def test_a_new_prompt_supersedes_and_escape_stops() -> None:
    async with driving() as user:
        await user.press("1")
        await user.type("/slow 30 one")
        await user.press("enter")
        first = await user.until(lambda s: s.task("run"))
        assert first.task("run") is not None
        await user.press("escape")
        state = await user.until(lambda s: not s.tasks)
        assert state.runs == ()
        assert "Stopped" in user.text
        await user.press("1", "ctrl+g")
        await user.type("/slow 30 two")
        await user.press("enter")
        await user.until(lambda s: s.task("run"))
        state = await user.run("three words here")
        assert len(state.runs) == 1


async def test_an_error_is_said_where_it_happened() -> None:
    async with driving() as user:
        await user.run()
        await user.press("1", "ctrl+g")
        await user.type("/fail [b]")
        await user.press("enter")
        state = await user.until(lambda s: s.notice)
        assert state.notice is not None
        assert state.notice.where == "prompt"
        await user.press("1")
        assert "asks the fake engine to fail" in user.text
        assert len(state.runs) == 1
        await user.press("escape", "e")
        assert isinstance(user.app.screen, TextPage)
        assert "Ask for something else" in user.text


async def test_a_dead_engine_is_restarted_and_the_session_lives_on() -> None:
    async with driving() as user:
        await user.run()
        await user.press("space")
        await user.press("1", "ctrl+g")
        await user.type("/die")
        await user.press("enter")
        await user.until(lambda s: s.engine.deaths == 1)
        state = await user.until(lambda s: s.engine.phase == "ready")
        assert len(state.runs) == 1
        assert len(state.marks) == 1
        assert state.tasks == ()
        state = await user.run("all is well again")
        assert len(state.runs) == 2
        assert any("engine lost" in line.text for line in state.log)


async def test_an_engine_killed_from_outside_is_restarted() -> None:
    async with driving() as user:
        await user.run()
        link = user.app._client._link  # type: ignore[union-attr]
        os.kill(link.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        await user.until(lambda s: s.engine.deaths == 1 and s.engine.phase == "ready")
        await user.run("again")


async def test_an_engine_that_keeps_dying_is_left_alone() -> None:
    async with driving() as user:
        for deaths in (1, 2, 3):
            await user.until(lambda s: s.engine.phase == "ready")
            user.app.run_prompt("/die")
            await user.until(lambda s, n=deaths: s.engine.deaths == n)
        await user.pilot.pause(0.3)
        assert user.state.engine.phase == "lost"
        assert "left alone" in user.text


async def test_history_goes_back_and_forth() -> None:
    async with driving() as user:
        await user.run("first prompt")
        await user.run("second prompt")
        await user.press("1", "ctrl+g")
        await user.type("draft")
        await user.press("up")
        assert user.state.draft == "second prompt"
        await user.press("up")
        assert user.state.draft == "first prompt"
        await user.press("down", "down")
        assert user.state.draft == "draft"


async def test_several_lines_and_odd_keys_in_the_prompt() -> None:
    async with driving() as user:
        await user.press(*"ab", "ctrl+j", *"q?:+[")
        assert user.state.draft == "ab\nq?:+["
        assert isinstance(user.app, SaescopeApp)
        await user.press("ctrl+g")
        await user.press("enter")
        assert user.state.tasks == ()


async def test_zoom_help_log_and_palette() -> None:
    async with driving() as user:
        await user.run()
        await user.press("3", "plus")
        assert "2 Tokens" not in user.text
        await user.press("escape")
        assert "2 Tokens" in user.text
        await user.press("question_mark")
        assert isinstance(user.app.screen, HelpPage)
        assert user.lines()[1].strip() == "3 Features"
        await user.press("escape", "E")
        assert isinstance(user.app.screen, LogPage)
        assert "8 tokens" in user.text
        await user.press("escape", "colon")
        await user.press(*"light", "enter")
        await user.until(lambda _: user.app.theme == "saescope-light")


async def test_the_quicklist_of_the_marks() -> None:
    async with driving() as user:
        await user.run()
        await user.press("x")
        assert "Mark features" in user.text
        page = next(r for r in user.state.rows if r.page)
        user.app.change(lambda s: __import__("tui.reducer", fromlist=["x"]).toggle_mark(s, page.ref))
        user.app.change(lambda s: __import__("tui.reducer", fromlist=["x"]).toggle_mark(s, FeatureRef("4-res-fk", 3)))
        await user.press("x")
        assert isinstance(user.app.screen, PageScreen)
        assert "https://neuronpedia.org/quick-list/?name=" in user.text
        assert "for want of a Neuronpedia page" in user.text


async def test_copying_names_what_was_sent() -> None:
    async with driving() as user:
        await user.run()
        await user.press("y")
        assert "Sent to your terminal's clipboard" in user.text


async def test_the_session_is_saved_as_one_works_and_at_the_end() -> None:
    async with driving() as user:
        await user.run()
        path = user.app._recorder.path  # type: ignore[union-attr]
        await user.until(lambda s: s.saved)
        session = read_session(path)
        assert path == path_of(session)
        assert session.runs[0].result.prompt == PROMPT
        assert session.owner is not None
        await user.press("space", "q")
    assert read_session(path).owner is None
    assert len(read_session(path).marks) == 1


async def test_nothing_done_leaves_no_file() -> None:
    async with driving() as user:
        path = user.app._recorder.path  # type: ignore[union-attr]
        await user.press("escape", "q")
    assert not path.exists()
