"""Evidence and presets from the steering pane, and recordings without an engine."""

from __future__ import annotations

import msgspec
import pytest

from engine.protocol import (
    Intervention,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    RankAblations,
    Request,
    Steer,
    SweepGrown,
)
from sessions.model import EvidenceRecord, Preset, Session, SteerRecord
from sessions.store import read_session
from tests import samples
from tests.samples import AT, WITH_PAGE, WITHOUT_PAGE
from tests.tui.driving import SIZES, driving, replaying
from tests.tui.test_steering import acting, steering
from tests.tui.test_steering_live import SLOW, Sent
from tui.screens.evidence import AblationPage, ControlPage, ImpactPage, SweepPage
from tui.screens.presets import PresetPage

MEASURES: list[tuple[str, str, type[Request], type]] = [
    ("n", "control", MeasureControl, ControlPage),
    ("w", "sweep", MeasureSweep, SweepPage),
    ("I", "impact", MeasureImpact, ImpactPage),
    ("A", "ablations", RankAblations, AblationPage),
]


@pytest.mark.parametrize(("key", "kind", "request_type", "page"), MEASURES)
async def test_a_measurement_opens_its_page_and_is_not_made_twice(
    key: str, kind: str, request_type: type[Request], page: type
) -> None:
    async with driving() as user:
        await steering(user)
        await user.press("l")
        await user.until(lambda s: s.steers and not s.tasks)
        sent = Sent(user)
        await user.press(key)
        state = await user.until(lambda s: s.evidence and not s.tasks)
        assert isinstance(user.app.screen, page)
        assert getattr(state.evidence[0], kind) is not None
        await user.press("escape", key)
        assert isinstance(user.app.screen, page)
        assert len(sent.of(request_type)) == 1
        await user.press("escape")
        if kind != "ablations":
            await user.press("D")
            await user.press(key)
            await user.until(lambda s: len(s.evidence) == 2 and not s.tasks)
            assert len(sent.of(request_type)) == 2


async def test_the_sweep_varies_the_row_under_the_cursor() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("3", "j", "s", "3", "j", "s", "k", "x", "j")
        await user.until(lambda s: s.steering.cursor == 2 and not s.tasks)
        sent = Sent(user)
        await user.press("w")
        await user.until(lambda s: s.evidence and not s.tasks)
        (request,) = sent.of(MeasureSweep)
        assert isinstance(request, MeasureSweep)
        assert (request.varied, request.controls, len(request.steer.interventions)) == (1, 2, 2)
        assert request.steer.interventions[1] == acting(user)
        await user.press("escape", "k", "w")
        assert "This intervention is off" in user.text
        await user.press("x", "m", "m", "m", "w")
        assert "An ablation has no strength to vary" in user.text


async def test_nothing_is_measured_where_nothing_is_on() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("x")
        for key in "nwI":
            await user.press("j", key)
            assert "No intervention is on" in user.text
        await user.press("W")
        assert "No intervention is on" in user.text


async def test_who_has_gone_elsewhere_is_told() -> None:
    async with driving() as user:
        await user.run(SLOW)
        await user.press("s")
        await user.until(lambda s: s.cards.get(s.feature))
        await user.press("w", "3")
        await user.until(lambda s: s.evidence and not s.tasks)
        assert user.app.screen is user.app.inspect
        assert "w in pane 6 shows it" in user.text


async def test_a_sweep_says_how_far_it_is_and_escape_keeps_what_came() -> None:
    async with driving() as user:
        await user.run(SLOW)
        await user.press("s")
        await user.until(lambda s: s.cards.get(s.feature))
        await user.press("w")
        await user.until(lambda s: s.steering.sweep is not None)
        assert "strengths " in user.lines()[-1]
        assert "esc stops" in user.lines()[-1]
        await user.press("escape")
        state = user.state
        assert state.tasks == ()
        assert state.evidence[0].sweep is not None
        assert len(state.evidence[0].sweep.points) < 17
        assert user.app.screen is user.app.inspect


async def test_presets_are_saved_opened_and_kept_in_the_file() -> None:
    async with driving() as user:
        await steering(user)
        await user.press("O")
        assert "No preset was saved" in user.text
        await user.press("l", "l", "W", *"loud", "enter")
        assert "Saved as “loud”" in user.text
        loud = user.state.steering.acting
        await user.press("W", "enter")
        assert "A preset needs a name" in user.text
        await user.press("escape", "m", "m", "d")
        await user.press("3", "j", "s", "O")
        assert isinstance(user.app.screen, PresetPage)
        await user.press("enter")
        state = await user.until(lambda s: s.steering.acting == loud and not s.tasks)
        assert state.steers[-1].result.interventions == loud
        path = user.app._recorder.path  # type: ignore[union-attr]
        await user.press("n")
        await user.until(lambda s: s.evidence and not s.tasks)
        await user.press("escape", "q")
    session = read_session(path)
    assert session.presets == (Preset("loud", loud),)
    assert session.evidence[0].control is not None
    assert session.view.interventions == loud


# --- recordings ---------------------------------------------------------------------------------------------------


def recorded() -> Session:
    """A session with two rows, texts with their steps, a sweep and a preset."""
    session = samples.session()
    result = samples.steered(strength=22.05)
    rows = (*result.interventions, Intervention(WITHOUT_PAGE, kind="ablate", to="mean"))
    asked = Steer(id=1, prompt=samples.PROMPT, interventions=result.interventions)
    sweep = [e.result for e in samples.answers(MeasureSweep(id=1, steer=asked)) if isinstance(e, SweepGrown)][-1]
    return msgspec.structs.replace(
        session,
        steers=(SteerRecord(AT, result),),
        evidence=(EvidenceRecord(AT, sweep=sweep),),
        presets=(Preset("both", rows),),
        view=msgspec.structs.replace(session.view, intervention=None, interventions=rows, off=(1,)),
    )


@pytest.mark.parametrize("size", SIZES)
async def test_a_recording_shows_rows_texts_and_evidence(size: tuple[int, int]) -> None:
    async with replaying(recorded(), size) as user:
        await user.press("6")
        assert user.text.count("[x] ") == 1
        assert user.text.count("[ ] ") == 1
        assert "→ mean" in user.text
        assert "▸ steered1" in user.text
        await user.press("full_stop", "f")
        assert "token 1  plain ·plain1" in user.text
        await user.press("w")
        assert isinstance(user.app.screen, SweepPage)
        await user.press("escape")
        rows = user.state.steering.rows
        for key in ("l", "enter", "x", "m", "r", "D", "n"):
            await user.press("comma", key)
            assert "This is a recording" in user.text, key
        assert user.state.steering.rows == rows
        await user.press("O")
        assert isinstance(user.app.screen, PresetPage)


async def test_recordings_from_before_steps_and_several_rows_open_too() -> None:
    session = samples.session()
    old = msgspec.structs.replace(samples.steered(), steps=(), scores=None)
    session = msgspec.structs.replace(session, steers=(SteerRecord(AT, old),))
    async with replaying(session) as user:
        await user.press("6")
        assert "▸ steered2" in user.text
        assert "−2.50" in user.text
        assert str(WITH_PAGE) in user.text
        assert "kept without its steps" in user.text
        await user.press("full_stop")
        assert user.state.steering.token == 1
