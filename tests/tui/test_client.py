"""The line to the engine: real processes that answer, die, fall silent or talk nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from engine import paths
from engine.client import EngineLost, Link, spawn
from engine.protocol import (
    Cancel,
    Count,
    Counted,
    Done,
    Event,
    FeaturesFound,
    Hello,
    Open,
    Progress,
    Run,
    Stopped,
    Tokenised,
)
from tests.tui.talking import gone, saying, talking

FAKE = "engine.fake"


async def test_a_request_is_answered_in_order() -> None:
    async with talking(spawn(FAKE)) as talk:
        await talk.open()
        run = talk.client.next_id()
        assert talk.client.send(Run(id=run, prompt="one two three"))
        done = await talk.until(Done, run)
        answers = [event for event in talk.events if isinstance(event, Event) and event.id == run]
        assert [type(a).__name__ for a in answers] == ["Tokenised", "FeaturesFound", "NextTokensFound", "Done"]
        assert answers[-1] is done
        assert isinstance(talk.events[0], Hello)
        assert [t.text for t in talk.of(FeaturesFound)[0].result.tokens] == ["one", " two", " three"]


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGKILL, "signal 9"), (signal.SIGSEGV, "segmentation"), (signal.SIGTERM, "15")]
)
async def test_a_killed_engine_is_lost_once(number: signal.Signals, reason: str) -> None:
    async with talking(spawn(FAKE)) as talk:
        pid = await talk.open()
        assert talk.client.is_connected
        os.kill(pid, number)
        lost = await talk.until(EngineLost)
        assert reason in lost.reason
        assert not talk.client.is_connected
        assert talk.client.send(Run(id=talk.client.next_id(), prompt="x")) is False
        await asyncio.sleep(0.2)
        assert talk.of(EngineLost) == [lost]
        assert talk.events[-1] is lost


async def test_an_engine_that_ends_says_with_what_code() -> None:
    async with talking(spawn(FAKE)) as talk:
        await talk.open()
        talk.client.send(Run(id=7, prompt="/die"))
        assert (await talk.until(EngineLost)).reason == "exit code 3"


async def test_a_lost_engine_is_followed_by_another_and_ids_go_on() -> None:
    async with talking(spawn(FAKE)) as talk:
        first = await talk.open()
        before = talk.client.next_id()
        os.kill(first, signal.SIGKILL)
        await talk.until(EngineLost)
        second = await talk.open()
        assert second != first
        run = talk.client.next_id()
        assert run > before
        assert talk.client.send(Run(id=run, prompt="again"))
        await talk.until(Done, run)
        assert len(talk.of(EngineLost)) == 1


async def test_after_a_cut_nothing_is_delivered() -> None:
    """The engine reports its loading ten times a second when it is cut."""
    async with talking(spawn(FAKE, ["30"])) as talk:
        await talk.client.start()
        talk.client.send(Open(id=1))
        await talk.until(Progress)
        talk.client.cut()
        before = len(talk.events)
        assert not talk.client.is_connected
        assert talk.client.send(Count(id=2, prompt="x")) is False
        await gone(talk.of(Hello)[0].pid)
        await asyncio.sleep(0.3)
        assert len(talk.events) == before
        assert talk.of(EngineLost) == []


async def test_cutting_twice_or_before_the_start_is_harmless() -> None:
    async with talking(spawn(FAKE)) as talk:
        talk.client.cut()
        pid = await talk.open()
        talk.client.cut()
        talk.client.cut()
        await gone(pid)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"Welcome to bash\n", "another protocol"),
        (b"\n", "another protocol"),
        (b"{}\n", "another protocol"),
        (b'{"event":"surprise","id":1}\n', "another protocol"),
        (b'{"event":"hello","pid":"one"}\n', "another protocol"),
        (b"\xff\xfe\n", "another protocol"),
        (b'{"event":"progress","text":"\xff"}\n', "decode"),
        (b"x" * 100_000, "limit"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_program_that_is_no_engine_is_lost_with_a_reason(said: bytes, reason: str) -> None:
    code = f"import sys; sys.stdout.buffer.write({said!r}); sys.stdout.flush(); sys.stdin.read()"
    async with talking(saying(code)) as talk:
        await talk.client.start()
        lost = await talk.until(EngineLost)
        assert reason in lost.reason
        assert not talk.client.is_connected
        await asyncio.sleep(0.1)
        assert talk.events == [lost]


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(5)", 5)])
async def test_a_program_that_ends_at_once_is_lost_with_its_exit_code(code: str, status: int) -> None:
    async with talking(saying(code)) as talk:
        await talk.client.start()
        assert (await talk.until(EngineLost)).reason == f"exit code {status}"


async def test_a_program_that_talks_nonsense_is_ended() -> None:
    code = (
        """import os, time; print('{"event":"hello","pid":%d}\\nnonsense' % os.getpid(), flush=True); time.sleep(60)"""
    )
    async with talking(saying(code)) as talk:
        await talk.client.start()
        await talk.until(EngineLost)
        await gone(talk.of(Hello)[0].pid)


async def test_an_engine_that_dies_in_the_middle_of_a_line_has_died() -> None:
    code = """import os; os.write(1, b'{"event":"hello","pid":1}\\n{"event":"progress","te'); os.kill(os.getpid(), 9)"""
    async with talking(saying(code)) as talk:
        await talk.client.start()
        assert "signal 9" in (await talk.until(EngineLost)).reason
        assert len(talk.of(Hello)) == 1


async def test_where_no_engine_can_be_had_the_start_fails() -> None:
    async def connect() -> Link:
        raise OSError("no such machine")

    async with talking(connect) as talk:
        with pytest.raises(OSError, match="no such machine"):
            await talk.client.start()
        assert not talk.client.is_connected
        assert talk.client.send(Open(id=1)) is False
        assert talk.events == []


@pytest.mark.parametrize("cause", [Cancel(id=99, target=50), Run(id=99, prompt="newer")], ids=["cancel", "newer"])
async def test_work_is_stopped_well_below_a_second(cause: Cancel | Run) -> None:
    async with talking(spawn(FAKE)) as talk:
        await talk.open()
        talk.client.send(Run(id=50, prompt="/slow 30 x"))
        await talk.until(Tokenised, 50)
        begin = time.monotonic()
        talk.client.send(cause)
        await talk.until(Stopped, 50, seconds=5)
        assert time.monotonic() - begin < 0.5
        talk.client.send(Run(id=100, prompt="the next one"))
        await talk.until(Done, 100, seconds=5)
        assert talk.of(FeaturesFound, 50) == []
        assert talk.of(Done, 50) == []


async def test_tokens_are_counted_while_the_engine_works() -> None:
    async with talking(spawn(FAKE)) as talk:
        await talk.open()
        talk.client.send(Run(id=50, prompt="/slow 30 x"))
        await talk.until(Tokenised, 50)
        talk.client.send(Count(id=51, prompt="one two"))
        assert (await talk.until(Counted, 51, seconds=2)).tokens == 2
        assert talk.of(Done, 50) == []


async def test_the_engine_is_ours_wherever_we_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('the wrong engine')")
    monkeypatch.chdir(tmp_path)
    async with talking(spawn(FAKE)) as talk:
        await talk.open()


async def test_a_large_log_is_set_aside() -> None:
    log = paths.log_file()
    paths.private_directory(log.parent)
    with log.open("wb") as file:
        file.truncate((5 << 20) + 1)
    async with talking(spawn(FAKE)) as talk:
        await talk.open()
    assert log.stat().st_size < 1 << 20
    assert log.with_suffix(".old.log").stat().st_size > 5 << 20
