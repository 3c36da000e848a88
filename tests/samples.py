"""Real results without a model: what the fake engine answers, and a session made of it."""

from __future__ import annotations

from typing import TypeVar

from engine.fake import FakeEngine, fake_card
from engine.job import Job
from engine.protocol import (
    AnyEvent,
    AnyRequest,
    Event,
    FeatureRef,
    FeaturesFound,
    FeaturesResult,
    Intervention,
    Open,
    Opened,
    Rank,
    Run,
    Steer,
    Steered,
    SteerResult,
)
from sessions.model import LogLine, RunRecord, Session, SteerRecord, View

AT = "2026-05-01T10:00:00+00:00"
PROMPT = "The Eiffel Tower is in the city of"
WITH_PAGE = FeatureRef("9-res-fk", 31)
"""Of the only dictionary of the fake engine that has pages."""
WITHOUT_PAGE = FeatureRef("4-res-fk", 62)
E_ = TypeVar("E_", bound=Event)


def answers(request: AnyRequest) -> list[AnyEvent]:
    """Everything the fake engine says to a request."""
    seen: list[Event] = []
    FakeEngine().handle(request, Job(request.id, seen.append))
    return seen  # type: ignore[return-value]


def answer(request: AnyRequest, kind: type[E_]) -> E_:
    """The one answer of a kind."""
    return next(event for event in answers(request) if isinstance(event, kind))


def opened() -> Opened:
    return answer(Open(id=1), Opened)


def features(prompt: str = PROMPT, rank: Rank = "max", top: int = 50) -> FeaturesResult:
    return answer(Run(id=2, prompt=prompt, rank=rank, top=top), FeaturesFound).result


def steered(feature: FeatureRef = WITH_PAGE, strength: float = 5.0) -> SteerResult:
    request = Steer(id=3, prompt=PROMPT, interventions=(Intervention(feature, strength),), tokens=3)
    return answer(request, Steered).result


def session(prompt: str = PROMPT, top: int = 50) -> Session:
    """A session with every field filled."""
    result = features(prompt, top=top)
    return Session(
        id="20260501-100000-abcd",
        created=AT,
        updated=AT,
        opening=Open(id=0, model="fake-1l", dictionaries=("a", "b")),
        title="a title · 漢",
        versions={"saescope": "0"},
        model=opened().model,
        dictionaries=opened().dictionaries,
        runs=(RunRecord(AT, result, {str(WITH_PAGE): tuple(float(i) / 3 for i, _ in enumerate(result.tokens))}),),
        cards=(fake_card(WITH_PAGE),),
        hints={str(WITH_PAGE): "·word3 \x1b[31m"},
        steers=(SteerRecord(AT, steered()),),
        marks=(WITH_PAGE, WITHOUT_PAGE),
        log=(LogLine(AT, "opened"), LogLine(AT, "a\nb")),
        view=View(
            draft="half a prom",
            chat=True,
            run=0,
            token=1,
            feature=WITH_PAGE,
            scope="token",
            site="9-res-fk",
            steer=0,
            intervention=Intervention(WITH_PAGE, -2.5),
        ),
    )
