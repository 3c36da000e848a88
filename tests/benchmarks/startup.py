"""The first seconds and the last, measured through a terminal. `python -m tests.benchmarks.startup`.

The real program with the real engine and the default set, its model converted already.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from tests.benchmarks.measuring import table
from tests.conftest import ROOT
from tests.e2e.terminal import Terminal

SIZE = (120, 40)
PROMPT = "The Eiffel Tower is in the city of"
LONG = "The keeper wrote every evening what the sea had brought. " * 60


def _until(terminal: Terminal, condition: str | Callable[[str], object]) -> float:
    start = time.perf_counter()
    terminal.wait_for(condition, 120)
    return time.perf_counter() - start


def one_session() -> dict[str, float]:
    """Seconds of each thing, once through."""
    seconds: dict[str, float] = {}
    launched = time.perf_counter()
    places = {"SAESCOPE_STATE": tempfile.mkdtemp(prefix="saescope-startup-")}
    terminal = Terminal([sys.executable, str(ROOT / "main.py")], SIZE, places)
    try:
        terminal.wait_for("1 Prompt")
        seconds["launch → first frame"] = time.perf_counter() - launched
        terminal.send("x")
        seconds["a letter shows"] = _until(terminal, lambda text: re.search(r"^ x ", text, re.M))
        terminal.send("\x07" + PROMPT + "\r")
        terminal.wait_for(lambda text: re.search(r"\d+-\S+ +:\d+ +\d", text), 120)
        seconds["launch → first features"] = time.perf_counter() - launched
        terminal.wait_for(" ready ")
        terminal.settle()
        terminal.send("1\x07")
        terminal.settle()
        terminal.send(f"\x1b[200~{LONG}\x1b[201~")
        terminal.settle()
        terminal.send("\r")
        terminal.wait_for("esc stops")
        terminal.send("\x1b")
        seconds["stop a running prompt"] = _until(terminal, "Stopped")
        terminal.settle()
        terminal.send("\x11")
        start = time.perf_counter()
        assert terminal.wait(10) == 0
        seconds["quit"] = time.perf_counter() - start
    finally:
        terminal.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    runs = [one_session() for _ in range(parser.parse_args().rounds)]
    rows = [[name, f"{statistics.median(run[name] for run in runs):.2f} s"] for name in runs[0]]
    table(f"{SIZE[0]}×{SIZE[1]}, 256 colours, median of {len(runs)}", ["", ""], rows)


if __name__ == "__main__":
    main()
