"""Keys that arrive all at once, as over a slow line, do what they do one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.terminal import Terminal

PROMPT = "The Eiffel Tower is in the city of"


@pytest.mark.parametrize(
    "sent",
    [PROMPT + "\r", f"\x1b[200~{PROMPT}\x1b[201~\r", "gone\x07" + PROMPT + "\r"],
    ids=["typed", "pasted", "cleared"],
)
@pytest.mark.parametrize("moment", ["first frame", "ready"])
def test_a_prompt_and_enter_in_one_piece(tmp_path: Path, sent: str, moment: str) -> None:
    shown: Callable[[str], bool] = lambda text: "1 Prompt" in text and (moment != "ready" or " ready" in text)  # noqa: E731
    terminal = Terminal([sys.executable, "-m", "tests.e2e.inspector"], (80, 24), {"SAESCOPE_STATE": str(tmp_path)})
    try:
        terminal.wait_for(shown)
        terminal.send(sent)
        terminal.wait_for("share")
        terminal.settle()
        assert PROMPT in terminal.text
        assert "gone" not in terminal.text
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("6a4-res-fk:77\r", "[x] 4-res-fk:77"),
        ("3/9-res\r", "9-res"),
        ("s=-2x\r", "−2.00"),
        ("1" + "more", "ofmore"),
        ("3g j j ", "3 ● 60 of"),
        ("3Nsxm\r", "“sxm”"),
        ("Bcapital", "\ncapital"),
        ("3Xbad\r", "'bad'"),
    ],
    ids=[
        "a feature",
        "the filter",
        "a strength",
        "the prompt",
        "marks of rows walked over",
        "a label",
        "words of labels",
        "an address",
    ],
)
def test_a_field_and_what_goes_into_it_in_one_piece(tmp_path: Path, sent: str, shown: str) -> None:
    terminal = Terminal([sys.executable, "-m", "tests.e2e.inspector"], (120, 40), {"SAESCOPE_STATE": str(tmp_path)})
    try:
        terminal.wait_for("1 Prompt")
        terminal.send(PROMPT + "\r")
        terminal.wait_for("share")
        terminal.settle()
        terminal.send(sent)
        terminal.wait_for(shown)
        terminal.settle()
        assert shown in terminal.text
    finally:
        terminal.close()
