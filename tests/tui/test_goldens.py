"""The whole screen as text, at three sizes. `SAESCOPE_NEW_GOLDENS=1 pytest tests/tui/test_goldens.py` draws them anew.

Read the difference before committing it: these files are what the user sees.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.tui.driving import SIZES, Driver, driving
from tests.tui.test_circuit import hinted

FOLDER = Path(__file__).resolve().parent.parent / "data" / "screens"
_CHANGING = (
    (r"saved \d\d:\d\d", "saved 00:00"),
    (r"in \d+\.\d\d s *", "in 0.00 s"),
    (r"\d+(\.\d)?/\d+ GB *", "0.0/00 GB"),
)


def _screen(user: Driver) -> str:
    text = user.text
    for pattern, instead in _CHANGING:
        text = re.sub(pattern, lambda m, i=instead: i.ljust(len(m[0]))[: len(m[0])], text)  # type: ignore[misc]
    return "\n".join(line.rstrip() for line in text.split("\n")) + "\n"


def _compare(name: str, user: Driver) -> None:
    file = FOLDER / f"{name}.txt"
    shown = _screen(user)
    if os.environ.get("SAESCOPE_NEW_GOLDENS"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
async def test_the_screen_looks_as_it_did(size: tuple[int, int]) -> None:
    where = f"{size[0]}x{size[1]}"
    async with driving(size) as user:
        await user.until(lambda s: s.engine.phase == "ready")
        _compare(f"{where}-start", user)
        await user.run()
        await user.until(lambda s: s.saved)
        _compare(f"{where}-run", user)
        await user.press("4")
        _compare(f"{where}-card", user)
        await user.press("s", "right", "right")
        await user.until(lambda s: s.steers and not s.tasks)
        _compare(f"{where}-steering", user)
        await user.press("c")
        await user.until(lambda s: s.circuits and not s.tasks and hinted(s))
        await user.press("j", "l", "v")
        await user.until(lambda s: s.traced and s.traced.checks and not s.tasks)
        await user.until(lambda s: s.card and s.values)
        _compare(f"{where}-circuit", user)
        await user.press("w")
        _compare(f"{where}-grid", user)
        await user.press("w")
        await user.press("escape", "?")
        _compare(f"{where}-help", user)
