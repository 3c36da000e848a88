"""Studies on the screen: chosen, filled in, run, watched, looked at, marked from, deleted, kept in the session."""

from __future__ import annotations

import pytest
from textual import events

from engine.protocol import FeatureRef, StudyResult
from tests.tui.driving import SIZES, Driver, driving
from tui import reducer
from tui.screens.studies import StudiesPage
from tui.screens.study_form import StudyForm
from tui.screens.study_page import StudyPage

FEATURE = FeatureRef("9-res-fk", 31)


def at_once(user: Driver, *keys: str) -> None:
    """Keys that arrive in one piece, as over a slow line."""
    for key in keys:
        user.app.post_message(events.Key(key, key if len(key) == 1 else None))


def listed(user: Driver) -> StudiesPage:
    assert isinstance(user.app.screen, StudiesPage)
    return user.app.screen


def form(user: Driver) -> StudyForm:
    assert isinstance(user.app.screen, StudyForm)
    return user.app.screen


def page(user: Driver) -> StudyPage:
    assert isinstance(user.app.screen, StudyPage)
    return user.app.screen


async def open_form(user: Driver, study: str) -> StudyForm:
    """From the panes to the form of a study."""
    if user.app.inspect.at == "prompt":
        await user.press("escape")
    await user.press("7")
    shown = listed(user)
    place = next(n for n, entry in enumerate(shown.list.entries) if isinstance(entry, tuple) and entry[0] == study)
    shown.list.show_cursor(place)
    await user.press("enter")
    return form(user)


async def fill(user: Driver, name: str, text: str) -> None:
    """Put a text on the line of a setting, as a paste would."""
    shown = form(user)
    place = next(n for n, field in enumerate(shown._fields) if field.name == name)
    await user.press("pageup", *["down"] * place, "ctrl+u")
    shown.line.insert_text_at_cursor(text)
    await user.settle()


async def run(user: Driver, study: str = "health", **texts: str) -> StudyPage:
    """Carry a study out and wait for its first result."""
    await open_form(user, study)
    for name, text in texts.items():
        await fill(user, name, text)
    await user.press("enter")
    await user.until(lambda s: s.studies or s.study.growing)
    return page(user)


async def finished(user: Driver) -> StudyResult:
    state = await user.until(lambda s: s.studies and not s.tasks)
    return state.studies[-1].result


# --- the list -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_all_studies_are_listed_with_what_they_do(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        for pane in ("2", "3", "4", "5", "6"):
            await user.press("escape", pane, "7")
            assert "health        How good dictionaries are on text" in user.text
            assert "walk" in user.text
            assert "results of this session" not in user.text
            await user.press("escape")
            assert user.app.screen is user.app.inspect


async def test_a_digit_in_the_prompt_is_text() -> None:
    async with driving() as user:
        await user.press("escape", "1", "7")
        assert user.state.draft == "7"
        assert user.app.screen is user.app.inspect


async def test_the_palette_opens_the_studies() -> None:
    async with driving() as user:
        await user.press("escape", "ctrl+p", *"pane: studies", "enter")
        assert isinstance(user.app.screen, StudiesPage)


async def test_keys_that_come_at_once_open_a_form() -> None:
    async with driving() as user:
        await user.press("escape", "2")
        at_once(user, "7", "down", "down", "enter")
        await user.pilot.pause(0.3)
        await user.settle()
        assert form(user)._study == "steering"


# --- the form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_form_shows_every_setting(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        shown = await open_form(user, "universality")
        for field in shown._fields:
            assert any(line[2:].startswith(field.label) for line in user.lines()), field.label
        assert user.lines()[0].startswith(" universality study")
        assert user.lines()[0].endswith("enter runs · esc back")


async def test_what_is_typed_goes_where_the_cursor_is_even_at_once() -> None:
    async with driving() as user:
        shown = await open_form(user, "select")
        at_once(user, "down", "right", "down", "5", "down", "7", "7", "down", "e", "up", "up")
        await user.pilot.pause(0.2)
        await user.settle()
        assert {key: shown._texts[key] for key in ("rule", "threshold", "count", "method")} == {
            "rule": "per-site", "threshold": "5", "count": "77", "method": "exact"
        }  # fmt: skip
        assert shown.line.value == "5"


async def test_what_does_not_fit_is_said_at_its_line_and_nothing_is_sent() -> None:
    async with driving() as user:
        shown = await open_form(user, "health")
        await fill(user, "rare", "7")
        await fill(user, "tokens", "many")
        await user.press("enter")
        assert form(user) is shown
        assert "tokens: 'many' is not a whole number." in user.text
        assert shown.here.name == "tokens"
        assert any(line.startswith("▌!tokens") for line in user.lines())
        await user.press("ctrl+u", *"64", "enter")
        assert "rare: expected a number < 1.0." in user.text
        assert shown.here.name == "rare"
        assert user.state.task("study") is None
        await user.press("ctrl+u", "enter")
        await user.until(lambda s: s.studies)
        assert user.state.studies[0].result.settings["tokens"] == 64


async def test_features_and_prompt_are_those_of_the_screen() -> None:
    async with driving() as user:
        state = await user.run()
        shown = await open_form(user, "noise")
        assert shown._texts["features"] == str(state.feature)
        assert state.run is not None
        assert shown._texts["prompt"] == state.run.result.prompt
        await user.press("escape", "escape")
        marks = (FEATURE, FeatureRef("4-res-fk", 2))
        user.app.change(lambda s: reducer.mark_all(s, marks))
        shown = await open_form(user, "noise")
        assert shown._texts["features"] == "9-res-fk:31, 4-res-fk:2"
        await user.press("enter")
        result = await finished(user)
        assert result.settings["features"] == ["9-res-fk:31", "4-res-fk:2"]


async def test_what_was_typed_last_is_there_again() -> None:
    async with driving() as user:
        await run(user, "health", tokens="640", text='"a, b.txt"')
        await finished(user)
        await user.press("escape", "escape")
        shown = await open_form(user, "health")
        assert shown._texts["tokens"] == "640"
        assert shown._texts["text"] == '"a, b.txt"'


async def test_a_prompt_of_several_lines_is_pasted_whole() -> None:
    async with driving() as user:
        shown = await open_form(user, "walk")
        shown.line.post_message(events.Paste("one\rtwo"))
        await user.settle()
        await user.press("enter")
        assert (await finished(user)).settings["prompt"] == "one\ntwo"


async def test_a_click_goes_to_a_line_and_keeps_what_was_typed() -> None:
    async with driving() as user:
        shown = await open_form(user, "health")
        await user.press("down", *"640")
        await user.pilot.click("#study-form", offset=(3, 3))
        await user.settle()
        assert shown.here.name == "rare"
        assert shown._texts["tokens"] == "640"


@pytest.mark.parametrize(("rows", "wheel"), [(3, events.MouseScrollDown), (8, events.MouseScrollUp)])
async def test_the_field_stays_on_its_line_where_the_wheel_moves_the_lines(
    rows: int, wheel: type[events.MouseScrollDown] | type[events.MouseScrollUp]
) -> None:
    async with driving((80, 14)) as user:
        shown = await open_form(user, "select")
        await user.press("down", *["down"] * (rows - 1))
        await user.press(*"77")
        top = shown.list.scroll_offset.y
        shown.list.post_message(wheel(shown.list, 2, 2, 0, 1, 0, False, False, False, screen_x=2, screen_y=8))
        await user.settle()
        assert shown.list.scroll_offset.y != top
        for y, line in enumerate(user.lines()):
            row = y - shown.list.region.y + shown.list.scroll_offset.y
            if 0 <= y - shown.list.region.y < shown.list.size.height and row < len(shown._fields):
                assert line[2:].startswith(shown._fields[row].label)
                assert ("77" in line) == (row == shown.list.cursor)
        await user.press("1")
        assert any("771" in line and shown.here.label in line for line in user.lines())


# --- running ------------------------------------------------------------------------------------------------------


async def test_a_study_grows_on_its_page_and_is_recorded() -> None:
    async with driving() as user:
        shown = await run(user, "health", text=user.waiting)
        assert "e ends it" in user.lines()[0]
        assert shown.record is user.state.study.growing
        assert "4" in next(line for line in user.lines() if line.startswith(" features"))
        user.open_now()
        result = await finished(user)
        assert result.finished
        assert shown.record is user.state.studies[0]
        assert "finished · " in user.lines()[0]
        assert "12" in next(line for line in user.lines() if line.startswith(" features"))


async def test_one_goes_on_working_while_a_study_runs() -> None:
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("escape", "escape", "2")
        assert "studying" in user.lines()[-1]
        await user.press("1")
        await user.type("in between")
        await user.press("enter")
        state = await user.until(lambda s: s.runs)
        assert state.study.growing is not None
        assert state.task("study") is not None
        user.open_now()
        await finished(user)
        assert "The health study is done" in user.text
        assert "7 shows it." in user.text


async def test_escape_stops_a_study_at_last_and_keeps_what_is_there() -> None:
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("escape", "escape", "1", "x", "escape")
        assert user.state.task("study") is not None
        await user.press("4", "escape")
        assert user.state.task("study") is not None
        assert "A study is under way. Escape again ends it" in user.lines()[-1]
        await user.press("escape")
        state = await user.until(lambda s: s.studies)
        assert state.tasks == ()
        assert not state.studies[0].result.finished
        assert "The health study was stopped after" in user.lines()[-1]
        assert state.log[-1].text.endswith("stopped before it was finished")
        await user.press("7", "enter")
        assert "stopped · " in user.lines()[0]
        assert "What is here is what was found until now" in user.text


async def test_an_escape_much_later_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app._ASKED_FOR", 0.2)
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("escape", "escape", "4", "escape")
        assert user.state.ending
        await user.until(lambda s: s.notice is None)
        await user.press("escape")
        assert user.state.ending
        assert user.state.task("study") is not None


async def test_escape_in_a_text_is_no_answer() -> None:
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("escape", "escape", "4", "escape", "1", "escape")
        assert user.state.ending
        assert user.state.task("study") is not None


async def test_a_key_of_the_page_ends_the_study() -> None:
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("e")
        state = await user.until(lambda s: s.studies)
        assert state.tasks == ()
        assert "kept" in user.lines()[-1]
        await user.press("e")
        assert "Nothing runs." in user.lines()[-1]


async def test_a_study_that_found_nothing_yet_says_so_when_it_is_ended() -> None:
    async with driving() as user:
        await open_form(user, "health")
        await fill(user, "text", "/slow 30")
        await user.press("enter", "e")
        assert "The health study was stopped before it had found anything." in user.lines()[-1]
        assert user.state.tasks == ()
        assert user.state.studies == ()


async def test_the_page_of_one_study_does_not_end_another() -> None:
    async with driving() as user:
        await run(user, "logits")
        await finished(user)
        record = user.state.studies[0]
        await user.press("escape", "escape")
        await run(user, "health", text=user.waiting)
        await user.until(lambda s: s.study.growing)
        await user.press("escape", "G", "g", "j", "enter")
        assert page(user).record is record
        await user.press("e")
        assert "The health study is under way" in user.lines()[-1]
        assert user.state.task("study") is not None
        await user.press("escape", "e")
        assert "what it found is kept" in user.lines()[0]
        assert user.state.task("study") is None


async def test_another_study_stops_the_first_only_when_asked_twice() -> None:
    async with driving() as user:
        await run(user, "health", text=user.waiting)
        await user.press("escape")
        await user.press("escape")
        shown = await open_form(user, "logits")
        await user.press("enter")
        assert form(user) is shown
        assert "The health study is under way" in user.text
        await user.press("enter")
        state = await user.until(lambda s: len(s.studies) == 2 and not s.tasks)
        assert [(r.result.study, r.result.finished) for r in state.studies] == [("health", False), ("logits", True)]
        assert page(user).record is state.studies[1]


@pytest.mark.parametrize("when", ["/fail", "/fail later"])
async def test_an_error_is_said_on_the_page_and_in_the_form(when: str) -> None:
    async with driving() as user:
        await open_form(user, "health")
        await fill(user, "text", when)
        await user.press("enter")
        await user.until(lambda s: s.study.failed and not s.tasks)
        assert "ask the fake engine to fail" in user.text
        assert "Choose others." in user.text
        await user.press("a")
        assert form(user)._texts["text"] == when
        assert "ask the fake engine to fail" in user.text


async def test_a_dead_engine_keeps_what_was_found() -> None:
    async with driving() as user:
        await run(user, "health", text="/slow 0.2 /die later")
        state = await user.until(lambda s: s.studies)
        assert not state.studies[0].result.finished
        assert page(user).record is state.studies[0]


async def test_without_an_engine_the_form_says_so() -> None:
    async with driving(held=True) as user:
        await open_form(user, "health")
        await user.press("enter")
        assert "The engine is not ready yet." in user.text
        user.open_now()
        await user.until(lambda s: s.engine.phase == "ready")
        assert "The engine is not ready yet." not in user.text
        await user.press("enter")
        await finished(user)
