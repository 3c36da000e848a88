"""What goes over the wire comes back the same, and what is not understood is refused."""

from __future__ import annotations

import msgspec
import pytest

from engine.errors import BadRequest
from engine.fake import FakeEngine
from engine.job import Job
from engine.protocol import (
    Cancel,
    Count,
    Event,
    FeatureRef,
    Intervention,
    ListHints,
    Open,
    Request,
    Row,
    Run,
    ShowCard,
    Steer,
    event_from_line,
    parse_feature,
    request_from_line,
    to_line,
)

FEATURE = FeatureRef("9-res-sc", 1546)
REQUESTS: tuple[Request, ...] = (
    Open(id=1, model="m", dictionaries=("a", "b"), device="cpu", dtype="float32", bos="on"),
    Count(id=2, prompt="x\x1b[0m", chat=True),
    Run(id=3, prompt="漢\n", rank="mean", sources=("9-res-sc",)),
    Row(id=4, feature=FEATURE),
    ShowCard(id=5, feature=FEATURE),
    ListHints(id=6, features=(FEATURE,)),
    Steer(id=7, prompt="p", interventions=(Intervention(FEATURE, -2.5),)),
    Cancel(id=8, target=7),
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_requests_round_trip(request_: Request) -> None:
    line = to_line(request_)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert request_from_line(line) == request_


def test_events_round_trip() -> None:
    """Every event a real conversation brings."""
    seen: list[Event] = []
    engine = FakeEngine()
    for request in REQUESTS:
        if not isinstance(request, Count | Cancel):
            engine.handle(request, Job(request.id, seen.append))  # type: ignore[arg-type]
    assert len({type(event) for event in seen}) >= 10
    for event in seen:
        assert event_from_line(to_line(event)) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"op":"nothing","id":1}',
        b'{"op":"count","prompt":"x"}',
        b'{"op":"count","id":1,"prompt":"x","extra":1}',
        b'{"op":"run","id":1,"prompt":"x","rank":"best"}',
        b'{"op":"run","id":"1","prompt":"x"}',
        b"\xff\xfe",
    ],
)
def test_what_is_not_a_request_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        request_from_line(line)


@pytest.mark.parametrize("text", ["9-res-sc:1546", "smollm2@9-res-sc:1546", " 9-res-sc:1546 "])
def test_features_are_read_in_both_forms(text: str) -> None:
    assert parse_feature(text) == FEATURE


@pytest.mark.parametrize("text", ["", "9-res-sc", "9-res-sc:", ":3", "a:b", "a:-1", "a b:1", "a:1:2"])
def test_what_is_not_a_feature_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="SOURCE:INDEX"):
        parse_feature(text)


def test_requests_are_immutable() -> None:
    with pytest.raises(AttributeError):
        REQUESTS[0].id = 9  # type: ignore[misc]
    assert msgspec.structs.replace(REQUESTS[0], id=9).id == 9
