"""Tokens, labels and texts that have crashed or hijacked terminal programs, in every place that shows text."""

from __future__ import annotations

import unicodedata

import msgspec
import pytest

from engine.fake import FakeEngine, fake_card
from engine.job import Job
from engine.protocol import (
    Choice,
    Event,
    FeatureCard,
    FeatureRef,
    FeatureSet,
    FeaturesFound,
    FeaturesResult,
    Generation,
    Intervention,
    MeasureStudy,
    NextToken,
    Open,
    Run,
    SetMember,
    Steer,
    Steered,
    Step,
    StudyGrown,
    Token,
    TokenValue,
    settings_from,
)
from sessions.model import CircuitRecord, LogLine, RunRecord, Session, SteerRecord, StudyRecord, View
from sessions.store import new_session
from tests import samples
from tests.nasty import NASTY
from tests.tui.driving import SIZES, Driver, driving, replaying
from tui import reducer
from tui.screens.study_page import StudyPage
from tui.state import Notice

_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
ALL = " ".join(NASTY)


def _harmless(user: Driver) -> None:
    acting = {hex(ord(c)) for line in user.lines() for c in line if unicodedata.category(c) in _ACTING}
    assert not acting


def _result() -> FeaturesResult:
    """A real answer whose every text is nasty."""
    events: list[Event] = []
    FakeEngine().handle(Run(id=1, prompt=" ".join("word" for _ in NASTY)), Job(1, events.append))
    result = next(e.result for e in events if isinstance(e, FeaturesFound))
    tokens = tuple(Token(id=n, text=text, sink=n == 0) for n, text in enumerate(NASTY))
    return msgspec.structs.replace(
        result, prompt=ALL, tokens=tokens, next_tokens=tuple((NextToken(1, text, 0.5),) for text in NASTY)
    )


def _card(ref: FeatureRef) -> FeatureCard:
    values = tuple(TokenValue(text, 3.0) for text in NASTY)
    card = fake_card(ref)
    contexts = tuple(
        msgspec.structs.replace(c, origin=NASTY[8], tokens=values, peak=n) for n, c in enumerate(card.contexts)
    )
    return msgspec.structs.replace(card, contexts=contexts, promotes=values, suppresses=values)


def _circuit() -> CircuitRecord:
    """A circuit over nasty tokens, with nasty names."""
    record = samples.circuit_record(" ".join("word" for _ in NASTY))
    tokens = tuple(Token(id=n, text=text) for n, text in enumerate(NASTY))
    metric = msgspec.structs.replace(record.circuit.metric, targets=tokens, against=tokens[::-1])
    circuit = msgspec.structs.replace(record.circuit, tokens=tokens, metric=metric, prompt=ALL, patch=ALL)
    refs = [node.ref for node in circuit.nodes[1:]]
    found = record.faithfulness
    assert found is not None
    return msgspec.structs.replace(
        record,
        circuit=circuit,
        checks=tuple(msgspec.structs.replace(check, how=ALL) for check in record.checks),
        names={f"{r.source}:{r.index}": NASTY[n % len(NASTY)] for n, r in enumerate(refs)},
        groups={str(r): NASTY[-n % len(NASTY)] for n, r in enumerate(refs)},
        faithfulness=msgspec.structs.replace(found, metric=metric),
    )


def _steps() -> tuple[Step, ...]:
    """Both arms draw every string, one of them from the other end."""
    following = tuple(NextToken(n, text, 0.1) for n, text in enumerate(NASTY[:5]))
    watched = (0.5,) * len(NASTY)

    def choice(number: int) -> Choice:
        return Choice(Token(id=number, text=NASTY[number]), 0.5, following, watched)

    return tuple(Step(choice(n), choice(len(NASTY) - 1 - n)) for n in range(len(NASTY)))


def _study() -> StudyRecord:
    """A result of a study that nobody knows, whose every text is nasty."""
    answers = samples.answers(MeasureStudy(id=3, settings=settings_from("health", {})))
    result = [event.result for event in answers if isinstance(event, StudyGrown)][-1]
    names = {table.name: f"{table.name} {ALL}" for table in result.tables}
    tables = tuple(
        msgspec.structs.replace(
            table,
            name=names[table.name],
            title=ALL,
            columns=tuple(msgspec.structs.replace(c, help=ALL) for c in table.columns),
            rows=tuple(
                tuple(f"{NASTY[n % len(NASTY)]}:{n}" if isinstance(cell, str) else cell for cell in row)
                for n, row in enumerate(table.rows * 4)
            ),
        )
        for table in result.tables
    )
    members = tuple(SetMember(FeatureRef(text, n), 1.0) for n, text in enumerate(NASTY))
    return StudyRecord(
        "2026-01-01T00:00:00",
        msgspec.structs.replace(
            result,
            study=f"\x1b[31m{ALL}",
            title=ALL,
            figures={text: text for text in NASTY},
            meanings={text: text for text in NASTY},
            tables=tables,
            views=tuple(msgspec.structs.replace(v, title=ALL, table=names[v.table]) for v in result.views),
            sets=(FeatureSet(ALL, members, ALL),),
            notes=NASTY,
        ),
    )


def _session() -> Session:
    result = _result()
    feature = result.features[0].ref
    events: list[Event] = []
    FakeEngine().handle(Steer(id=2, prompt="x", interventions=(), tokens=1), Job(2, events.append))
    steered = next(e.result for e in events if isinstance(e, Steered))
    steered = msgspec.structs.replace(
        steered,
        prompt=ALL,
        interventions=(Intervention(feature, 2.0), Intervention(feature, kind="ablate", to="patch", patch=ALL)),
        plain=Generation((1,), ALL),
        steered=Generation((1,), ALL[::-1]),
        steps=_steps(),
        watched=tuple(Token(id=n, text=text) for n, text in enumerate(NASTY)),
        warnings=(ALL,),
    )
    return msgspec.structs.replace(
        new_session(Open(id=0)),
        title=ALL,
        runs=(RunRecord("2026-01-01T00:00:00", result),),
        cards=tuple(_card(h.ref) for h in result.features),
        hints={str(h.ref): ALL for h in result.features},
        steers=(SteerRecord("2026-01-01T00:00:00", steered),),
        circuits=(_circuit(),),
        studies=(_study(),),
        log=(LogLine("2026-01-01T00:00:00", ALL),),
        view=View(draft=ALL, run=0, feature=feature, steer=0, circuit=0),
    )


@pytest.mark.parametrize("size", SIZES)
async def test_every_pane_survives_every_string(size: tuple[int, int]) -> None:
    async with replaying(_session(), size) as user:
        for key in "123456":
            await user.press("escape", key)
            _harmless(user)
        await user.press("escape", "escape", "2", "g")
        for _ in NASTY:
            await user.press("l")
            _harmless(user)
        await user.press("b", "t")
        _harmless(user)
        for key in ("question_mark", "E"):
            await user.press(key)
            _harmless(user)
            await user.press("escape")


@pytest.mark.parametrize("size", SIZES)
async def test_errors_and_models_may_say_anything(size: tuple[int, int]) -> None:
    async with driving(size) as user:
        await user.run()
        for where in ("", "prompt", "steering", "circuit"):
            for text in NASTY:
                user.app.change(lambda s, t=text, w=where: reducer.notify(s, Notice(t, "error", t, t, w)))
                await user.pilot.pause()
                _harmless(user)
        await user.press("e")
        _harmless(user)


@pytest.mark.parametrize("size", SIZES)
async def test_steering_survives_every_string(size: tuple[int, int]) -> None:
    async with replaying(_session(), size) as user:
        await user.press("6")
        assert "KL" in user.text
        for _ in NASTY:
            await user.press("full_stop")
            _harmless(user)
        await user.press("f", "o")
        _harmless(user)
        user.app.inspect.steering.field.value = ALL
        await user.press("enter")
        _harmless(user)


@pytest.mark.parametrize("size", SIZES)
async def test_circuits_survive_every_string(size: tuple[int, int]) -> None:
    async with replaying(_session(), size) as user:
        await user.press("5")
        for key in ("j", "l", "l", "j", "j", "G"):
            await user.press(key)
            _harmless(user)
        await user.press("w")
        for _ in NASTY:
            await user.press("h")
            _harmless(user)
        await user.press("F")
        _harmless(user)


@pytest.mark.parametrize("size", SIZES)
async def test_studies_survive_every_string(size: tuple[int, int]) -> None:
    async with replaying(_session(), size) as user:
        await user.press("escape", "7")
        assert "bold" in user.text
        _harmless(user)
        await user.press("enter")
        page = user.app.screen
        assert isinstance(page, StudyPage)
        seen = set()
        for _ in page._sections:
            for key in ("j", "l", "n", "space", "greater_than_sign"):
                await user.press(key)
                _harmless(user)
            seen.add(page._sections[page._at].kind)
            await user.press("]")
        assert seen == {"figures", "plot", "table", "set"}
        await user.press("e")
        _harmless(user)
        await user.press("escape", "escape", "E")
        _harmless(user)


async def test_a_nasty_prompt_can_be_pasted_and_run() -> None:
    async with driving() as user:
        state = await user.run("[/INST] [b] [@click=app.quit]x[/] 漢字 👩‍👩‍👧 [link=x")
        assert state.result is not None
        await user.press("s", "l")
        await user.until(lambda s: s.steers and not s.tasks)
        _harmless(user)
        await user.press("c")
        await user.until(lambda s: s.circuits and not s.tasks)
        await user.press("j", "l", "w")
        _harmless(user)
        user.app.inspect.circuit.open_field("aim", user.state, None)
        user.app.inspect.circuit.field.value = ALL
        await user.pilot.pause()
        await user.press("enter")
        await user.until(lambda s: len(s.circuits) == 2 and not s.tasks)
        _harmless(user)
