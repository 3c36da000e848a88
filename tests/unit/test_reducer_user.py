"""What the user does to the state: cursors, lists, marks, runs and the steering control."""

from __future__ import annotations

import msgspec
import pytest

from engine.fake import fake_card
from engine.protocol import CardRead, FeatureRef, FeaturesFound, HintsRead, Open
from tests import samples
from tests.samples import AT, WITH_PAGE, WITHOUT_PAGE
from tests.unit.test_reducer import after, one_run, ran, ready, two_runs
from tui import reducer
from tui.state import ORDERS, RANKS, Order, Row, State

RESULT = samples.features()
SOURCES = ("4-res-fk", "9-res-fk", "14-res-fk")


def ordered(order: Order) -> tuple[Row, ...]:
    state = one_run()
    while state.order != order:
        state = reducer.next_order(state)
    return state.rows


@pytest.mark.parametrize(("token", "clamped"), [(-5, 0), (0, 0), (3, 3), (7, 7), (8, 7), (10**9, 7)])
def test_the_token_cursor_stays_on_the_tokens(token: int, clamped: int) -> None:
    assert reducer.select_token(one_run(), token).token == clamped


def test_without_a_run_there_is_no_token_to_select() -> None:
    assert reducer.select_token(ready(), 3).token == 0
    assert ready().rows == ()


def test_the_same_text_again_keeps_the_token_and_the_feature() -> None:
    state = reducer.select_feature(reducer.select_token(one_run(), 2), WITH_PAGE)
    again = ran(state, request=6)
    assert (again.token, again.feature) == (2, WITH_PAGE)
    assert ran(state, "two words", 6).token == 1
    assert ran(state, "two words", 6).feature == WITH_PAGE


def test_a_feature_of_a_dictionary_no_longer_read_is_let_go() -> None:
    state = reducer.select_feature(one_run(), FeatureRef("gone", 1))
    assert ran(state, request=6).feature == RESULT.features[0].ref


def test_selecting_no_feature_shows_how_strongly_anything_fires() -> None:
    state = reducer.select_feature(one_run(), None)
    assert state.values is None
    top = max(RESULT.strength[1:])
    assert state.levels[1:] == pytest.approx([s / top for s in RESULT.strength[1:]])


def test_the_attention_sink_does_not_set_the_scale() -> None:
    state = one_run()
    assert state.values is not None
    assert state.values[0] == 5000
    assert state.peak == max(state.values[1:])
    assert max(state.levels[1:]) == 1
    assert state.levels[0] == 1


def test_rows_are_ordered_by_activation() -> None:
    rows = ordered("activation")
    assert [r.activation for r in rows] == sorted((h.activation for h in RESULT.features), reverse=True)
    assert len({r.activation for r in rows}) > 5


def test_rows_are_ordered_by_share_of_their_site() -> None:
    weak = msgspec.structs.replace(RESULT.sites[2], strongest=400.0)
    result = msgspec.structs.replace(RESULT, sites=(*RESULT.sites[:2], weak))
    state = one_run()
    state = msgspec.structs.replace(state, order="share", runs=(msgspec.structs.replace(state.runs[0], result=result),))
    shares = [(r.ref, r.activation / (400 if r.ref.source == "14-res-fk" else 40)) for r in state.rows]
    assert [r.share for r in state.rows] == pytest.approx([share for _, share in shares])
    assert shares == sorted(shares, key=lambda pair: -pair[1])
    assert state.rows[-1].ref.source == "14-res-fk"


def test_a_sink_of_one_site_keeps_its_place_but_has_no_share_and_no_colour() -> None:
    top = RESULT.features[0]
    sites = tuple(
        msgspec.structs.replace(s, sinks=(0, top.position)) if s.source == top.source else s for s in RESULT.sites
    )
    result = msgspec.structs.replace(RESULT, sites=sites)
    state = after(reducer.run_started(ready(), 5), FeaturesFound(id=5, result=result))
    assert (state.rows[0].ref, state.rows[0].sink, state.rows[0].share) == (top.ref, True, 0)
    assert state.feature == next(row.ref for row in state.rows if not row.sink), "not chosen of itself"
    selected = reducer.select_feature(state, top.ref)
    assert selected.sinks == {0, top.position}
    assert selected.peak < top.activation
    elsewhere = next(row for row in state.rows if row.ref.source != top.source and row.position == top.position)
    assert elsewhere.share > 0


def test_rows_are_ordered_by_layer_and_not_by_letter() -> None:
    rows = ordered("source")
    assert tuple(dict.fromkeys(r.ref.source for r in rows)) == SOURCES
    for source in SOURCES:
        found = [r.activation for r in rows if r.ref.source == source]
        assert found == sorted(found, reverse=True)


def test_rows_are_ordered_by_position() -> None:
    places = [(r.position, -r.activation) for r in ordered("position")]
    assert places == sorted(places)
    assert len({position for position, _ in places}) > 2


def test_orders_and_ranks_come_round() -> None:
    state = ready()
    orders, ranks = [], []
    for _ in range(5):
        orders.append(state.order)
        ranks.append(state.rank)
        state = reducer.next_rank(reducer.next_order(state))
    assert orders == [*ORDERS, ORDERS[0]]
    assert ranks == [*RANKS, *RANKS[:2]]


def test_a_filter_looks_at_names_and_hints() -> None:
    target = RESULT.features[3].ref
    state = after(one_run(), HintsRead(hints={str(target): "·Paris"}))
    assert [r.ref for r in reducer.filter_by(state, "pARIS").rows] == [target]
    assert target in [r.ref for r in reducer.filter_by(state, str(target)).rows]
    assert {r.ref.source for r in reducer.filter_by(state, "9-RES").rows} == {"9-res-fk"}
    assert reducer.filter_by(state, "nothing has this").rows == ()
    assert reducer.filter_by(state, "").rows == state.rows


def test_sites_come_one_after_another_and_round() -> None:
    state = one_run()
    seen = []
    for _ in range(4):
        state = reducer.next_site(state, 1)
        seen.append(state.site)
        assert {r.ref.source for r in state.rows} == ({state.site} if state.site else set(SOURCES))
    assert seen == [*SOURCES, None]
    assert reducer.next_site(state, -1).site == "14-res-fk"


def test_the_features_of_one_token() -> None:
    state = reducer.toggle_scope(reducer.select_token(one_run(), 3))
    expected = [(SOURCES[f.site], f.index, f.activation) for f in RESULT.per_token[3]]
    assert sorted((r.ref.source, r.ref.index, r.activation) for r in state.rows) == sorted(expected)
    assert {r.position for r in state.rows} == {3}
    assert reducer.toggle_scope(state).rows == one_run().rows


def test_marks_are_put_and_taken_in_order() -> None:
    state = reducer.toggle_mark(reducer.toggle_mark(one_run(), WITH_PAGE), WITHOUT_PAGE)
    assert state.marks == (WITH_PAGE, WITHOUT_PAGE)
    state = reducer.toggle_mark(state, WITH_PAGE)
    assert state.marks == (WITHOUT_PAGE,)
    assert reducer.toggle_mark(state, WITH_PAGE).marks == (WITHOUT_PAGE, WITH_PAGE)


def test_only_features_with_pages_show_one() -> None:
    assert {r.page for r in one_run().rows if r.ref.source == "9-res-fk"} == {"fake-1l/9-res-fk"}
    assert {r.page for r in one_run().rows if r.ref.source != "9-res-fk"} == {None}


def test_older_and_newer_runs_as_far_as_there_are_any() -> None:
    state = two_runs()
    assert state.shown == 1
    older = reducer.show_run(state, -1)
    assert older.result == RESULT
    assert reducer.show_run(older, -9) is older
    assert reducer.show_run(older, 9).shown == 1
    assert reducer.show_run(state, 1) is state
    assert reducer.show_run(ready(), -1).shown == -1


def test_the_token_cursor_fits_the_run_shown() -> None:
    state = reducer.select_token(reducer.show_run(two_runs(), -1), 7)
    assert reducer.show_run(state, 1).token == 1


def test_a_site_that_a_run_lacks_is_not_kept_for_it() -> None:
    state = reducer.next_site(two_runs(), -1)
    first = state.runs[0]
    short = msgspec.structs.replace(first.result, sites=first.result.sites[:1])
    state = msgspec.structs.replace(state, runs=(msgspec.structs.replace(first, result=short), state.runs[1]))
    assert state.site == "14-res-fk"
    assert reducer.show_run(state, -1).site is None


def test_a_draft_that_was_put_is_told_from_one_typed() -> None:
    state = reducer.set_draft(ready(), "typed")
    assert (state.draft, state.draft_put) == ("typed", 0)
    assert reducer.set_draft(state, "typed") is state
    assert reducer.put_draft(state, "typed").draft_put == 1


def test_a_queued_prompt_waits_until_it_runs() -> None:
    state = reducer.queue_prompt(State(opening=Open(id=0)), "later")
    assert (state.draft, state.queued) == ("later", "later")
    assert not reducer.run_started(state, 7).queued
    assert reducer.stopped(state, AT).queued == "later"


def test_a_queued_prompt_is_dropped_when_the_user_was_asked() -> None:
    state = reducer.queue_prompt(State(opening=Open(id=0)), "later")
    assert not state.dropping
    asked = reducer.ask_to_drop(state)
    assert asked.dropping
    assert asked.queued == "later"
    assert not reducer.notify(asked, None).dropping
    dropped = reducer.drop_queued(asked, AT)
    assert (dropped.queued, dropped.draft, dropped.dropping) == ("", "later", False)
    assert "dropped" in dropped.log[-1].text


def test_a_step_of_steering_is_measured_in_the_largest_known_activation() -> None:
    state = one_run()
    best = RESULT.features[0]
    assert state.scale_of(best.ref) == max(best.values[1:])
    assert after(state, CardRead(card=fake_card(best.ref))).scale_of(best.ref) == 44.1
    assert state.scale_of(FeatureRef("9-res-fk", 4001)) == 10
    assert state.scale_of(None) == 1


def test_the_log_keeps_its_last_500_lines() -> None:
    state = ready()
    for i in range(600):
        state = reducer.logged(state, AT, str(i))
    assert [line.text for line in state.log] == [str(i) for i in range(100, 600)]
