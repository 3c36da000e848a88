"""The screen's state, step by step: what the engine says and what the user does, without either."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.client import EngineLost
from engine.fake import fake_card
from engine.protocol import (
    AnyEvent,
    CardRead,
    ControlFound,
    Done,
    EngineFault,
    Failed,
    FeatureRef,
    FeaturesFound,
    Generated,
    Hello,
    HintsRead,
    Intervention,
    MeasureControl,
    Memory,
    NextToken,
    NextTokensFound,
    Open,
    Opened,
    Progress,
    RowRead,
    Steer,
    Steered,
    Stopped,
)
from sessions.model import EvidenceRecord, Preset
from tests import samples
from tests.samples import AT, PROMPT, WITH_PAGE, WITHOUT_PAGE
from tui import reducer, steering_reducer
from tui.recorder import to_session
from tui.restore import from_session
from tui.state import Notice, State, fault_notice

OPENED: Opened = samples.opened()
RESULT = samples.features()
EVIDENCE = EvidenceRecord(
    AT,
    control=samples.answer(
        MeasureControl(id=1, steer=Steer(id=1, prompt=PROMPT, interventions=())), ControlFound
    ).result,
)
FAULT = EngineFault("bad_request", "It is wrong.", "Mend it.", "long story")
MEMORY = Memory(5, 9)


def after(state: State, *events: AnyEvent | EngineLost) -> State:
    for event in events:
        state = reducer.reduce_event(state, event, AT)
    return state


def ready() -> State:
    return after(State(opening=Open(id=0)), Hello(pid=1), OPENED)


def ran(state: State, prompt: str = PROMPT, request: int = 5) -> State:
    """A prompt that was run to its end."""
    found = FeaturesFound(id=request, result=samples.features(prompt))
    return after(reducer.run_started(state, request), found, Done(id=request, seconds=0.1, memory=MEMORY))


def one_run() -> State:
    return ran(ready())


def two_runs() -> State:
    return ran(one_run(), "two words", 6)


def steering(state: State, request: int) -> State:
    """Steering was asked for."""
    return steering_reducer.started(state, "steer", request)


def test_an_engine_starts_opens_and_is_ready() -> None:
    state = State(opening=Open(id=0))
    assert state.engine.phase == "starting"
    state = after(state, Hello(pid=1))
    assert state.engine.phase == "opening"
    state = after(state, Progress(id=1, text="loading", done=3, total=7))
    assert (state.engine.text, state.engine.done, state.engine.total) == ("loading", 3, 7)
    state = after(state, OPENED)
    assert state.engine.phase == "ready"
    assert state.engine.model == OPENED.model
    assert state.token_limit == OPENED.model.context
    assert state.idle


def test_an_opening_that_fails_says_why() -> None:
    state = after(State(opening=Open(id=0)), Hello(pid=1), Failed(id=1, error=FAULT))
    assert state.engine.phase == "lost"
    assert state.notice == state.trouble == fault_notice(FAULT)
    assert state.unready == ("It is wrong.", "Mend it.")
    assert state.log[-1].text == "It is wrong. Mend it."


def test_nothing_waits_for_an_opening_that_failed() -> None:
    waiting = reducer.queue_prompt(State(opening=Open(id=0)), "later")
    state = after(waiting, Hello(pid=1), Failed(id=1, error=FAULT))
    assert (state.queued, state.draft) == ("", "later")
    again = after(state, Hello(pid=2))
    assert (again.trouble, again.engine.phase) == (None, "opening")


def test_an_engine_that_is_left_alone_says_so() -> None:
    state = reducer.left_alone(after(one_run(), EngineLost("killed")), AT)
    assert state.trouble is not None
    assert state.notice == state.trouble
    assert "left alone" in state.trouble.text
    assert state.runs == one_run().runs


def test_a_run_is_shown_with_its_last_token_and_best_feature() -> None:
    state = one_run()
    assert state.result == RESULT
    assert state.token == len(RESULT.tokens) - 1
    assert state.feature == RESULT.features[0].ref
    assert state.tasks == ()
    assert state.engine.memory == MEMORY
    assert "8 tokens" in state.log[-1].text


@pytest.mark.parametrize(
    "event",
    [
        FeaturesFound(id=4, result=samples.features("late")),
        NextTokensFound(id=4, next_tokens=((NextToken(1, "x", 0.5),),)),
        Generated(id=4, step=0, plain="late", steered="late", kl=1.0),
        Steered(id=4, result=samples.steered()),
        Progress(id=4, text="late", done=1, total=2),
        Failed(id=4, error=FAULT),
        Stopped(id=4),
    ],
    ids=lambda event: type(event).__name__,
)
def test_late_events_change_nothing(event: AnyEvent) -> None:
    """Request 4 ended or was superseded; requests 7 and 8 are under way."""
    state = steering(reducer.run_started(one_run(), 7), 8)
    assert after(state, event) == state


def test_a_late_end_brings_figures_but_ends_no_other_request() -> None:
    state = after(reducer.run_started(ready(), 7), Done(id=4, seconds=1, memory=MEMORY))
    assert [task.id for task in state.tasks] == [7]
    assert state.engine.memory == MEMORY


def test_a_newer_run_supersedes_and_the_older_answer_is_dropped() -> None:
    state = reducer.run_started(reducer.run_started(ready(), 7), 8)
    assert [task.id for task in state.tasks] == [8]
    state = after(state, FeaturesFound(id=7, result=samples.features("old")), Stopped(id=7))
    assert state.runs == ()
    state = after(state, FeaturesFound(id=8, result=RESULT))
    assert [run.result for run in state.runs] == [RESULT]


def test_a_run_and_steering_go_on_side_by_side() -> None:
    state = reducer.run_started(steering(one_run(), 7), 8)
    assert {task.id for task in state.tasks} == {7, 8}
    state = after(state, Done(id=8, seconds=1, memory=MEMORY))
    assert [task.id for task in state.tasks] == [7]


def test_progress_belongs_to_its_request() -> None:
    state = reducer.run_started(steering(one_run(), 7), 8)
    state = after(state, Progress(id=8, text="reading", done=1, total=2))
    assert [(t.id, t.text, t.done) for t in state.tasks] == [(7, "generating", 0), (8, "reading", 1)]


def test_what_was_stopped_answers_no_more() -> None:
    state = reducer.stopped(reducer.run_started(ready(), 7), AT)
    assert state.tasks == ()
    assert after(state, FeaturesFound(id=7, result=RESULT)).runs == ()


def test_only_a_run_under_way_is_slow() -> None:
    state = reducer.request_is_slow(reducer.run_started(one_run(), 7), 7)
    assert state.stale
    assert not reducer.request_is_slow(one_run(), 5).stale
    assert not reducer.run_started(state, 8).stale


@pytest.mark.parametrize("start", [reducer.run_started, steering])
def test_a_failed_request_ends_and_says_where(start: Callable[[State, int], State]) -> None:
    before = one_run()
    state = after(start(before, 7), Failed(id=7, error=FAULT))
    assert state.tasks == ()
    assert state.notice is not None
    assert state.notice.where == ("prompt" if start is reducer.run_started else "steering")
    assert state.notice.detail == "long story"
    assert state.runs == before.runs
    assert start(state, 8).notice is None


def test_a_lost_engine_takes_its_requests_and_nothing_else() -> None:
    before = after(reducer.toggle_mark(one_run(), WITH_PAGE), CardRead(card=fake_card(WITH_PAGE)))
    state = after(steering(reducer.run_started(before, 7), 8), EngineLost("killed"))
    assert state.engine.phase == "lost"
    assert state.engine.deaths == 1
    assert state.tasks == ()
    assert state.notice is not None
    assert state.notice.level == "error"
    assert "killed" in state.notice.detail
    assert "killed" in state.log[-1].text
    for part in ("runs", "shown", "feature", "token", "marks", "cards", "rows"):
        assert getattr(state, part) == getattr(before, part)


def test_an_engine_restarted_goes_on_where_the_last_one_was() -> None:
    before = one_run()
    state = after(before, EngineLost("killed"), Hello(pid=2), OPENED)
    assert state.engine.phase == "ready"
    assert state.engine.deaths == 1
    assert state.notice is None
    assert state.rows == before.rows
    assert after(state, FeaturesFound(id=5, result=RESULT)).runs == before.runs


def test_opening_keeps_a_notice_that_is_no_error() -> None:
    state = reducer.notify(State(opening=Open(id=0)), Notice("A session was not closed."))
    assert after(state, OPENED).notice == Notice("A session was not closed.")
    assert after(reducer.notify(state, Notice(state.unready[0], "warning", state.unready[1])), OPENED).notice is None


def test_next_tokens_belong_to_the_run_just_found() -> None:
    following = ((NextToken(1, " x", 0.5),),)
    state = after(reducer.run_started(one_run(), 7), FeaturesFound(id=7, result=samples.features("new")))
    state = after(state, NextTokensFound(id=7, next_tokens=following))
    assert [run.result.next_tokens for run in state.runs] == [(), following]


def test_a_row_belongs_to_the_newest_run() -> None:
    other = FeatureRef("9-res-fk", 4001)
    state = reducer.show_run(ran(one_run(), request=6), -1)
    values = tuple(float(i) for i in range(8))
    state = after(state, RowRead(id=9, feature=other, values=values))
    assert state.values_of(other) is None
    assert reducer.show_run(state, 1).values_of(other) == values
    assert after(state, RowRead(id=9, feature=other, values=(1.0,))) == state


def test_cards_and_hints_are_gathered() -> None:
    state = after(one_run(), CardRead(card=fake_card(WITH_PAGE)), CardRead(card=fake_card(WITHOUT_PAGE)))
    state = after(state, HintsRead(hints={"a:1": "x"}), HintsRead(hints={"b:2": "y"}))
    assert set(state.cards) == {WITH_PAGE, WITHOUT_PAGE}
    assert state.hints == {"a:1": "x", "b:2": "y"}


def test_a_session_comes_back_to_the_screen_and_goes_into_the_file_again() -> None:
    session = samples.session()
    rows = (Intervention(WITH_PAGE, -2.5), Intervention(WITHOUT_PAGE, kind="ablate", to="mean"))
    view = msgspec.structs.replace(session.view, intervention=None, interventions=rows, off=(1,))
    session = msgspec.structs.replace(session, view=view, presets=(Preset("both", rows),), evidence=(EVIDENCE,))
    again = to_session(from_session(State(opening=session.opening), session), session)
    for field in set(msgspec.structs.asdict(session)) - {"updated", "owner", "versions"}:
        assert getattr(again, field) == getattr(session, field), field


def test_a_session_from_before_the_engine_was_open_hides_no_engine() -> None:
    bare = msgspec.structs.replace(samples.session(), model=None, dictionaries=())
    state = from_session(ready(), bare)
    assert state.engine.model == OPENED.model
    assert set(state.dictionaries) == {"4-res-fk", "9-res-fk", "14-res-fk"}


def test_a_damaged_view_is_shown_as_far_as_it_goes() -> None:
    session = samples.session()
    wild = msgspec.structs.replace(session.view, run=7, token=99, steer=7)
    state = from_session(State(opening=session.opening), msgspec.structs.replace(session, view=wild))
    assert state.run is None
    assert state.rows == ()
    assert reducer.show_run(state, -1).result == session.runs[0].result
