"""What goes over the line. At 200×50 in 256 colours: a repaint under 40 kB, a cursor move under 4 kB, idle nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.e2e.terminal import Terminal

SHORT = "The Eiffel Tower is in the city of"
LONG = "the city of light and the tower over the river where all the people of the town walk in the evening " * 20
REPAINT, CURSOR = 40_000, 4_000


@pytest.fixture(scope="module", params=[(200, 50), (120, 40), (80, 24)], ids=lambda s: f"{s[0]}x{s[1]}")
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    places = {"SAESCOPE_STATE": str(tmp_path_factory.mktemp("state"))}
    terminal = Terminal([sys.executable, "-m", "tests.e2e.inspector"], request.param, places)
    try:
        terminal.wait_for("ready")
        yield terminal
    finally:
        terminal.close()


def _run(terminal: Terminal, prompt: str) -> None:
    terminal.send("\x1b")
    terminal.settle()
    terminal.send("1")
    terminal.settle()
    terminal.send(f"\x07\x1b[200~{prompt}\x1b[201~")
    terminal.settle()
    terminal.send("\r")
    terminal.wait_for("share")
    terminal.settle(1.0)


def test_a_short_prompt(terminal: Terminal) -> None:
    """Typing, both cursors and what follows them."""
    costs = {f"typed {letter}": terminal.cost_of(letter) for letter in "abc"}
    _run(terminal, SHORT)
    costs |= {f"token {key}": terminal.cost_of(key) for key in "hlh"}
    terminal.send("3")
    terminal.settle(1.0)
    costs |= {f"feature {key}": terminal.cost_of(key, 1.0) for key in "jjk"}
    assert {name: cost for name, cost in costs.items() if cost >= CURSOR} == {}
    assert min(costs.values()) > 0


def test_a_screen_full_of_tokens(terminal: Terminal) -> None:
    _run(terminal, LONG)
    assert {key: cost for key in "hkl" if (cost := terminal.cost_of(key)) >= CURSOR} == {}
    terminal.send("3")
    terminal.settle(1.0)
    assert terminal.cost_of("j", 1.0) < REPAINT / 2, "another feature colours every token anew"
    terminal.send("2")
    terminal.settle()
    assert 1_000 < terminal.cost_of("+", 1.0) < REPAINT, "one pane over the whole screen"
    assert 1_000 < terminal.cost_of("+", 1.0) < REPAINT, "all panes again"


def test_idle_sends_nothing(terminal: Terminal) -> None:
    terminal.settle(3.0)
    assert terminal.read(2.0) == 0


def test_only_256_colours_are_used(terminal: Terminal) -> None:
    assert b"38;5;" in terminal.received
    assert b"38;2;" not in terminal.received
    assert b"48;2;" not in terminal.received
