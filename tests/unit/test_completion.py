"""Names complete in the shell: asked as zsh asks, through the commands and options that take them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import main


def completed(line: str) -> str:
    """What zsh is told where a line was typed so far."""
    asked = {"_SAESCOPE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    told = CliRunner().invoke(main.app, env=asked, prog_name="saescope").stdout
    return told.replace("\\", "")  # colons are escaped there


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("open gpt2-s", "gpt2-small"),
        ("open --model gpt2-s", "gpt2-small"),
        ("open smol", "smollm2"),
        ("features -m gpt2-s", "gpt2-small"),
        ("features --dictionary gpt2-small-res-j", "gpt2-small-res-jb"),
        ("doctor -d gpt2-small-res-jb/blocks.7.", "gpt2-small-res-jb/blocks.7.hook_resid_pre"),
        ("steer Hello -d neu", "neurons:"),
        ("get dictionary gpt2-small-res-j", "gpt2-small-res-jb"),
        ("get dictionary res-jb --model gpt2-s", "gpt2-small"),
        ("get model gpt2-s", "gpt2-small"),
        ("dictionaries gpt2-small-res-j", "gpt2-small-res-jb"),
        ("get la", "labels"),
    ],
)
def test_names_complete_in_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert f'"{name}"' in completed(f"saescope {line}")


def test_folders_complete_where_they_mean_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2-own").mkdir()
    assert '"gpt2-own/"' in completed("saescope features -d gpt2-o")
    assert "gpt2-own" not in completed("saescope get dictionary gpt2-o")
