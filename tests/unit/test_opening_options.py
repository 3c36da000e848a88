"""The options by which a model is opened: the same ones on every command that opens one."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import main
from engine.commands.common import AsJson, one_line_errors
from engine.commands.opening import opens_model
from engine.protocol import Open

OPENERS = ("doctor", "open", "features", "card", "steer", "sweep", "impact", "ablate", "circuit", "faithfulness")


def _asked(arguments: list[str], *without: str) -> tuple[int, list[Open], str]:
    """What a command is handed when it is called so."""
    taken: list[Open] = []
    app = typer.Typer()

    @app.command()
    @one_line_errors
    @opens_model(*without)
    def look(prompt: Annotated[str, typer.Argument()], *, opening: Open, json: AsJson = False) -> None:
        """Look."""
        assert (prompt, json) == ("text", True)
        taken.append(opening)

    result = CliRunner().invoke(app, ["text", "--json", *arguments])
    return result.exit_code, taken, result.output


def test_what_is_typed_is_what_is_opened() -> None:
    code, taken, _ = _asked(
        [
            "-m", "gpt2-small", "-d", "res-jb", "--dictionary", "b", "--device", "cpu", "--dtype", "float16",
            "--bos", "on", "--fold", "--download", "--keep", "disk",
        ]
    )  # fmt: skip
    assert code == 0
    assert taken == [
        Open(
            id=1, model="gpt2-small", dictionaries=("res-jb", "b"), device="cpu", dtype="float16", bos="on", fold=True,
            download=True, residency="disk",
        )
    ]  # fmt: skip


def test_without_options_it_is_the_default_set() -> None:
    assert _asked([])[1] == [Open(id=1)]


def test_an_option_can_mean_something_else_to_a_command() -> None:
    assert _asked([], "dtype")[1] == [Open(id=1)]
    code, taken, said = _asked(["--dtype", "float16"], "dtype")
    assert (code, taken) == (2, [])
    assert "--dtype" in said


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--keep", "moon"], "auto, device, host or disk"), (["--bos", "maybe"], "auto, on or off")]
)
def test_a_word_that_is_not_known(arguments: list[str], says: str) -> None:
    code, taken, said = _asked(arguments)
    assert (code, taken) == (2, [])
    assert says in " ".join(said.replace("│", " ").split())


@pytest.mark.parametrize("name", OPENERS)
def test_every_command_that_opens_has_them(name: str) -> None:
    said = CliRunner().invoke(main.app, [name, "--help"]).output
    for option in ("--model", "--dictionary", "--device", "--dtype", "--bos", "--fold", "--download", "--keep"):
        assert said.count(f"{option} ") >= 1, option
