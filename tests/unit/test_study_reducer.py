"""Studies in the state: what is asked, grows, is kept, fails and is deleted; and the lines of their forms."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from engine.client import EngineLost
from engine.protocol import (
    STUDIES,
    Done,
    EngineFault,
    Failed,
    FeatureRef,
    MeasureStudy,
    Open,
    Progress,
    Stopped,
    StudyGrown,
    StudyResult,
    settings_from,
)
from engine.study_settings.health import Health
from sessions.store import new_session, read_session
from tests import samples
from tests.samples import AT
from tui import reducer, study_reducer
from tui.recorder import Recorder, to_session
from tui.restore import from_session
from tui.state import Notice, State, Task
from tui.study_fields import (
    FormField,
    Wrong,
    fields_of,
    next_word,
    parts_of,
    settings_of,
    shown,
    texts_of,
    typed,
    word_from,
)
from tui.study_sections import place_of, sections_of, tabs
from tui.study_state import StudyView
from tui.study_words import ended_words, figure_words

LATER = "2026-05-01T10:05:00+00:00"
OPENED = reducer.reduce_event(State(opening=Open(id=0)), samples.opened(), AT)
FAULT = EngineFault("bad_request", "It is wrong.", "Mend it.")
REQUEST = 7


def growth(name: str = "health") -> list[StudyResult]:
    """A study as it grows; the last one is finished."""
    answers = samples.answers(MeasureStudy(id=REQUEST, settings=settings_from(name, {})))
    return [event.result for event in answers if isinstance(event, StudyGrown)]


def asked(state: State = OPENED, request: int = REQUEST, name: str = "health") -> State:
    return study_reducer.started(state, request, name, {}, AT)


def heard(state: State, *results: StudyResult, request: int = REQUEST) -> State:
    for result in results:
        state = reducer.reduce_event(state, StudyGrown(id=request, result=result), AT)
    return state


def test_a_study_grows_and_is_kept_when_it_is_finished() -> None:
    first, second, last = growth()
    state = heard(asked(), first)
    assert state.studies == ()
    assert state.study.growing is not None
    state = heard(state, second)
    assert state.study.growing is not None
    assert state.study.growing.result == second
    assert state.study.growing.at == AT
    state = heard(state, last)
    assert [record.result for record in state.studies] == [last]
    assert state.study.growing is None
    assert state.log[-1].text.startswith("health study: ")
    done = reducer.reduce_event(state, Done(id=REQUEST, seconds=1.0, memory=None), AT)
    assert done.tasks == ()
    assert done.studies == state.studies


def test_what_has_grown_is_kept_however_the_study_ends() -> None:
    growing = heard(asked(), growth()[0])
    ends = {
        "stopped by the engine": reducer.reduce_event(growing, Stopped(id=REQUEST), AT),
        "stopped by the user": reducer.stopped(growing, AT),
        "failed": reducer.reduce_event(growing, Failed(id=REQUEST, error=FAULT), AT),
        "engine lost": reducer.reduce_event(growing, EngineLost("gone"), AT),
        "left": study_reducer.kept(growing, AT),
        "superseded": asked(growing, REQUEST + 1),
    }
    for how, state in ends.items():
        assert [record.result for record in state.studies] == [growth()[0]], how
        assert not state.studies[0].result.finished
        assert state.study.growing is None
        assert [line.text for line in state.log].count(study_reducer.story(state.studies[0])) == 1, how
    assert ends["failed"].study.failed == {"health": FAULT}
    assert ends["failed"].notice is not None
    assert ends["failed"].notice.text == FAULT.message
    assert [task.id for task in ends["superseded"].tasks] == [REQUEST + 1]


def test_late_results_change_nothing() -> None:
    stopped = reducer.stopped(heard(asked(), growth()[0]), AT)
    assert heard(stopped, *growth()) == stopped
    assert heard(OPENED, *growth()) == OPENED


def test_stopping_ends_what_is_short_before_a_study() -> None:
    state = asked()
    state = msgspec.structs.replace(state, tasks=(*state.tasks, Task(9, "run", "reading")))
    once = reducer.stopped(state, AT)
    assert [task.kind for task in once.tasks] == ["study"]
    assert reducer.stopped(once, AT).tasks == ()


def test_progress_of_a_study_is_shown() -> None:
    state = reducer.reduce_event(asked(), Progress(id=REQUEST, text="reading", done=3, total=9), AT)
    task = state.task("study")
    assert task is not None
    assert (task.text, task.done, task.total) == ("reading", 3, 9)


def test_an_error_is_forgotten_when_the_study_is_asked_for_again() -> None:
    failed = reducer.reduce_event(asked(), Failed(id=REQUEST, error=FAULT), AT)
    assert failed.study.failed
    assert failed.studies == ()
    assert asked(failed, REQUEST + 1, "tokens").study.failed == {"health": FAULT}
    assert asked(failed, REQUEST + 1).study.failed == {}


def test_the_user_is_asked_before_a_study_ends() -> None:
    state = study_reducer.asked_to_end(asked())
    assert state.ending
    assert not study_reducer.withdrawn(state).ending
    assert study_reducer.withdrawn(asked()) == asked()
    assert not reducer.stopped(state, AT).ending
    assert not reducer.notify(state, Notice("Something else.")).ending


def test_marks_are_taken_away_together() -> None:
    first, second, third = (FeatureRef("9-res-fk", n) for n in range(3))
    state = reducer.mark_all(OPENED, (first, second, third))
    assert study_reducer.unmark_all(state, (third, first, FeatureRef("9-res-fk", 9))).marks == (second,)


def test_a_deleted_result_comes_back_where_it_stood() -> None:
    state = OPENED
    for n, name in enumerate(("health", "tokens", "logits")):
        state = heard(asked(state, REQUEST + n, name), *growth(name), request=REQUEST + n)
    names = [record.result.study for record in state.studies]
    without = study_reducer.delete(state, state.studies[1])
    assert [record.result.study for record in without.studies] == ["health", "logits"]
    assert study_reducer.delete(without, state.studies[1]) is without
    back = study_reducer.undelete(without)
    assert [record.result.study for record in back.studies] == names
    assert study_reducer.undelete(back) is back


def test_the_newest_result_comes_first_and_one_that_grows_before_all() -> None:
    state = heard(asked(), *growth())
    state = heard(asked(state, 8, "tokens"), *growth("tokens"), request=8)
    state = heard(asked(state, 9, "logits"), growth("logits")[0], request=9)
    assert [record.result.study for record in study_reducer.records(state)] == ["logits", "tokens", "health"]


def test_a_page_follows_the_result_it_shows() -> None:
    growing = heard(asked(), growth()[0])
    record = growing.study.growing
    assert record is not None
    ended = heard(growing, *growth()[1:])
    assert study_reducer.successor(growing, record) is record
    assert study_reducer.successor(ended, record) is ended.studies[0]
    assert study_reducer.successor(study_reducer.delete(ended, ended.studies[0]), ended.studies[0]) is None


def test_results_go_into_the_session_and_come_out_of_it() -> None:
    state = heard(asked(), *growth())
    assert state.opening is not None
    recorder = Recorder(Path(samples.__file__), new_session(state.opening))
    recorder.mark_written(OPENED)
    assert recorder.is_dirty(state)
    recorder.mark_written(state)
    growing = heard(asked(state, 8, "tokens"), growth("tokens")[0], request=8)
    recorder.mark_written(growing)
    assert not recorder.is_dirty(heard(growing, growth("tokens")[1], request=8))
    session = to_session(state, new_session(state.opening))
    assert session.title == growth()[-1].title
    assert from_session(State(opening=state.opening), session).studies == state.studies


def test_what_grows_is_in_the_file_every_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second, _ = growth()
    state = heard(asked(), first)
    session = to_session(state, new_session(state.opening))
    assert [(record.result, record.result.finished) for record in session.studies] == [(first, False)]
    assert session.title == first.title
    recorder = Recorder(tmp_path / "session.json", new_session(state.opening))
    assert recorder.write(state)
    more = heard(state, second)
    assert not recorder.is_dirty(more)
    monkeypatch.setattr("tui.recorder._GROWING_EVERY", 0.0)
    assert recorder.is_dirty(more)
    assert not recorder.is_dirty(state)
    recorder.write(more)
    assert read_session(recorder.path).studies[0].result.title == second.title


def test_a_session_that_is_resumed_has_nothing_of_the_one_before() -> None:
    session = to_session(OPENED, new_session(OPENED.opening))
    state = msgspec.structs.replace(heard(asked(), growth()[0]), notice=None)
    resumed = from_session(study_reducer.failed(state, FAULT), session)
    assert resumed.study == StudyView()
    assert resumed.tasks == ()
    assert heard(resumed, *growth()).studies == ()


# --- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_a_form_as_it_opens_means_the_defaults(name: str) -> None:
    assert settings_of(name, texts_of(name, {})) == STUDIES[name]()
    assert settings_of(name, {}) == STUDIES[name]()


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_is_explained(name: str) -> None:
    for field in fields_of(name):
        assert field.help.endswith("."), field.name


def test_settings_of_a_result_are_those_of_its_form() -> None:
    meant = settings_from(
        "select", {"pairs": ("a, b.jsonl", ' x"y" '), "rule": "random", "threshold": 0.25, "examples": 4}
    )
    plain = msgspec.to_builtins(meant)
    assert settings_of("select", texts_of("select", plain)) == meant
    through_json = msgspec.json.decode(msgspec.json.encode(meant))
    assert settings_of("select", texts_of("select", through_json)) == meant


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")).filter(str.strip)))
def test_parts_are_read_as_they_are_written(parts: list[str]) -> None:
    field = FormField("features", "list", "", ())
    assert parts_of(shown(field, parts)) == tuple(parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        (" , ,", ()),
        ("a,b", ("a", "b")),
        ("9-res:1\n9-res:2\r\n", ("9-res:1", "9-res:2")),
        ('"a, b", c', ("a, b", "c")),
        ('" Paris"', (" Paris",)),
        ('a "b" c', ('a "b" c',)),
    ],
)
def test_parts_stand_between_commas_or_on_lines(text: str, parts: tuple[str, ...]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize(
    ("study", "name", "text", "reason"),
    [
        ("health", "tokens", "many", "tokens: 'many' is not a whole number."),
        ("health", "tokens", "3.5", "tokens: '3.5' is not a whole number."),
        ("health", "tokens", "8", "tokens: expected a whole number >= 16."),
        ("health", "rare", "7", "rare: expected a number < 1.0."),
        ("health", "rare", "inf", "rare: 'inf' is not a number."),
        ("select", "examples", "0", "examples: expected a whole number >= 1."),
        ("health", "rare", "0,125", "rare: in '0,125' the comma is not read: write 0.125."),
        ("health", "rare", "1,125", "rare: in '1,125' the comma is not read: write 1.125 or 1125."),
        ("health", "rare", ",5", "rare: in ',5' the comma is not read: write .5."),
        ("health", "rare", "1,00,000", "rare: '1,00,000' is not a number."),
        ("health", "tokens", "0,125", "tokens: '0,125' is not a whole number."),
        ("health", "tokens", "64,0000", "tokens: '64,0000' is not a whole number."),
    ],
)
def test_what_does_not_fit_is_said_of_its_line(study: str, name: str, text: str, reason: str) -> None:
    with pytest.raises(Wrong) as wrong:
        settings_of(study, {**texts_of(study, {}), name: text})
    assert wrong.value.field == name
    assert wrong.value.reason == reason


@pytest.mark.parametrize(
    ("text", "value"), [("1,000", 1000), ("+1,234,567", 1234567), ("20_000", 20000), (" 64 ", 64), ("", 200_000)]
)
def test_whole_numbers_as_people_write_them(text: str, value: int) -> None:
    settings = settings_of("health", {"tokens": text})
    assert isinstance(settings, Health)
    assert settings.tokens == value


def test_numbers_as_people_write_them() -> None:
    threshold = FormField("threshold", "number", "", 0.0)
    for text, value in {"1,234.5": 1234.5, "-1,234,567": -1234567.0, "1e-3": 0.001, ".5": 0.5}.items():
        assert typed(threshold, text) == value


def test_words_are_chosen_round_and_by_their_first_letter() -> None:
    rule = next(field for field in fields_of("select") if field.name == "rule")
    seen = [rule.words[0]]
    while len(seen) <= len(rule.words):
        seen.append(next_word(rule, seen[-1], 1))
    assert seen == [*rule.words, rule.words[0]]
    assert next_word(rule, rule.words[0], -1) == rule.words[-1]
    assert word_from(rule, "top", "r") == "random"
    assert word_from(rule, "threshold", "t") == "top"
    assert word_from(rule, "top", "z") == "top"


# --- sections -----------------------------------------------------------------------------------------------------


def test_a_result_has_a_section_for_everything_in_it() -> None:
    result = growth()[-1]
    kinds = [section.kind for section in sections_of(result)]
    assert kinds == ["figures", *["plot"] * 5, *["table"] * 4, "set"]
    without = msgspec.structs.replace(result, tables=result.tables[1:])
    assert [s.kind for s in sections_of(without)].count("plot") == 3


def test_a_section_is_found_again_by_its_name() -> None:
    result = growth()[-1]
    fewer = msgspec.structs.replace(result, views=result.views[2:])
    few, many = sections_of(fewer), sections_of(result)
    for place, section in enumerate(few):
        assert many[place_of(many, section.key, place)] == many[place + 2 if place else 0]
    assert place_of(few, ("plot", result.views[0].title), 1) == 1
    assert place_of(few, ("plot", result.views[0].title), 99) == len(few) - 1
    twice = (*many, *many)
    assert place_of(twice, many[3].key, len(many) + 3) == len(many) + 3
    renamed = msgspec.structs.replace(result.tables[0], title="4 of 12")
    grown = sections_of(msgspec.structs.replace(result, tables=(renamed, *result.tables[1:])))
    assert {section.key for section in grown} == {section.key for section in many}


# --- words --------------------------------------------------------------------------------------------------------


def test_how_a_study_ended_is_said() -> None:
    result = msgspec.structs.replace(growth()[-1], seconds=2.5)
    assert ended_words(result) == "The health study is done after 2.50 s."
    stopped = msgspec.structs.replace(result, finished=False, study="a\x1bb")
    assert ended_words(stopped) == "The a␛b study was stopped after 2.50 s; what it found is kept."


def test_figures_are_written_as_numbers_of_tables_are() -> None:
    figures = {-1234: "−1,234", -0.25: "−.250", 12: "12", None: "–", "good": "good", float("inf"): "∞"}
    for figure, words in figures.items():
        assert figure_words(figure) == words
    assert figure_words(float("nan")) == "NaN"
    assert figure_words(-(10**5000)).startswith("−")


@pytest.mark.parametrize("width", [20, 40, 80, 200, 400])
def test_the_tabs_fit_and_name_what_shows(width: int) -> None:
    sections = sections_of(growth()[-1])
    for at, section in enumerate(sections):
        line = tabs(sections, at, width, Style(), Style()).plain
        assert len(line) <= width
        assert "‹" in line
        if width >= 80:
            assert section.title in line
