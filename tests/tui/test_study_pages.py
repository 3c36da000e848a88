"""Results of studies on the screen: their sections, what is marked and taken from them, and sessions that hold them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine.protocol import FeatureRef, Open, SetMember, StudyResult
from sessions.model import Owner, StudyRecord
from sessions.store import new_session, path_of, read_session, write_session
from tests.samples import AT
from tests.tui.driving import SIZES, Driver, driving, replaying
from tests.tui.test_studies import at_once, fill, finished, form, listed, page, run
from tui import study_reducer
from tui.recorder import to_session
from tui.screens.page import HelpPage
from tui.screens.study_list import QuicklistPage
from tui.screens.study_page import StudyPage
from tui.state import State, Task


@asynccontextmanager
async def with_result(size: tuple[int, int] = (120, 40), study: str = "health") -> AsyncIterator[Driver]:
    async with driving(size) as user:
        await run(user, study)
        await finished(user)
        yield user


async def section(user: Driver, kind: str, place: int = 0) -> None:
    """Go to a section of the page."""
    shown = page(user)
    wanted = [n for n, s in enumerate(shown._sections) if s.kind == kind][place]
    while shown._at != wanted:
        await user.press("]")


# --- the page of a result -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_every_section_is_shown(size: tuple[int, int]) -> None:
    async with with_result(size) as user:
        shown = page(user)
        assert "How many were studied." in user.text
        assert "All numbers come from checksums" in user.text
        seen = set()
        for one in shown._sections:
            assert f"{one.title}›" in user.lines()[1]
            assert one.kind == "figures" or any(line.strip() for line in user.lines()[2:-1])
            seen.add(user.text)
            await user.press("]")
        assert len(seen) == len(shown._sections)
        assert shown._at == 0
        await user.press("[", "4")
        assert shown._at == 3


async def test_a_feature_of_a_table_is_marked_and_taken() -> None:
    async with with_result() as user:
        await section(user, "table")
        await user.press("j", "j", "space")
        feature = page(user).table.current
        assert feature is not None
        assert user.state.marks == (feature,)
        assert "▌●" in user.text
        await user.press("space")
        assert user.state.marks == ()
        await user.press("enter")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == feature
        assert user.app.inspect.at == "card"


async def test_a_point_of_a_scatter_is_marked_and_taken() -> None:
    async with with_result() as user:
        await section(user, "plot", 3)
        await user.press("n", "n")
        feature = page(user).plot.current
        assert feature is not None
        await user.press("space")
        assert user.state.marks == (feature,)
        await user.press("enter")
        assert user.app.screen is user.app.inspect
        assert user.state.feature == feature


@pytest.mark.parametrize(("widget", "number", "further"), [("table", 0, "j"), ("plot", 3, "n")])
async def test_enter_takes_what_it_was_pressed_on_when_keys_come_in_one_piece(
    widget: str, number: int, further: str
) -> None:
    async with with_result() as user:
        await section(user, widget, number)
        await user.press(further)
        feature = getattr(page(user), widget).current
        assert feature is not None
        at_once(user, "enter", further)
        await user.until(lambda s: s.feature == feature)


async def test_a_line_without_a_feature_says_so() -> None:
    async with with_result() as user:
        await section(user, "table", 1)
        await user.press("enter")
        assert "names no feature" in user.text
        await user.press("space")
        assert "no feature to mark" in user.text


async def test_a_set_is_marked_steered_and_listed() -> None:
    async with with_result() as user:
        await section(user, "set")
        features = page(user).set.features
        await user.press("space")
        assert user.state.marks == features
        assert f"{len(features)} features marked" in user.text
        await user.press("x")
        assert isinstance(user.app.screen, QuicklistPage)
        assert "https://neuronpedia.org/quick-list" in user.text.replace("www.", "")
        assert f"{len(features)} features" in user.text
        await user.press("escape", "space")
        assert user.state.marks == ()
        await user.press("s")
        assert user.app.screen is user.app.inspect
        assert tuple(row.intervention.feature for row in user.state.steering.rows) == features
        assert user.app.inspect.at == "steering"


async def test_the_marks_of_a_set_are_taken_away_at_once() -> None:
    async with with_result() as user:
        await section(user, "set")
        await user.press("space")
        seen: list[State] = []
        change = user.app.change

        def watched(step: Callable[[State], State]) -> None:
            change(step)
            seen.append(user.state)

        user.app.change = watched  # type: ignore[method-assign]
        await user.press("space")
        assert [len(state.marks) for state in seen] == [0]


async def grow(user: Driver, result: StudyResult) -> None:
    """The engine has more of the study under way, by hand."""
    running = (Task(99, "study", "studying"),)
    user.app.change(lambda s: study_reducer.grown(msgspec.structs.replace(s, tasks=running), result, AT))
    await user.settle()


async def test_a_section_that_shows_goes_on_showing_while_others_come_before_it() -> None:
    async with with_result() as user:
        whole = user.state.studies[0].result
        first = msgspec.structs.replace(whole, views=whole.views[3:], tables=whole.tables[1:], finished=False)
        await user.press("escape")
        await grow(user, first)
        await user.press("g", "enter")
        await section(user, "table")
        await user.press("j", "j", "j")
        row = page(user).table.detail
        await grow(user, msgspec.structs.replace(whole, finished=False))
        shown = page(user)
        assert shown._sections[shown._at].key == ("table", "bins")
        assert "How often features fire›" in user.lines()[1]
        assert shown.table.detail == row
        await user.press("escape", "enter")
        assert page(user)._sections[page(user)._at].key == ("table", "bins")


async def test_the_cursor_of_a_set_stays_on_its_feature_while_others_come_before_it() -> None:
    async with with_result() as user:
        whole = user.state.studies[0].result
        chosen = whole.sets[0]
        growing = msgspec.structs.replace(whole, finished=False)
        await user.press("escape")
        await grow(user, growing)
        await user.press("g", "enter")
        await section(user, "set")
        await user.press("j", "j")
        feature = page(user).set.current
        assert feature == chosen.members[2].feature
        first = tuple(SetMember(FeatureRef("4-res-fk", 5000 + n), 9.0) for n in range(60))
        more = msgspec.structs.replace(chosen, members=(*first, *chosen.members))
        await grow(user, msgspec.structs.replace(growing, sets=(more,)))
        assert page(user).set.current == feature
        assert any(line.startswith("▌") and str(feature) in line for line in user.lines())
        gone = msgspec.structs.replace(chosen, members=first)
        await grow(user, msgspec.structs.replace(growing, sets=(gone,)))
        assert page(user).set.current == first[-1].feature


@pytest.mark.parametrize("size", SIZES)
async def test_below_a_table_stands_what_its_lines_have_no_room_for(size: tuple[int, int]) -> None:
    async with with_result(size) as user:
        await section(user, "table")
        assert "row 1/12 of 36: only 12 of 36 rows are here" in user.text
        await user.press("greater_than_sign", "greater_than_sign", "j")
        assert "row 2/12 of 36" in user.text
        assert "sorted by ▼effect: In logits." in " ".join(user.text.split())
        assert page(user).table.detail in " ".join(" ".join(user.lines()[-5:]).split())
        await section(user, "table", 2)
        assert "row 1/10 · < > sort by a column" in user.text
        await section(user, "set")
        assert "row 1/" not in user.text


async def test_long_cells_are_readable_whole() -> None:
    async with with_result() as user:
        whole = user.state.studies[0].result
        words = " ".join(f"word{n}" for n in range(90))
        table = whole.tables[0]
        long = ((*table.rows[0][:3], words, *table.rows[0][4:]), *table.rows[1:])
        longer = msgspec.structs.replace(table, rows=(table.rows[1], *long))
        await user.press("escape")
        await grow(user, msgspec.structs.replace(whole, tables=(longer, *whole.tables[1:]), finished=False))
        await user.press("g", "enter")
        await section(user, "table")
        assert "word89" not in user.text
        await user.press("j")
        assert " ".join(words.split()[40:]) in " ".join(user.text.split())
        height = page(user).table.size.height
        await user.press("k")
        assert page(user).table.size.height == height


async def test_a_result_is_deleted_and_comes_back() -> None:
    async with with_result() as user:
        record = user.state.studies[0]
        await user.press("d")
        assert user.state.studies == ()
        assert "u undo" in user.text
        await user.press("u")
        assert user.state.studies == (record,)
        await user.press("g", "enter")
        assert page(user).record is record


async def test_the_form_of_a_result_has_its_settings() -> None:
    async with driving() as user:
        await run(user, "health", tokens="640")
        await finished(user)
        await user.press("a")
        assert form(user)._texts["tokens"] == "640"
        await fill(user, "tokens", "999")
        await user.press("enter")
        await user.until(lambda s: len(s.studies) == 2 and not s.tasks)
        assert page(user).record is user.state.studies[1]
        await user.press("escape")
        assert len([e for e in listed(user).list.entries if isinstance(e, StudyRecord)]) == 2
        assert listed(user).list.current is user.state.studies[1]


async def test_a_page_opens_where_it_was_left() -> None:
    async with with_result() as user:
        await section(user, "set")
        await user.press("enter")
        await user.press("7", "enter")
        assert page(user)._sections[page(user)._at].kind == "set"


async def test_keys_are_explained() -> None:
    async with with_result() as user:
        await user.press("?")
        assert isinstance(user.app.screen, HelpPage)
        assert user.lines()[1].startswith(" 7 Studies: the page of a result")


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_recording_shows_results_and_runs_nothing(size: tuple[int, int]) -> None:
    async with with_result() as user:
        session = to_session(user.state, new_session(Open(id=0)))
    async with replaying(session, size) as user:
        await user.press("escape", "7", "enter")
        assert page(user).record == session.studies[0]
        await section(user, "table")
        feature = page(user).table.current
        await user.press("a", "enter")
        assert "This is a recording" in user.text
        assert user.state.tasks == ()
        await user.press("escape", "enter")
        assert user.state.feature == feature


async def test_results_are_in_the_file_and_in_the_session_resumed() -> None:
    base = new_session(Open(id=0))
    async with driving(session=base) as user:
        await run(user, "health")
        await finished(user)
        await user.until(lambda s: s.saved)
        saved = read_session(path_of(base))
        assert [record.result.study for record in saved.studies] == ["health"]
    async with driving(session=saved) as user:
        await user.press("escape", "7", "enter")
        assert page(user).record == saved.studies[0]
        await user.press("escape")
        await user.press("a")
        assert form(user)._texts["tokens"] == "200000"


async def test_a_study_under_way_stays_in_its_session_when_another_is_resumed() -> None:
    base = new_session(Open(id=0))
    async with with_result() as user:
        other = to_session(user.state, new_session(Open(id=0)))
    dead = msgspec.structs.replace(other, owner=Owner(2**22 + 1, socket.gethostname()), id=f"{other.id}x")
    write_session(path_of(dead), dead)
    async with driving(session=base) as user:
        assert user.state.runs == ()
        await run(user, "logits", features=user.waiting)
        await user.press("escape", "escape", "2", "U")
        assert [record.result.study for record in user.state.studies] == ["health"]
        assert user.state.study.growing is None
        assert user.state.tasks == ()
        left = read_session(path_of(base))
        assert [(r.result.study, r.result.finished) for r in left.studies] == [("logits", False)]
        assert left.owner is None
        user.open_now()
        await user.pilot.pause(0.3)
        assert [record.result.study for record in user.state.studies] == ["health"]
        user.app.save(closing=True)
        assert [record.result.study for record in read_session(path_of(dead)).studies] == ["health"]


async def test_leaving_in_mid_study_keeps_what_was_found() -> None:
    base = new_session(Open(id=0))
    async with driving(session=base) as user:
        await run(user, "health", text=user.waiting)
        user.app.save(closing=True)
        saved = read_session(path_of(base))
        assert [record.result.finished for record in saved.studies] == [False]


async def test_a_result_of_a_newer_saescope_is_shown() -> None:
    async with with_result() as user:
        base = to_session(user.state, new_session(Open(id=0)))
    result = msgspec.structs.replace(base.studies[0].result, study="unheard-of", views=())
    newer = msgspec.structs.replace(base, studies=(StudyRecord(AT, result),))
    async with replaying(newer) as user:
        await user.press("escape", "7", "enter")
        assert "unheard-of" in user.lines()[0]
        await user.press("a")
        assert isinstance(user.app.screen, StudyPage)
        assert "does not know this study" in user.text
