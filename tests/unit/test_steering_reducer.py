"""What steering makes of what the engine says: texts that stream, what is kept of them, what waits."""

from __future__ import annotations

import msgspec
import pytest

from engine.client import EngineLost
from engine.protocol import (
    Adjusted,
    AnyEvent,
    Change,
    ControlFound,
    Done,
    EngineFault,
    Failed,
    Generated,
    Generation,
    ImpactFound,
    Intervention,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    Memory,
    RankAblations,
    Steer,
    Steered,
    SteerResult,
    Stopped,
    SweepGrown,
)
from sessions.model import SteerRecord, View
from tests import samples
from tests.samples import AT, PROMPT, WITH_PAGE, WITHOUT_PAGE
from tests.unit.test_reducer import after, one_run, ran
from tui import reducer, steering_reducer, steering_rows
from tui.recorder import Recorder, to_session
from tui.restore import from_session
from tui.state import State, TaskKind
from tui.steering_state import KEPT_EVIDENCE, KEPT_STEERS, Sampling, Texts, diverging, pieces, sampling_of, texts_of

ADD = Intervention(WITH_PAGE, 22.05)
OTHER = Intervention(WITHOUT_PAGE, kind="ablate", to="mean")
MEMORY = Memory(5, 9)


def rows(*interventions: Intervention) -> State:
    return steering_rows.put_rows(one_run(), interventions or (ADD,))


def asked(state: State, request: int = 8, kind: TaskKind = "steer") -> State:
    return steering_reducer.started(state, kind, request)


def said(request: int = 8, state: State | None = None, tokens: int = 4) -> list[AnyEvent]:
    """What the fake engine says to the run that the pane describes."""
    state = state or rows()
    steer = steering_reducer.steer_of(state, request)
    assert steer is not None
    return samples.answers(msgspec.structs.replace(steer, tokens=tokens))


def texts(state: State) -> Texts:
    assert state.steering.texts is not None
    return state.steering.texts


def test_text_streams_and_is_kept() -> None:
    events = said()
    state = after(asked(rows()), *events[:2])
    assert pieces(texts(state), "plain") == (" plain0", " plain1")
    assert texts(state).plain == " plain0 plain1"
    assert len(texts(state).kl) == 2
    assert state.steering.shown == -1
    state = after(state, *events[2:])
    result = next(e.result for e in events if isinstance(e, Steered))
    assert [record.result for record in state.steers] == [result]
    assert state.steering.shown == 0
    assert texts(state) == msgspec.structs.replace(texts_of(result), request=8)
    assert state.tasks == ()
    assert state.log[-1].text == "steered 9-res-fk:31 +22.1: 4 tokens"


def test_the_texts_before_stay_until_others_come() -> None:
    first = after(asked(rows()), *said())
    state = asked(steering_rows.put_strength(first, 0, 5.0), 9)
    assert texts(state) == texts(first)
    state = after(state, said(9)[0])
    assert len(texts(state).steps) == 1
    assert texts(state).interventions == (Intervention(WITH_PAGE, 5.0),)
    assert state.steering.shown == -1


def test_what_is_slow_dims_the_texts_before_and_no_others() -> None:
    first = after(asked(rows()), *said())
    state = reducer.request_is_slow(asked(first, 9), 9)
    assert state.stale_texts
    assert not after(state, said(9)[0]).stale_texts
    assert not asked(state, 10).stale_texts


def test_an_arm_that_has_ended_says_nothing_more() -> None:
    state = after(asked(rows()), Generated(id=8, step=0, plain=" a", steered=" b", kl=0.5))
    state = after(state, Generated(id=8, step=1, plain=None, steered=" b d", kl=None))
    assert (texts(state).plain, texts(state).steered, texts(state).kl) == (" a", " b d", (0.5,))
    assert pieces(texts(state), "steered") == (" b", " d")
    assert diverging(texts(state)) == 0


def test_late_text_changes_nothing() -> None:
    state = asked(asked(rows()), 9)
    assert after(state, *said(8)[:-1]) == state
    assert after(state, *said(8)[:-1], Adjusted(id=8, change=Change(1, (ADD,)))).steering == state.steering


def test_a_superseded_run_leaves_no_record() -> None:
    state = after(asked(rows()), *said()[:2])
    state = after(asked(state, 9), *said(8)[2:], *said(9))
    assert len(state.steers) == 1


def test_at_most_two_hundred_results_are_kept() -> None:
    result = samples.steered()
    state = rows()
    for number in range(KEPT_STEERS + 5):
        steered = Steered(id=number, result=msgspec.structs.replace(result, seconds=float(number)))
        state = after(asked(state, number), steered, Done(id=number, seconds=0.1, memory=MEMORY))
    assert len(state.steers) == KEPT_STEERS
    assert state.steers[-1].result.seconds == KEPT_STEERS + 4
    assert state.steering.shown == KEPT_STEERS - 1


def test_a_change_in_mid_stream_is_noted() -> None:
    state = after(asked(rows()), *said()[:2])
    state = steering_reducer.adjusting(state, 9)
    assert state.steering.adjusting == 9
    change = Change(2, (Intervention(WITH_PAGE, 60.0),))
    state = after(state, Adjusted(id=8, change=change))
    assert state.steering.adjusting == 0
    assert texts(state).changes == (change,)
    assert steering_reducer.change_label(state, (ADD,), change.interventions) == "+60.0"
    assert "ablate to mean" in steering_reducer.change_label(state, (ADD,), (ADD, OTHER))


def test_a_change_that_came_too_late_becomes_a_run() -> None:
    state = steering_reducer.adjusting(after(asked(rows()), *said()[:-1]), 9)
    state = after(state, Done(id=8, seconds=0.1, memory=MEMORY))
    assert (state.steering.adjusting, state.steering.waits) == (0, "steer")


def test_a_change_that_is_refused_becomes_a_run() -> None:
    state = steering_reducer.adjusting(after(asked(rows()), *said()[:2]), 9)
    state = after(state, Failed(id=9, error=EngineFault("bad_request", "No.")))
    assert (state.steering.adjusting, state.steering.waits) == (0, "steer")
    assert state.task("steer") is not None


def test_another_run_is_more_than_other_strengths() -> None:
    state = steering_reducer.wait(rows(), "steer")
    assert steering_reducer.wait(state, "adjust") is state
    assert steering_reducer.wait(steering_reducer.wait(rows(), "adjust"), "steer").steering.waits == "steer"
    assert asked(state).steering.waits == ""


@pytest.mark.parametrize(
    "event", [Failed(id=8, error=EngineFault("bad_request", "No.")), EngineLost("killed")], ids=["failed", "lost"]
)
def test_what_went_wrong_is_not_tried_again_by_itself(event: AnyEvent | EngineLost) -> None:
    state = steering_reducer.wait(after(asked(rows()), *said()[:2]), "steer")
    state = after(state, event)
    assert (state.steering.waits, state.steering.adjusting, state.tasks) == ("", 0, ())
    assert len(texts(state).steps) == 2
    assert state.steering.rows == rows().steering.rows


def test_text_cut_off_is_kept_as_a_record_that_ends_there() -> None:
    state = steering_rows.put_sampling(rows(), Sampling(tokens=7, seed=3, keep_error=False))
    state = after(asked(state), *said(state=state)[:3])
    state = steering_rows.put_sampling(state, Sampling(seed=99))  # of the next run
    state = steering_reducer.kept(state, AT, 1.5)
    result = state.steers[0].result
    assert result.plain == Generation(tuple(s.plain.token.id for s in result.steps if s.plain), texts(state).plain)
    assert (len(result.steps), result.seconds, result.first_divergence) == (3, 1.5, 1)
    assert result.provenance.settings["stopped"] is True
    assert sampling_of(result) == Sampling(tokens=7, seed=3, keep_error=False)
    assert result.provenance.model == "fake-1l"
    assert state.steering.shown == 0
    assert steering_reducer.kept(state, AT, 1.5) is state


def test_an_engine_that_dies_leaves_the_text_so_far() -> None:
    state = after(asked(rows()), *said()[:3], EngineLost("killed"))
    assert len(state.steers) == 1
    assert len(state.steers[0].result.steps) == 3


def test_nothing_is_kept_of_what_showed_nothing() -> None:
    first = after(asked(rows()), *said())
    state = asked(first, 9)
    assert steering_reducer.kept(state, AT, 0.0) is state


def test_another_prompt_takes_the_texts_away_and_the_rows_stay() -> None:
    state = asked(after(asked(rows()), *said()), 9)
    other = ran(state, "two words", 10)
    assert other.steering.texts is None
    assert other.task("steer") is None
    assert other.steering.coming is None
    assert other.steering.rows == state.steering.rows
    assert len(other.steers) == 1
    assert after(other, *said(9)[:-1]).steering.texts is None
    back = reducer.show_run(other, -1)
    assert texts(back) == texts_of(state.steers[0].result)
    assert back.steering.shown == 0
    assert reducer.show_run(back, 1).steering.texts is None


def test_the_same_prompt_run_again_keeps_texts_and_what_streams() -> None:
    state = asked(after(asked(rows()), *said()), 9)
    again = ran(state, PROMPT, 10)
    assert again.task("steer") is not None
    assert texts(again) == texts(state)


# --- evidence -----------------------------------------------------------------------------------------------------


def measured(state: State) -> State:
    """A control and a sweep of the rows."""
    steer = steering_reducer.steer_of(state, 8)
    assert steer is not None
    state = after(asked(state, 8, "control"), *samples.answers(MeasureControl(id=8, steer=steer)))
    return after(asked(state, 9, "sweep"), *samples.answers(MeasureSweep(id=9, steer=steer, controls=2)))


def test_evidence_is_kept_and_found_while_it_fits() -> None:
    state = measured(rows(ADD, OTHER))
    assert [r.control is not None for r in state.evidence] == [True, False]
    control = steering_reducer.found(state, "control")
    assert control is state.evidence[0].control
    assert steering_reducer.found(state, "sweep") is state.evidence[1].sweep
    assert steering_reducer.found(state, "sweep", varied=1) is None
    moved = steering_rows.put_strength(state, 0, 3.0)
    assert steering_reducer.found(moved, "control") is None
    assert steering_reducer.found(moved, "sweep") is state.evidence[1].sweep
    for other in (
        steering_rows.toggle(state, 1),
        steering_rows.next_seed(state),
        steering_rows.toggle_error(state),
        ran(state, "two words", 10),
    ):
        assert steering_reducer.found(other, "control") is None
        assert steering_reducer.found(other, "sweep") is None


def test_evidence_from_a_file_fits_as_well() -> None:
    state = steering_rows.put_sampling(rows(), Sampling(stop=("###",), watch=(" she",)))
    state = measured(state)
    record = state.evidence[0]
    read = msgspec.json.decode(msgspec.json.encode(record), type=type(record))
    assert steering_reducer.found(msgspec.structs.replace(state, evidence=(read,)), "control") is read.control


def test_ranked_ablations_fit_their_prompt() -> None:
    state = after(asked(rows(), 8, "ablations"), *samples.answers(RankAblations(id=8, prompt=PROMPT)))
    assert steering_reducer.found(steering_rows.toggle(state, 0), "ablations") is not None
    assert steering_reducer.found(ran(state, "two words", 10), "ablations") is None


def test_a_sweep_grows_and_is_kept_once() -> None:
    steer = Steer(id=9, prompt=PROMPT, interventions=(ADD,))
    events = samples.answers(MeasureSweep(id=9, steer=steer))
    grown = [e for e in events if isinstance(e, SweepGrown)]
    assert len(grown) > 2
    state = after(asked(rows(), 9, "sweep"), *grown)
    assert state.steering.sweep == grown[-1].result
    assert state.evidence == ()
    state = after(state, events[-1])
    assert [r.sweep for r in state.evidence] == [grown[-1].result]
    assert state.steering.sweep is None
    assert state.log[-1].text == "measured 17 strengths"


@pytest.mark.parametrize("end", [Stopped(id=9), EngineLost("killed")], ids=["stopped", "lost"])
def test_a_sweep_that_is_cut_off_is_kept_as_far_as_it_came(end: AnyEvent | EngineLost) -> None:
    steer = Steer(id=9, prompt=PROMPT, interventions=(ADD,))
    grown = [e for e in samples.answers(MeasureSweep(id=9, steer=steer)) if isinstance(e, SweepGrown)]
    state = after(asked(rows(), 9, "sweep"), grown[0], end)
    assert [r.sweep for r in state.evidence] == [grown[0].result]


def test_at_most_fifty_measurements_are_kept() -> None:
    found = samples.answer(MeasureImpact(id=1, prompt=PROMPT, interventions=(ADD,)), ImpactFound)
    state = rows()
    for number in range(1, KEPT_EVIDENCE + 4):
        state = after(
            asked(state, number, "impact"),
            msgspec.structs.replace(found, id=number),
            Done(id=number, seconds=0.1, memory=MEMORY),
        )
    assert len(state.evidence) == KEPT_EVIDENCE


@pytest.mark.parametrize("kind", ["steer", "control", "sweep", "impact", "ablations"])
def test_a_failure_is_said_in_the_pane(kind: TaskKind) -> None:
    state = after(asked(rows(), 8, kind), Failed(id=8, error=EngineFault("bad_request", "It is wrong.")))
    assert state.tasks == ()
    assert state.notice is not None
    assert state.notice.where == "steering"


def test_evidence_that_answers_nothing_is_late() -> None:
    found = samples.answer(MeasureControl(id=1, steer=Steer(id=1, prompt=PROMPT, interventions=(ADD,))), ControlFound)
    assert after(rows(), found).evidence == ()


# --- sessions -----------------------------------------------------------------------------------------------------


def old(result: SteerResult) -> SteerResult:
    """As it was written before steps were kept."""
    return msgspec.structs.replace(result, steps=(), scores=None, watched=(), acted=())


def test_sessions_from_before_steps_open_with_their_texts() -> None:
    session = samples.session()
    record = SteerRecord(AT, old(samples.steered()))
    state = from_session(State(opening=session.opening), msgspec.structs.replace(session, steers=(record,)))
    assert [row.intervention for row in state.steering.rows] == [Intervention(WITH_PAGE, -2.5)]
    assert pieces(texts(state), "steered") == (" plain0", " plain1", " steered2")
    assert diverging(texts(state)) == 2


def test_rows_come_from_the_result_where_the_view_has_none() -> None:
    session = samples.session()
    view = msgspec.structs.replace(session.view, intervention=None)
    state = from_session(State(opening=session.opening), msgspec.structs.replace(session, view=view))
    assert [row.intervention for row in state.steering.rows] == [Intervention(WITH_PAGE, 5.0)]
    assert all(row.on for row in state.steering.rows)


def test_texts_of_another_prompt_are_not_shown() -> None:
    session = samples.session()
    result = msgspec.structs.replace(samples.steered(), prompt="another")
    session = msgspec.structs.replace(session, steers=(SteerRecord(AT, result),))
    state = from_session(State(opening=session.opening), session)
    assert state.steering.texts is None
    assert len(state.steering.rows) == 1


def test_settings_come_back_as_far_as_the_result_has_them() -> None:
    state = steering_rows.put_sampling(rows(), Sampling(tokens=3, temperature=0.0, stop=("x",), seed=5))
    result = next(e.result for e in said(state=state, tokens=3) if isinstance(e, Steered))
    read = msgspec.json.decode(msgspec.json.encode(result), type=SteerResult)
    assert sampling_of(read) == Sampling(tokens=3, temperature=0.0, stop=("x",), seed=5)
    damaged = msgspec.structs.replace(result.provenance, settings={"tokens": "many", "seed": [1]})
    assert sampling_of(msgspec.structs.replace(result, provenance=damaged)) == Sampling()


def test_text_that_streams_does_not_write_the_file_again(tmp_path: pytest.TempPathFactory) -> None:
    session = samples.session()
    recorder = Recorder(tmp_path / "s.json", session)  # type: ignore[operator]
    state = asked(rows())
    recorder.mark_written(state)
    state = after(state, *said()[:3])
    assert not recorder.is_dirty(state)
    assert recorder.is_dirty(steering_rows.put_strength(state, 0, 1.0))
    assert recorder.is_dirty(after(state, *said()[3:]))


def test_the_view_names_rows_that_are_off() -> None:
    state = steering_rows.toggle(rows(ADD, OTHER), 0)
    recorded = samples.session()
    view: View = to_session(state, recorded).view
    assert (view.interventions, view.off, view.intervention) == ((ADD, OTHER), (0,), None)
