"""Real results without a model: what the fake engine answers, and a session made of it."""

from __future__ import annotations

from typing import TypeVar

from engine.fake import FakeEngine, fake_card
from engine.job import Job
from engine.protocol import (
    AnyEvent,
    AnyRequest,
    Check,
    Checked,
    Circuit,
    Event,
    FaithfulnessFound,
    FeatureRef,
    FeaturesFound,
    FeaturesResult,
    Intervention,
    MeasureFaithfulness,
    NodeRef,
    Open,
    Opened,
    Rank,
    Run,
    Steer,
    Steered,
    SteerResult,
    Trace,
    TraceGrown,
    Verify,
)
from sessions.model import CircuitRecord, LogLine, RunRecord, Session, SteerRecord, View

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


def conversation(*requests: AnyRequest) -> list[AnyEvent]:
    """Everything one fake engine says to requests in turn."""
    seen: list[Event] = []
    engine = FakeEngine()
    for request in requests:
        engine.handle(request, Job(request.id, seen.append))
    return seen  # type: ignore[return-value]


def growth(prompt: str = PROMPT, request: int = 3) -> list[Circuit]:
    """A circuit as it grows; the last one is finished."""
    return [e.circuit for e in answers(Trace(id=request, prompt=prompt)) if isinstance(e, TraceGrown)]


def circuit(prompt: str = PROMPT) -> Circuit:
    return growth(prompt)[-1]


def check(source: NodeRef, target: NodeRef | None = None) -> Check:
    """What the fake engine measures on its circuit."""
    events = conversation(Trace(id=3, prompt=PROMPT), Verify(id=4, source=source, target=target))
    return next(e.check for e in events if isinstance(e, Checked))


def circuit_record(prompt: str = PROMPT) -> CircuitRecord:
    """A circuit with everything a user adds to one."""
    traced = circuit(prompt)
    refs = [node.ref for node in traced.nodes[1:]]
    events = conversation(
        Trace(id=3, prompt=prompt),
        Verify(id=4, source=refs[0]),
        Verify(id=5, source=refs[1]),
        MeasureFaithfulness(id=6),
    )
    return CircuitRecord(
        AT,
        traced,
        checks=tuple(e.check for e in events if isinstance(e, Checked)),
        pins=(refs[1],),
        names={f"{refs[0].source}:{refs[0].index}": "capital \x1b[31m"},
        groups={str(refs[0]): "cities"},
        faithfulness=next(e.result for e in events if isinstance(e, FaithfulnessFound)),
    )


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
        circuits=(circuit_record(prompt),),
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
            circuit=0,
            node_threshold=0.05,
            edge_threshold=0.02,
        ),
    )
