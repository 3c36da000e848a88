"""The real command in processes of its own, in a home of its own that shows what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import main
from engine.sets import write_set
from tests.conftest import ROOT

COMMAND = (sys.executable, str(ROOT / "main.py"))
_OWN = ("state", "config", "data", "cache")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Home:
    """A home, a temporary folder and a working directory, all empty, beside the four places saescope may write to."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "work"):
            (self.root / name).mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SAESCOPE_", "XDG_"))}
        own = {f"SAESCOPE_{name.upper()}": str(self.root / name) for name in _OWN}
        return {**kept, **own, "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"), "LANG": "C.UTF-8"}

    def add_set(self, name: str, model: Path, dictionaries: Sequence[Path], description: str = "") -> None:
        folder = self.root / "data" / "sets" / name
        folder.mkdir(parents=True)
        write_set(folder, str(model), list(map(str, dictionaries)), description)

    def run(self, *arguments: str, stdin: bytes = b"") -> Ran:
        """Run the command to its end. No traceback may show, whatever was asked."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.root / "work",
            env=self.environment,
            timeout=120,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))
        assert "Traceback" not in ran.out + ran.err, ran.err
        return ran

    def answer(self, *arguments: str, stdin: bytes = b"") -> str:
        """What a command that must succeed prints; it says nothing on standard error."""
        ran = self.run(*arguments, stdin=stdin)
        assert (ran.code, ran.err) == (0, "")
        return ran.out

    def strays(self) -> list[Path]:
        """Whatever was written elsewhere than in saescope's own four places."""
        return [
            file for file in self.root.rglob("*") if file.is_file() and file.relative_to(self.root).parts[0] not in _OWN
        ]


def hidden_characters(text: str) -> set[str]:
    """Characters that a terminal would act on or not show, line ends excepted."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in _HIDDEN}


def is_one_line(said: str) -> bool:
    """Whether an error was told as the program tells its errors."""
    return said.startswith("saescope: ") and said.endswith("\n") and said.count("\n") == 1


def opening(model: Path, dictionaries: Sequence[Path]) -> list[str]:
    """The options that open a model and dictionaries, in both spellings."""
    first, *others = dictionaries
    return ["--model", str(model), "--dictionary", str(first), *(part for d in others for part in ("-d", str(d)))]


def here(*arguments: str) -> str:
    """What a command that must succeed prints, run in this process, where torch is loaded already."""
    done = CliRunner().invoke(main.app, list(arguments))
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def document(printed: str) -> Any:
    """A JSON document on one line that no terminal would act on."""
    assert hidden_characters(printed) == set()
    assert printed.count("\n") == 1
    return json.loads(printed)
