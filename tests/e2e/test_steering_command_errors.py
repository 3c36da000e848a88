"""What `saescope steer`, `sweep`, `impact` and `ablate` refuse, and how they stop: one line, a code, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import main
from engine.protocol import FeatureRef, Intervention, Open
from sessions.model import Preset
from sessions.store import new_session, write_session
from tests.e2e.command import COMMAND, Home, hidden_characters, is_one_line
from tests.e2e.terminal import Terminal

ONE = ("x", "--feature", "1-res-tiny:3")
STEER = ("steer", *ONE, "--add")
SWEEP = ("sweep", *ONE, "--strengths")
NOWHERE = ("--model", "/nowhere", "--dictionary", "/nowhere")


def _fails(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main.app, list(arguments))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    assert hidden_characters(done.stderr) == set()
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("steer", "--feature", "a:1", "--add", "1"), "Missing argument 'prompt'"),
        ((*STEER, "1", "--runs", "0"), "'--runs'"),
        ((*STEER, "1", "--control", "-1"), "'--control'"),
        ((*STEER, "1", "--top-k", "few"), "'--top-k'"),
        ((*STEER, "1", "--control", "51"), "'--control'"),
        (("sweep", *ONE, "--vary", "0"), "'--vary'"),
        (("impact", *ONE, "--add", "1", "--top", "0"), "'--top'"),
        (("ablate", "x", "--candidates", "0"), "'--candidates'"),
        (("ablate", "x", "--feature", "a:1"), "No such option: --feature"),
    ],
)
def test_usage_is_explained(arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments)
    assert code == 2
    assert said in error
    assert "Usage:" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("steer", "x"), "There is nothing to steer with. Give --feature SOURCE:INDEX with --add STRENGTH."),
        (("steer", *ONE), "1-res-tiny:3 has no --add, --clamp, --scale, --ablate, --rescale or --cap."),
        (("impact", *ONE), "1-res-tiny:3 has no --add"),
        ((*STEER, "1", "--feature", "\x1b[31m", "--add", "1"), "is not a feature."),
        ((*STEER, "1", "--clamp", "2\u202e"), "1-res-tiny:3 has both --add 1 and --clamp 2⟨202E⟩."),
        ((*STEER, "1", "--patch", "y"), "--patch has no meaning for --add."),
        ((*STEER, "1", "--temperature", "inf"), "inf is not a temperature."),
        ((*STEER, "1", "--repetition-penalty", "0"), "0.0 is not a repetition penalty. Use 1 for none."),
        ((*STEER, "1", "--stop", ""), "An empty --stop would end every text. Leave it out."),
        ((*STEER, "1", "--seed", str(2**63 - 1), "--runs", "2"), "there are not 2 seeds."),
        ((*STEER, "1", "--change", "3"), "'3' is not a change. Write STEP:STRENGTH, e.g. 12:20 or 12:-1x."),
        ((*STEER, "1", "--change", "3:2", "--control", "1"), "Leave out --control or --change."),
        (("steer", *ONE, "--ablate", "zero", "--change", "3:2"), "1-res-tiny:3 is ablated, which has no strength."),
        ((*SWEEP, "-1:1"), "'-1:1' is not a range of strengths. Write FROM:TO:COUNT, e.g. -4x:4x:17."),
        ((*SWEEP, "1,much"), "'much' is not a strength."),
        ((*SWEEP, "1", "--vary", "2"), "1-res-tiny:3 has no --add"),
        (("sweep", *ONE, "--add", "1", "--vary", "2"), "There is no intervention 2 to vary. Give --vary from 1 to 1."),
        (("sweep", *ONE, "--ablate", "zero"), "1-res-tiny:3 is ablated, which has no strength to vary."),
        (("sweep", *ONE, "--scale", "0", "--strengths", "1x"), "--scale is not measured in multiples of the maximum."),
        ((*SWEEP, "1", "--against", "a"), "--against says what an answer is compared with. Give the --answer too."),
    ],
)
def test_what_is_wrong_in_the_words_is_said_before_a_model_is_opened(arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments, *NOWHERE)
    assert code == 2
    assert said in error
    assert is_one_line(error)


def test_presets_that_cannot_be_used(tmp_path: Path) -> None:
    file, nowhere, broken = tmp_path / "session.json", tmp_path / "none.json", tmp_path / "broken.json"
    kept = (Preset("calm", (Intervention(FeatureRef("a", 1), 2.0),)), Preset("loud\x1b[31m", ()))
    made = new_session(Open(id=0))
    write_session(file, msgspec.structs.replace(made, presets=kept))
    broken.write_bytes(b"\x1b[31m\x00")
    for given, code, said in (
        (f"{file}:mild\x1b", 2, "There is no preset 'mild\\x1b'. There are: 'calm', "),
        (str(file), 2, f"{file} holds 2 presets: 'calm', "),
        (f"{file}:loud\x1b[31m", 2, "There is nothing to steer with."),
        (f"{nowhere}:calm", 1, f"{nowhere} cannot be read: No such file or directory."),
        (str(nowhere), 1, f"{nowhere} cannot be read"),
        (str(broken), 1, f"{broken} is no file of presets"),
        (f"{tmp_path}:x", 1, f"{tmp_path} cannot be read: Is a directory."),
    ):
        found, error = _fails("steer", "x", "--preset", given, *NOWHERE)
        assert (found, is_one_line(error)) == (code, True), error
        assert said in error
    write_session(file, made)
    found, error = _fails("export", str(file), "--to", "presets")
    assert (found, is_one_line(error)) == (1, True)
    assert "No preset is saved in this session." in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*STEER, "2x"), "The maximum of 1-res-tiny:3 is not known: it has no cards."),
        (("sweep", *ONE), "The maximum of 1-res-tiny:3 is not known"),
        (("steer", *ONE, "--ablate", "mean"), "The corpus mean of 1-res-tiny:3 is not known"),
        (("steer", *ONE, "--ablate", "patch", "--patch", "in the"), "The prompt to patch from has 2 tokens"),
        (("steer", *ONE, "--ablate", "patch", "--patch", ""), "The prompt is empty."),
        ((*STEER, "1", "--watch", "two tokens"), "'two tokens' is 10 tokens, not one"),
        ((*STEER, "1", "--top-k", "1", "--watch", ""), "'' is 0 tokens, not one."),
        ((*SWEEP, "1", "--answer", ""), "'' is 0 tokens, not one."),
        (("impact", "x", "--feature", "9-res:1", "--add", "1"), "No dictionary called 9-res is open."),
        (("impact", "", "--feature", "1-res-tiny:1", "--add", "1"), "The prompt is empty."),
        (("ablate", ""), "The prompt is empty."),
        (("ablate", "in the", "--target", "two tokens"), "'two tokens' is 10 tokens, not one"),
        (("ablate", "in the", "--site", "9-res\x1b[31m"), "No open dictionary reads 9-res␛[31m."),
        (("ablate", "\udcff"), "The text holds bytes that are not UTF-8."),
    ],
)
def test_what_the_open_set_lacks_is_named(opened: list[str], arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments, *opened)
    assert code == 2
    assert said in error
    assert is_one_line(error)


@pytest.mark.parametrize("command", [("sweep", "--strengths", "1"), ("impact", "--add", "1"), ("ablate",)])
def test_too_long_a_prompt(opened: list[str], command: tuple[str, ...]) -> None:
    name, *rest = command
    feature = [] if name == "ablate" else ["--feature", "1-res-tiny:3"]
    code, error = _fails(name, "x" * 200, *feature, *rest, *opened)
    assert (code, is_one_line(error)) == (1, True)
    assert "The prompt has 200 tokens" in error


def test_a_change_that_comes_too_late_is_said(opened: list[str]) -> None:
    """The text has ended, by a stop string that always comes, before the strength was to change."""
    asked = ["steer", "in the end", *ONE[1:], "--add", "0", "--temperature", "0", "--tokens", "8", *opened, "--json"]
    text = json.loads(CliRunner().invoke(main.app, asked).stdout)["steered"]["text"]
    done = CliRunner().invoke(main.app, [*asked, "--stop", text[0], "--change", "5:2"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["changes"] == []
    assert done.stderr.startswith("saescope: The steered text ended before generated token 5")
    assert is_one_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((*STEER, "6", "--runs", "100000", "--tokens", "20"), "of 100000"),
        ((*SWEEP, "-9:9:500", "--tokens", "100", "--controls", "50"), "%"),
    ],
)
def test_control_c_in_the_middle(tmp_path: Path, opened: list[str], arguments: tuple[str, ...], shown: str) -> None:
    home = Home(tmp_path / "command")
    terminal = Terminal([*COMMAND, *arguments, *opened], environment=home.environment)
    try:
        terminal.wait_for(shown)
        terminal.send("\x03")
        assert terminal.wait(20) == 1
        terminal.settle(0.1)
        assert [line.rstrip() for line in terminal.screen.display if line.strip()] == ["saescope: stopped."]
    finally:
        terminal.close()
    assert b"Traceback" not in terminal.received
    assert home.strays() == []
