"""Steering while text streams: the last value wins, one run waits, and nothing that streamed is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from engine.protocol import Adjust, Prepare, Request, Steer
from sessions.store import read_session
from tests.tui.driving import Driver, driving
from tests.tui.test_steering import MAXIMUM, acting, steering
from tui import steering_reducer
from tui.state import State

SLOW = "/slow 0 The Eiffel Tower"
"""Twenty tokens a second."""


class Sent:
    """What goes to the engine, as it goes."""

    def __init__(self, user: Driver) -> None:
        self.requests: list[Request] = []
        client = user.app._client
        assert client is not None
        send: Callable[[Request], bool] = client.send

        def listening(request: Request) -> bool:
            self.requests.append(request)
            return send(request)

        client.send = listening  # type: ignore[method-assign]

    def of(self, kind: type[Request]) -> list[Request]:
        return [request for request in self.requests if isinstance(request, kind)]


async def slow(user: Driver) -> None:
    """A prompt whose continuation streams slowly, one feature in steering."""
    await user.run(SLOW)
    await user.press("s")
    await user.until(lambda s: s.steering.rows and s.cards.get(s.feature))


def streaming(steps: int = 2) -> Callable[[State], bool]:
    """The text under way has so many steps."""
    return lambda s: (
        s.task("steer") is not None
        and steering_reducer.begun(s)
        and s.steering.texts is not None
        and len(s.steering.texts.steps) >= steps
    )


async def test_taking_a_feature_reads_the_prompt_ahead() -> None:
    async with driving() as user:
        await user.run()
        sent = Sent(user)
        await user.press("s")
        assert [r.prompt for r in sent.of(Prepare) if isinstance(r, Prepare)] == [user.state.runs[0].result.prompt]
        assert user.state.tasks == ()


async def test_the_first_move_is_sent_at_once_and_the_rest_wait() -> None:
    async with driving() as user:
        await slow(user)
        sent = Sent(user)
        user.app.steers.do("coarse", 1)
        assert len(sent.of(Steer)) == 1
        for _ in range(5):
            user.app.steers.do("coarse", 1)
        assert len(sent.of(Steer)) == 1
        assert user.state.steering.waits == "steer"
        assert len(user.state.tasks) == 1
        await user.until(lambda s: s.steering.waits == "")
        assert len(sent.of(Steer)) == 2
        await user.until(streaming())
        user.app.steers.do("coarse", 1)
        assert len(sent.of(Steer)) == 3


async def test_a_hundred_quick_moves_leave_the_last_text_and_nothing_else() -> None:
    async with driving() as user:
        await steering(user)
        sent = Sent(user)
        most = 0
        for move in range(100):
            user.app.steers.slid(0, (move - 49) / 50)
            most = max(most, len([t for t in user.state.tasks if t.kind == "steer"]))
            if move % 10 == 0:
                await user.pilot.pause()
        await user.until(lambda s: not s.tasks and not s.steering.waits)
        state = user.state
        last = state.steers[-1].result
        assert most == 1
        assert last.interventions == state.steering.acting
        assert acting(user).strength == pytest.approx(4 * MAXIMUM)
        assert state.steering.texts is not None
        assert state.steering.texts.interventions == state.steering.acting
        assert state.steering.texts.steps == last.steps
        assert len(last.steps) == state.steering.sampling.tokens
        assert len(sent.of(Steer)) <= 24
        assert len(state.steers) <= len(sent.of(Steer))
        assert state.steering.adjusting == 0


async def test_a_hundred_moves_of_a_slow_text_are_few_runs() -> None:
    async with driving() as user:
        await slow(user)
        sent = Sent(user)
        for move in range(100):
            user.app.steers.slid(0, (move - 49) / 50)
            if move % 4 == 0:
                await user.pilot.pause(0.01)
        await user.until(lambda s: s.steering.waits == "" and streaming()(s))
        assert len(sent.of(Steer)) < 60
        state = await user.until(lambda s: not s.tasks)
        assert len(state.steers) == 1
        assert state.steers[0].result.interventions == state.steering.acting
        assert acting(user).strength == pytest.approx(4 * MAXIMUM)


async def test_a_superseded_text_is_never_seen_again() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("l")
        await user.until(streaming(3))
        await user.press("l")
        state = await user.until(lambda s: streaming(2)(s) and s.steering.texts.interventions == s.steering.acting)
        assert state.steering.texts is not None
        assert [t.id for t in state.tasks] == [state.steering.texts.request]
        assert "plain1" in user.text
        state = await user.until(lambda s: not s.tasks)
        assert [r.result.interventions for r in state.steers] == [state.steering.acting]


# --- live ---------------------------------------------------------------------------------------------------------


async def test_live_moves_act_on_the_text_that_streams() -> None:
    async with driving() as user:
        await slow(user)
        sent = Sent(user)
        await user.press("v", "l")
        await user.until(streaming())
        await user.press("l", "l")
        state = await user.until(lambda s: s.steering.texts and s.steering.texts.changes and not s.steering.adjusting)
        assert len(sent.of(Steer)) == 1
        assert "⟨+33.1⟩" in user.text
        state = await user.until(lambda s: not s.tasks)
        (record,) = state.steers
        assert record.result.interventions[0].strength == pytest.approx(0.25 * MAXIMUM)
        assert record.result.changes[-1].interventions == state.steering.acting
        assert record.result.changes[-1].step > 0


async def test_at_most_one_change_is_unanswered_and_the_last_wins() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("v", "l")
        await user.until(streaming())
        sent = Sent(user)
        for _ in range(30):
            user.app.steers.do("fine", 1)
        assert len(sent.of(Adjust)) == 1
        assert user.state.steering.waits == "adjust"
        await user.until(lambda s: not s.steering.waits and not s.steering.adjusting)
        assert len(sent.of(Adjust)) == 2
        assert sent.of(Steer) == []
        state = await user.until(lambda s: not s.tasks)
        assert state.steers[-1].result.changes[-1].interventions == state.steering.acting


async def test_other_settings_need_another_run_even_live() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("v", "l")
        await user.until(streaming())
        sent = Sent(user)
        await user.press("r")
        assert len(sent.of(Steer)) == 1
        assert sent.of(Adjust) == []


async def test_a_live_move_without_a_text_starts_one() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("v", "l")
        state = await user.until(lambda s: s.steers and not s.tasks)
        assert state.steers[-1].result.interventions == state.steering.acting


async def test_live_moves_to_the_very_end_belong_to_the_last_text() -> None:
    """Some of them reach a text that has just ended."""
    async with driving() as user:
        await steering(user)
        await user.press("v")
        for _ in range(60):
            user.app.steers.do("fine", 1)
            await user.pilot.pause()
        await user.until(lambda s: not s.tasks and not s.steering.waits and not s.steering.adjusting)
        result = user.state.steers[-1].result
        last = result.changes[-1].interventions if result.changes else result.interventions
        assert last == user.state.steering.acting


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_escape_keeps_the_text_so_far() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("l")
        await user.until(streaming(3))
        await user.press("escape")
        state = user.state
        assert state.tasks == ()
        (record,) = state.steers
        assert len(record.result.steps) >= 3
        assert record.result.plain.text == state.steering.texts.plain  # type: ignore[union-attr]
        assert "plain2" in user.text
        await user.pilot.pause(0.3)
        assert user.state.steers == state.steers


async def test_leaving_in_mid_stream_keeps_the_text_so_far() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("l")
        await user.until(streaming(3))
        path = user.app._recorder.path  # type: ignore[union-attr]
        await user.press("q")
    session = read_session(path)
    assert len(session.steers) == 1
    assert session.view.steer == 0
    assert session.view.interventions[0].strength == pytest.approx(0.25 * MAXIMUM)


async def test_a_dead_engine_costs_neither_rows_nor_text() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("l")
        await user.until(streaming(3))
        rows = user.state.steering.rows
        link = user.app._client._link  # type: ignore[union-attr]
        os.kill(link.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        state = await user.until(lambda s: s.engine.deaths == 1 and s.engine.phase == "ready")
        assert state.steering.rows == rows
        assert len(state.steers) == 1
        assert "plain2" in user.text
        await user.press("enter")
        state = await user.until(lambda s: len(s.steers) == 2 and not s.tasks)
        assert len(state.steers[1].result.steps) == 40


async def test_moves_while_the_engine_is_away_are_kept_for_later() -> None:
    async with driving() as user:
        await steering(user)
        link = user.app._client._link  # type: ignore[union-attr]
        os.kill(link.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        await user.until(lambda s: s.engine.deaths == 1)
        user.app.steers.do("coarse", 1)
        assert acting(user).strength == pytest.approx(0.25 * MAXIMUM)
        assert user.state.notice is not None
        await user.until(lambda s: s.engine.phase == "ready")
        await user.press("6", "l")
        state = await user.until(lambda s: s.steers and not s.tasks)
        assert state.steers[-1].result.interventions[0].strength == pytest.approx(0.5 * MAXIMUM)


async def test_a_new_prompt_stops_what_streams_for_the_one_before() -> None:
    async with driving() as user:
        await slow(user)
        await user.press("l")
        await user.until(streaming())
        user.app.run_prompt("two words")
        state = await user.until(lambda s: len(s.runs) == 2)
        assert state.task("steer") is None
        assert state.steering.texts is None
        assert len(state.steers) == 1
        assert len(state.steers[0].result.steps) < 40
        await user.pilot.pause(0.3)
        assert user.state.steering.texts is None


@pytest.mark.parametrize("seen", [True, False])
async def test_idle_the_pane_draws_nothing(seen: bool) -> None:
    async with driving() as user:
        await steering(user)
        await user.press("l")
        await user.until(lambda s: s.steers and not s.tasks and s.saved)
        if not seen:
            await user.press("4")
        drawn: list[object] = []
        for widget in user.app.inspect.steering.query("*"):
            widget.refresh = lambda *a, w=widget, **k: drawn.append(w)  # type: ignore[method-assign, assignment]
        user.app.change(lambda s: __import__("msgspec").structs.replace(s, draft_tokens=3))
        await user.pilot.pause(0.2)
        assert drawn == []
