"""What goes wrong on the command line: exit code 2 for what was typed, 1 for what was met; never a traceback."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import main
from engine.protocol import DictionaryInfo, FeatureRef, Open
from sessions.store import new_session, write_session
from tests import tiny
from tests.e2e.command import COMMAND, Home, hidden_characters, is_one_line, opening
from tests.e2e.terminal import Terminal

CARD = ("card", "1-res-tiny:3")
STEER = ("steer", "in the", "--feature", "1-res-tiny:3", "--add")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "command")


@pytest.fixture
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> list[str]:
    return opening(llama_folder, dictionary_folders)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a folder that a test may damage."""
    return lambda folder: shutil.copytree(folder, tmp_path / "copies" / folder.name)


def _fails(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and error of a command that must fail, run in this process, where torch is loaded already."""
    done = CliRunner().invoke(main.app, list(arguments), input=stdin)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    assert hidden_characters(done.stderr) == set()
    return done.exit_code, done.stderr


def _cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


# --- what was typed: 2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("features",), "Missing argument 'prompt'"),
        (("features", "x", "--nope"), "No such option: --nope"),
        (("features", "x", "--top", "0"), "greater than or equal to 1"),
        (("features", "x", "--top", "many"), "'--top'"),
        (("features", "x", "--bos", "maybe"), "auto, on or off"),
        (("steer", "--feature", "1-res-tiny:3", "--add", "1"), "Missing argument 'prompt'"),
        ((*STEER, "1", "--seed", str(2**64)), "'--seed'"),
        ((*STEER, "1", "--temperature", "-1"), "'--temperature'"),
        ((*STEER, "1", "--tokens", "0"), "'--tokens'"),
        (("card",), "Missing argument 'feature'"),
        (("replay",), "Missing argument 'file'"),
        (("train", "--layers", "1"), "Missing option '--text'"),
        (("train", "--text", "x", "--layers", "1", "--k", "0"), "'--k'"),
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
        (("features", "x", "--rank", "best"), "'best' is not a ranking. Use max, sum or mean."),
        (("features", "x", "-m", "nothing"), "There is no set called 'nothing'."),
        (("card", "1-res-tiny"), "'1-res-tiny' is not a feature. Write SOURCE:INDEX"),
        (("card", "1-res-tiny:-1"), "is not a feature."),
        (("card", "1-res-tiny:x\x1b[31m\u202e"), "is not a feature."),
        (("steer", "x", "--feature", "a", "--add", "1"), "'a' is not a feature."),
        (("steer", "x", "--add", "1"), "--add 1 stands before any --feature."),
        ((*STEER, "1", "--add", "2"), "1-res-tiny:3 has both --add 1 and --add 2."),
        ((*STEER, "much"), "'much' is not a strength."),
        ((*STEER, "nan"), "'nan' is not a strength."),
        ((*STEER, "-inf"), "'-inf' is not a strength."),
        ((*STEER, "1e40"), "'1e40' is not a strength."),
        ((*STEER, "1", "--top-p", "0"), "0.0 is not a top-p."),
        ((*STEER, "1", "--top-p", "nan"), "nan is not a top-p."),
        (
            ("export", "x", "--to", "pdf"),
            "'pdf' is not a format. Use --to json, graph, dot, svg, quicklist, csv or presets.",
        ),
        (("open", "smollm2", "--model", "x"), "Both 'smollm2' and --model x were given."),
        (("train", "--text", "x", "--layers", "one"), "'one' is not a list of layers."),
        (("train", "--text", "x", "--layers", "-1"), "'-1' is not a list of layers."),
        (("train", "--text", "x", "--layers", "1", "--name", "../out"), "'../out' is not a name for a set."),
        (("train", "--text", "x", "--layers", "1", "--k", "99", "--latents", "9"), "Of 9 features 99 cannot"),
        (("train", "--text", "x", "--layers", "1", "--cap", "x"), "'x' is not a cap."),
    ],
)
def test_a_wrong_value_is_named_on_one_line(arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments)
    assert code == 2
    assert said in error
    assert is_one_line(error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("card", "9-res:3"), "No dictionary called 9-res is open. Open are 1-res-tiny, 2-res-tiny."),
        (("card", "1-res-tiny:64"), "1-res-tiny has no feature 64. Its features are 0 to 63."),
        (("card", f"1-res-tiny:{10**30}"), "Its features are 0 to 63."),
        (("steer", "x", "--feature", "2-res-tiny:64", "--add", "1"), "2-res-tiny has no feature 64."),
        (("features", "x", "--site", "\x1b[31mhere\u202e"), "No open dictionary reads ␛[31mhere⟨202E⟩."),
        (("features", ""), "The prompt is empty."),
        (("features", "-"), "The prompt is empty."),
        (("features", "x", "--device", "tpu"), "'tpu' is not a device."),
        (("features", "x", "--dtype", "int8"), "'int8' is not a dtype."),
        (("features", "\udcff"), "The text holds bytes that are not UTF-8."),
    ],
)
def test_what_the_open_set_lacks_is_named(opened: list[str], arguments: tuple[str, ...], said: str) -> None:
    code, error = _fails(*arguments, *opened)
    assert code == 2
    assert said in error
    assert is_one_line(error)


def test_standard_input_that_is_no_text_is_refused(opened: list[str]) -> None:
    code, error = _fails("features", "-", *opened, stdin=b"caf\xe9")
    assert code == 2
    assert "not UTF-8" in error


@pytest.mark.parametrize("arguments", [(), ("open",), ("open", "smollm2", "--color", "none")])
def test_the_inspector_asks_for_a_terminal(home: Home, arguments: tuple[str, ...]) -> None:
    ran = home.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "The inspector needs a terminal." in ran.err
    assert is_one_line(ran.err)
    assert list(home.root.rglob("*.json")) == [], "no session was begun"


# --- what was met: 1 ----------------------------------------------------------------------------------------------


def _met(said: str, *arguments: str) -> None:
    code, error = _fails(*arguments)
    assert code == 1
    assert said in error
    assert is_one_line(error)


def test_a_prompt_that_is_too_long(opened: list[str]) -> None:
    _met("The prompt has 200 tokens; the model reads 128. Shorten it by 72 tokens.", "features", "x" * 200, *opened)
    _met("The prompt has 2 tokens and 200 to generate; the model reads 128.", *STEER, "1", "--tokens", "200", *opened)


def test_folders_that_are_missing_or_are_something_else(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], tmp_path: Path
) -> None:
    model, dictionary, nowhere = str(llama_folder), str(dictionary_folders[0]), str(tmp_path / "nowhere")
    _met(f"There is no folder and no model called {nowhere}.", *CARD, "-m", nowhere, "-d", dictionary)
    _met(f"There is no folder {nowhere}.", *CARD, "-m", model, "-d", nowhere)
    _met(f"{dictionary} has no config.json.", *CARD, "-m", dictionary, "-d", dictionary)
    _met(f"{model} holds no dictionary of a form that is known.", *CARD, "-m", model, "-d", model)


def test_damaged_weights(
    home: Home, copy: Callable[[Path], Path], llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    dictionary, model = copy(dictionary_folders[0]), copy(llama_folder)
    _cut(dictionary / "sae_weights.safetensors", 100)
    ran = home.run(*CARD, *opening(llama_folder, [dictionary]))
    assert ran.code == 1
    assert is_one_line(ran.err)
    assert f"{dictionary / 'sae_weights.safetensors'} cannot be read" in ran.err
    for length in (0, 100, 5000):
        _cut(model / "model.safetensors", length)
        _met(f"{model} cannot be opened", *CARD, *opening(model, dictionary_folders))
    (model / "model.safetensors").unlink()
    _met("is incomplete: it has config.json but no weights.", *CARD, *opening(model, dictionary_folders))


def test_a_dictionary_that_does_not_fit(home: Home, llama_folder: Path, tmp_path: Path) -> None:
    wide = tiny.save_dictionary(tmp_path / "wide", "standard", d_in=48)
    ran = home.run("features", "x", *opening(llama_folder, [wide]), "--json")
    assert (ran.code, ran.out) == (1, "")
    assert is_one_line(ran.err)
    assert "wide reads 48 numbers per token; blocks.1.hook_resid_post of llama has 32." in ran.err
    deep = tiny.save_dictionary(tmp_path / "deep", "topk", layer=9)
    _met("blocks.9.hook_resid_post does not exist: llama has 4 layers.", *CARD, *opening(llama_folder, [deep]))


def test_names_in_a_models_files_do_not_act_on_a_terminal(
    home: Home, copy: Callable[[Path], Path], llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    model = copy(llama_folder)
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["\x1b[31mLlama\x1b]0;t\x07"]}))
    terminal = Terminal([*COMMAND, *CARD, *opening(model, dictionary_folders)], environment=home.environment)
    try:
        assert terminal.wait(60) == 1
        terminal.settle(0.1)
    finally:
        terminal.close()
    *progress, error = bytes(terminal.received).split(b"\r\x1b[2K")
    assert b"importing transformers" in progress
    assert hidden_characters(error.decode().replace("\r", "")) == set()
    assert "does not know ␛[31mLlama␛]0;t␇." in error.decode()


@pytest.mark.parametrize("command", ["replay", "export"])
def test_a_session_file_that_is_none(home: Home, tmp_path: Path, command: str) -> None:
    file = tmp_path / "session.json"
    ran = home.run(command, str(file))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"saescope: {file} cannot be read: No such file or directory.")
    assert is_one_line(ran.err)
    _met("Is a directory.", command, str(tmp_path))
    write_session(file, new_session(Open(id=0)))
    _cut(file, 60)
    _met("is not a saescope session", command, str(file))
    file.write_bytes(b"\x1b[31m\x00")
    _met("is not a saescope session", command, str(file))
    file.write_text('{"schema": 99}')
    _met("was written by a newer saescope (schema 99). Upgrade saescope.", command, str(file))


def test_a_session_without_marks_or_pages_gives_no_quicklist(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    made = new_session(Open(id=0))
    write_session(file, made)
    _met("No feature is marked in this session.", "export", str(file))
    own = DictionaryInfo("9-own", "blocks.9.hook_resid_pre", 9, "topk", "", 768, 24576, "/x", "0" * 64)
    write_session(file, msgspec.structs.replace(made, dictionaries=(own,), marks=(FeatureRef("9-own", 1),)))
    _met("None of the marked features has a Neuronpedia page (sources 9-own).", "export", str(file))


def test_a_full_disk_and_a_closed_input(home: Home) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "locate"], stdout=full, stderr=subprocess.PIPE, env=home.environment, check=False, text=True
        )
    assert (done.returncode, done.stderr) == (1, "saescope: No space left on device.\n")
    closed = f"exec <&-; exec {' '.join(COMMAND)} features -"
    done = subprocess.run(["sh", "-c", closed], capture_output=True, env=home.environment, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("saescope: Standard input is closed.")


def test_a_locale_without_our_glyphs(home: Home) -> None:
    environment = {**home.environment, "PYTHONIOENCODING": "latin-1", "SAESCOPE_STATE": str(home.root / "漢")}
    done = subprocess.run([*COMMAND, "locate"], capture_output=True, env=environment, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u6f22" in done.stdout


# --- being stopped ------------------------------------------------------------------------------------------------


def test_control_c_while_loading(home: Home, opened: list[str]) -> None:
    terminal = Terminal([*COMMAND, "features", "in the end", *opened], environment=home.environment)
    try:
        terminal.wait_for("importing transformers")
        terminal.send("\x03")
        assert terminal.wait(20) == 1
        terminal.settle(0.1)
        assert [line.rstrip() for line in terminal.screen.display if line.strip()] == ["saescope: stopped."]
    finally:
        terminal.close()
    assert b"Traceback" not in terminal.received
    assert home.strays() == []


def test_being_stopped_early(home: Home) -> None:
    """While libraries are imported or the prompt is awaited, before anything is shown."""
    process = subprocess.Popen(
        [*COMMAND, "features", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environment, text=True
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (1, "saescope: stopped.\n")
