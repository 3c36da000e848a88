"""What goes over the line. At 200×50 in 256 colours: a repaint under 40 kB, a cursor move under 4 kB, idle nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.e2e.terminal import Terminal

WORDS = "the city of light and the tower over the river where all the people of the town walk in the evening "
BUDGET = {"repaint": 40_000, "cursor": 4_000}


@pytest.fixture(params=[(200, 50), (120, 40), (80, 24)], ids=lambda s: f"{s[0]}x{s[1]}")
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-m", "tests.e2e.inspector"], request.param)
    try:
        terminal.wait_for("ready")
        terminal.send("\x1b[200~" + WORDS * 20 + "\x1b[201~")
        terminal.settle()
        terminal.send("\r")
        terminal.wait_for("peaks on")
        terminal.settle(1.0)
        yield terminal
    finally:
        terminal.close()


def test_budgets(terminal: Terminal) -> None:
    repaint = terminal.cost_of("\x0c")  # asks for nothing: ^L is not bound, so this only settles the line
    assert repaint < BUDGET["cursor"]
    for keys in ("h", "k", "l"):
        assert terminal.cost_of(keys) < BUDGET["cursor"], f"token cursor {keys}"
    terminal.send("3")
    terminal.settle()
    for keys in ("j", "k"):
        assert terminal.cost_of(keys, quiet=0.05) < BUDGET["cursor"], f"list cursor {keys}"
        assert terminal.settle() < BUDGET["repaint"] / 2, "what follows the list cursor"
    columns, lines = terminal.screen.columns, terminal.screen.lines
    terminal.resize(columns - 1, lines)
    terminal.settle(1.0)
    terminal.resize(columns, lines)
    assert terminal.settle(1.0) < 2 * BUDGET["repaint"], "a change of size"


def test_idle_sends_nothing(terminal: Terminal) -> None:
    terminal.settle(3.0)
    assert terminal.read(2.0) == 0


def test_a_full_repaint(terminal: Terminal) -> None:
    """Zooming in and out draws the whole screen twice over; half of it is one repaint."""
    terminal.send("2")
    terminal.settle()
    terminal.send("+")
    terminal.settle()
    assert terminal.cost_of("+") < BUDGET["repaint"]


def test_typing_is_cheap(terminal: Terminal) -> None:
    terminal.send("1")
    terminal.settle()
    terminal.send("\x07")
    terminal.settle()
    costs = [terminal.cost_of(letter) for letter in "abc"]
    assert max(costs) < BUDGET["cursor"]


def test_only_256_colours_are_used(terminal: Terminal) -> None:
    assert b"38;2;" not in terminal.received
    assert b"48;2;" not in terminal.received
