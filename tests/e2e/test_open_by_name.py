"""The names of the field from the command line and on the screen, without a network: what opens and what is shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sessions.store import read_session
from tests import named_models as named
from tests.conftest import ROOT
from tests.e2e.command import COMMAND
from tests.e2e.terminal import Terminal

_NO_NETWORK = """
import os, socket

def refuse(*args, **kwargs):
    open(os.environ["TRIED"], "a").write(repr(args) + "\\n")
    raise OSError("no network in this test")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = socket.socket.connect_ex = refuse
"""
"""Imported by every Python that a test starts: what would reach for another machine fails, and is written down."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named.build(tmp_path_factory.mktemp("named"))


@pytest.fixture
def environment(mirror: Path, tmp_path: Path) -> dict[str, str]:
    """What a process of this test is started with."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(_NO_NETWORK)
    return {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "python"), str(ROOT)]),
        "TRIED": str(tmp_path / "tried"),
        "SAESCOPE_MIRROR": str(mirror),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "SAESCOPE_STATE": str(tmp_path / "state"),
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=60, check=False
    )
    assert not Path(environment["TRIED"]).exists(), Path(environment["TRIED"]).read_text()
    return ran


def test_the_hook_that_watches_the_network_works(environment: dict[str, str]) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | environment, check=False)
    assert b"no network in this test" in ran.stderr
    assert Path(environment["TRIED"]).exists()


def test_features_of_a_model_by_its_name(environment: dict[str, str]) -> None:
    ran = run(environment, "features", named.PROMPT, "-m", "pythia-70m-deduped", "--top", "50", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["model"] == "pythia-70m-deduped"
    assert {f"{layer}-{kind}-sm" for layer in range(6) for kind in ("res", "mlp", "att")} | {"e-res-sm"} == set(
        found["provenance"]["dictionaries"]
    )
    assert found["provenance"]["hooks"]["e-res-sm"] == "blocks.0.hook_resid_pre"
    assert found["tokens"][0]["text"] == "<|endoftext|>"
    assert len(found["features"]) == 50


def test_what_is_missing_is_one_line(environment: dict[str, str]) -> None:
    ran = run(environment, "features", "a", "-m", "gpt2-small", "-d", "gpt2-small-mlp-tm")
    assert ran.returncode == 1
    assert ran.stderr.startswith("saescope: None of the 12 dictionaries of gpt2-small-mlp-tm is on this machine")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "code", "says"),
    [
        (("gpt2-smal",), 2, "gpt2-small"),
        (("pythia-70m-deduped", "-d", "res-jb"), 1, "res-sm"),
        (("gpt2-small", "-d", "/nowhere/at-all"), 1, "There is no folder /nowhere/at-all."),
    ],
)
def test_what_means_nothing_is_told_before_a_screen_is_shown(
    environment: dict[str, str], names: tuple[str, ...], code: int, says: str
) -> None:
    terminal = Terminal([*COMMAND, "open", *names], (140, 10), environment)
    try:
        assert terminal.wait(20) == code
        assert "saescope: " in terminal.text
        assert says in terminal.text
        assert b"\x1b[?1049h" not in terminal.received, "the screen was opened"
    finally:
        terminal.close()


@pytest.mark.parametrize(("name", "file"), [("run1", "25.pt"), ("run2", "47.pt")])
def test_a_run_among_others_in_a_folder_lies_in_its_file(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    monkeypatch.setenv("SAESCOPE_MIRROR", environment["SAESCOPE_MIRROR"])
    _, answer = named.opened("gelu-1l", name, "neurons:mlp_post")
    run, neurons = answer.dictionaries
    assert Path(run.folder).name == file
    assert Path(run.folder).is_file()
    assert (neurons.sha256, Path(neurons.folder)) == ("", Path(answer.model.folder))
    assert answer.plan is not None
    assert "2 dictionaries" in answer.plan.reason


def page(terminal: Terminal) -> str:
    """The whole of the page M, read from its top to its end, as words apart by single spaces."""
    terminal.send("M")
    terminal.wait_for("how its numbers are made", 20)
    terminal.settle(0.2)
    seen = [terminal.text]
    for _ in range(20):
        terminal.send("\x1b[6~")
        terminal.settle(0.15)
        if terminal.text == seen[-1]:
            break
        seen.append(terminal.text)
    terminal.send("\x1b")
    terminal.settle(0.2)
    return " ".join(re.sub(r"[^\S ]|[│┃╭╮╰╯─━▁▔▎▊▏▕]", " ", "\n".join(seen)).split())


SAID = (
    "gpt2-small · GPT2LMHeadModel · 12 layers of 32 · float32 on cpu · prompts begin with BOS",
    "activations are raw f", "memory:", "13 dictionaries, beside the model",
    "SAELens: relu((x − b_dec)·W_enc + b_enc); x centred · 32 → 40",
    "mean over d_model subtracted first (center_writing_weights)",
    "7-res-jb blocks.7.hook_resid_pre gpt2-small/7-res-jb", "12-res-jb blocks.11.hook_resid_post",
    "gpt2-small-res-jb/blocks.11.hook_resid_post",
)  # fmt: skip


@pytest.mark.timeout(120)
def test_gpt2_small_in_the_inspector_and_again_without_a_model(environment: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal([*COMMAND, "open", "gpt2-small"], (140, 60), environment)
    try:
        terminal.wait_for("Prompt", 20)
        terminal.send(named.PROMPT)
        terminal.wait_for(named.PROMPT, 20)
        terminal.send("\r")
        terminal.wait_for(_features_shown, 60)
        terminal.send("\x1b3")
        terminal.settle()
        shown = page(terminal)
        terminal.send("q")
        assert terminal.wait(10) == 0
    finally:
        terminal.close()
    assert not Path(environment["TRIED"]).exists(), Path(environment["TRIED"]).read_text()
    for words in SAID:
        assert words in shown, shown

    (file,) = (tmp_path / "state" / "sessions").glob("*.json")
    session = read_session(file)
    assert session.opening.model == "gpt2-small"
    assert set(session.runs[0].result.provenance.formulas.values()) == {"relu((x − b_dec)·W_enc + b_enc); x centred"}
    gone = environment | {"SAESCOPE_MIRROR": "", "SAESCOPE_CACHE": str(tmp_path / "none")}
    again = Terminal([*COMMAND, "replay", str(file)], (140, 60), gone)
    try:
        again.wait_for(_features_shown, 20)
        again.send("3")
        again.settle()
        assert _of_page(page(again)) == _of_page(shown)
        again.send("q")
        assert again.wait(10) == 0
    finally:
        again.close()


def _features_shown(text: str) -> object:
    return re.search(r"\d+-res-jb\s+:\d+\s+[\d.,]+\s", text)


def _of_page(text: str) -> str:
    """From the name of the model on: what is above and below the page differs between a session and its replay."""
    return text[text.index("gpt2-small · GPT2") : text.index("gpt2-small-res-jb/blocks.11.hook_resid_post")]
