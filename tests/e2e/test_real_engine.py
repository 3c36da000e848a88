"""The real program in a terminal, with the real engine and the default set: what a user does in the first minute."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sessions.model import Session
from sessions.store import read_session
from tests.conftest import ROOT
from tests.e2e.terminal import Terminal

pytestmark = [pytest.mark.default_set, pytest.mark.timeout(240)]
PROMPT = "The Eiffel Tower is in the city of"


@contextmanager
def saescope(state: Path, *arguments: str, size: tuple[int, int] = (120, 40), **environment: str) -> Iterator[Terminal]:
    """`python main.py` in a pty."""
    terminal = Terminal(
        [sys.executable, str(ROOT / "main.py"), *arguments], size, {"SAESCOPE_STATE": str(state), **environment}
    )
    try:
        yield terminal
    finally:
        terminal.close()


def only_session(state: Path) -> Session:
    (path,) = (state / "sessions").glob("*.json")
    return read_session(path)


def features_shown(text: str) -> object:
    return re.search(r"\d+-res-sc\s+:\d+\s+[\d.,]+\s", text)


def run_prompt(terminal: Terminal) -> None:
    """Typed while the engine is still starting, as users do."""
    terminal.wait_for("Prompt", 20)
    terminal.send(PROMPT)
    terminal.wait_for(PROMPT, 20)
    terminal.send("\r")
    terminal.wait_for(features_shown, 120)
    terminal.settle()


@pytest.mark.usefixtures("default_set")
def test_a_first_session(tmp_path: Path) -> None:
    with saescope(tmp_path) as terminal:
        run_prompt(terminal)
        assert "8 ·of" in terminal.text

        terminal.send("2")
        terminal.settle()
        terminal.send("g")
        terminal.settle()
        first = terminal.text
        terminal.send("l")
        terminal.settle()
        assert terminal.text != first

        terminal.send("3")
        terminal.settle()
        terminal.send(" ")
        terminal.wait_for("●")
        terminal.send("s")
        terminal.wait_for("6 Steering")
        terminal.settle()
        terminal.send("\x1b[C" * 4)
        terminal.wait_for(lambda text: "KL" in text and " ready · " in text, 60)

        terminal.send("q")
        assert terminal.wait(10) == 0
    session = only_session(tmp_path)
    assert session.owner is None
    assert session.runs[0].result.prompt == PROMPT
    assert [token.text for token in session.runs[0].result.tokens][1:3] == [" E", "iffel"]
    assert len(session.marks) == 1
    assert session.steers[-1].result.plain.text != session.steers[-1].result.steered.text

    (path,) = (tmp_path / "sessions").glob("*.json")
    with saescope(tmp_path, "replay", str(path), PATH="/usr/bin:/bin", SAESCOPE_CACHE=str(tmp_path / "none")) as replay:
        replay.wait_for(features_shown, 20)
        assert "replay" in replay.text
        replay.send("6")
        text = replay.wait_for("KL", 20)
        assert session.steers[-1].result.plain.text.split()[0] in text
        children = Path(f"/proc/{replay.pid}/task/{replay.pid}/children")
        assert not children.exists() or not children.read_text().strip()
        replay.send("q")
        assert replay.wait(10) == 0


@pytest.mark.usefixtures("default_set")
def test_killed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """At most the last two seconds are lost, and the next start offers the session."""
    with saescope(tmp_path) as terminal:
        run_prompt(terminal)
        terminal.settle(2.5)
        terminal.send("1")
        terminal.settle()
        terminal.send("\x07" + "word " * 300 + "\r")
        terminal.signal(signal.SIGKILL)
        assert terminal.wait(10) == -signal.SIGKILL
    kept = only_session(tmp_path)
    assert kept.owner is not None
    assert [run.result.prompt for run in kept.runs] == [PROMPT]

    with saescope(tmp_path) as terminal:
        terminal.wait_for("was not closed", 20)
        terminal.send("\x1b")
        terminal.settle()
        terminal.send("U")
        terminal.wait_for(features_shown, 30)
        terminal.send("q")
        assert terminal.wait(10) == 0
    assert only_session(tmp_path).id == kept.id
    assert only_session(tmp_path).owner is None


@pytest.mark.usefixtures("default_set")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "line cut"])
def test_told_to_go(tmp_path: Path, name: str) -> None:
    """What was typed a moment ago is in the file, and no engine stays behind."""
    with saescope(tmp_path) as terminal:
        terminal.wait_for("Prompt", 20)
        terminal.settle()
        terminal.send("half a sent")
        terminal.wait_for("half a sent", 20)
        engines = _children(terminal.pid)
        if name == "line cut":
            terminal.hang_up()
        else:
            terminal.signal(getattr(signal, name))
        _wait_until_gone(terminal)
    kept = only_session(tmp_path)
    assert kept.view.draft == "half a sent"
    assert kept.owner is not None, "the next start offers it"
    assert engines
    assert not [pid for pid in engines if _lives(pid)]


@pytest.mark.usefixtures("default_set")
def test_the_engine_may_die(tmp_path: Path) -> None:
    """Killed from outside it is started again, and what was on the screen stays."""
    with saescope(tmp_path) as terminal:
        run_prompt(terminal)
        for pid in _children(terminal.pid):
            os.kill(pid, signal.SIGKILL)
        terminal.wait_for(lambda text: "engine" in text and "ready" not in text, 20)
        assert features_shown(terminal.text)
        terminal.wait_for("ready", 120)
        terminal.send("3R")
        terminal.wait_for(lambda text: "sum" in text, 20)
        terminal.send("q")
        assert terminal.wait(10) == 0
    assert json.loads(next((tmp_path / "sessions").glob("*.json")).read_text())["schema"] == 1


def _children(pid: int) -> list[int]:
    """The engines of a program: found by parent, since they lead a session of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def _lives(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait_until_gone(terminal: Terminal) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pid, _ = os.waitpid(terminal.pid, os.WNOHANG)
        if pid:
            terminal.pid = 0
            return
        time.sleep(0.05)
    raise AssertionError("still running")
