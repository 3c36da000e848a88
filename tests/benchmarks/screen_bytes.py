"""Bytes the screen sends for each action, at three sizes, in 256 colours: `python -m tests.benchmarks.screen_bytes`."""

from __future__ import annotations

import sys
import tempfile

from tests.e2e.terminal import Terminal
from tests.e2e.test_bytes import LONG

ESCAPE = "\x1b"
ACTIONS: list[tuple[str, str, str]] = [
    ("token cursor left", "2", "h"),
    ("token cursor up", "2", "k"),
    ("token cursor, list follows", "2t", "h"),
    ("feature: list cursor, tokens, card", "t3", "j"),
    ("mark", "3", " "),
    ("site", "3", "]"),
    ("scope: this token", "[3", "t"),
    ("zoom in", "t2", "+"),
    ("zoom out, a full repaint", "", "+"),
    ("go to pane 3", "2", "3"),
    ("go to pane 1", "3", "1"),
    ("type a letter", "", "x"),
    ("help opens", ESCAPE, "?"),
    ("help closes", "", ESCAPE),
    ("palette opens", "3", ":"),
    ("palette closes", "", ESCAPE),
    ("run a prompt", "1", "\r"),
]
SIZES = [(80, 24), (120, 40), (200, 50)]


def costs(size: tuple[int, int]) -> dict[str, int]:
    """Bytes per action at one size."""
    places = {"SAESCOPE_STATE": tempfile.mkdtemp(prefix="saescope-bytes-")}
    terminal = Terminal([sys.executable, "-m", "tests.e2e.inspector"], size, places)
    try:
        terminal.wait_for("ready")
        terminal.settle()
        found = {"first frame and ready": len(terminal.received)}
        terminal.send("\x1b[200~" + LONG + "\x1b[201~")
        terminal.settle()
        terminal.send("\r")
        terminal.wait_for("peaks on")
        terminal.settle(1.0)
        for name, first, keys in ACTIONS:
            for key in first:
                terminal.send(key)
                terminal.settle()
            found[name] = terminal.cost_of(keys)
        terminal.settle(2.0)
        found["idle for 2 s"] = terminal.read(2.0)
        return found
    finally:
        terminal.close()


def main() -> None:
    columns = {f"{w}x{h}": costs((w, h)) for w, h in SIZES}
    names = list(next(iter(columns.values())))
    print(f"{'bytes sent, 256 colours':<40}" + "".join(f"{name:>10}" for name in columns))
    for name in names:
        print(f"{name:<40}" + "".join(f"{values[name]:>10,}" for values in columns.values()))


if __name__ == "__main__":
    main()
