"""`saescope prompts …` as a user runs it: what it prints and writes, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.commands.prompts import app
from engine.pairs import read_pairs
from tests.e2e.command import document, hidden_characters, is_one_line

BUILD = ("build", "{name} {verb} because", "--answer", " he", "--patch-answer", " she")
WORDS = ("--clean", "name=male_names", "--patch", "name=female_names", "--words", "verb=verbs")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert hidden_characters(done.stdout + done.stderr) == set()
    return done


def printed(*arguments: str) -> str:
    done = run(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- list ---------------------------------------------------------------------------------------------------------


def test_what_is_built_in() -> None:
    text = printed("list")
    found = document(printed("list", "--json"))
    names = [one["name"] for one in found["data_sets"]]
    assert {"names", "baseline_names", "prof_stereo", "prof_anti", "names_female"} <= set(names)
    assert all(f"  {name} " in text for name in [*names, *found["words"]])
    assert found["data_sets"][0]["example"]["clean"] == "John works because"


# --- build --------------------------------------------------------------------------------------------------------


def test_a_template_becomes_rows_that_studies_read(elsewhere: Path) -> None:
    text = printed(*BUILD, *WORDS, "--count", "7")
    assert rows(text)[0] == {
        "clean_prefix": "John works because", "clean_answer": " he",
        "patch_prefix": "Mary works because", "patch_answer": " she",
    }  # fmt: skip
    done = run(*BUILD, *WORDS, "--count", "7", "--out", "mine.jsonl")
    assert (done.exit_code, done.stdout) == (0, "")
    assert is_one_line(done.stderr)
    assert (elsewhere / "mine.jsonl").read_text() == text
    assert len(read_pairs(elsewhere / "mine.jsonl")) == 7


def test_a_file_is_replaced_whole(elsewhere: Path) -> None:
    """Who has the old one open reads on in it; nothing else is left behind."""
    (elsewhere / "mine.jsonl").write_text("old\n")
    with (elsewhere / "mine.jsonl").open() as old:
        assert run("build", "names", "--out", "mine.jsonl").exit_code == 0
        assert old.read() == "old\n"
    assert len(read_pairs(elsewhere / "mine.jsonl")) == 50
    assert [file.name for file in elsewhere.iterdir()] == ["mine.jsonl"]


def test_a_built_in_set_with_our_keys_exchanged() -> None:
    plain = rows(printed("build", "names", "--keys", "saescope"))
    swapped = rows(printed("build", "names", "--keys", "saescope", "--swap"))
    assert plain[0] == {"clean": "John works because", "answer": " he", "patch": "Mary works because",
                        "patch_answer": " she"}  # fmt: skip
    assert [(r["patch"], r["patch_answer"], r["clean"], r["answer"]) for r in swapped] == [
        (r["clean"], r["answer"], r["patch"], r["patch_answer"]) for r in plain
    ]
    assert swapped == rows(printed("build", "names_female", "--keys", "saescope"))


def test_lists_of_ones_own_and_what_is_dropped(elsewhere: Path, llama_folder: Path) -> None:
    """The tiny tokenizer reads letters; ` a` and ` of` are its words of one token."""
    (elsewhere / "men").write_text("Al\nBo\nBo\nBartholomew\n")
    (elsewhere / "women").write_text("Jo\nMaud\nEv\n")
    lists = ("--clean", "name=men", "--patch", "name=women", "--words", "verb=verbs", "-m", str(llama_folder))
    done = run("build", "{name} {verb}", "--answer", " a", "--patch-answer", " of", *lists, "--count", "4")
    assert done.exit_code == 0
    assert {(r["clean_prefix"][:2], r["patch_prefix"][:2]) for r in rows(done.stdout)} == {("Al", "Jo"), ("Bo", "Ev")}
    said = done.stderr.splitlines()
    assert len(said) == 3
    assert "line 3: 'Bo' is there twice" in said[0]
    assert "'Bartholomew' makes prompts of" in said[1]
    assert "'Maud' makes prompts of" in said[2]


def test_rows_that_a_model_cannot_use_are_left_out_by_name(elsewhere: Path, llama_folder: Path) -> None:
    (elsewhere / "answers").write_text("a\nof\nBarcelona\n")
    done = run("build", "x {y}", "--answer", " {y}", "--words", "y=answers", "-m", str(llama_folder))
    assert [r["clean_answer"] for r in rows(done.stdout)] == [" a", " of"]
    assert (
        done.stderr
        == "saescope: 'x Barcelona': ' Barcelona' is 10 tokens, not one: ' ' + 'B' + 'a' + 'r' + 'c' + 'e' + ….\n"
    )
    done = run(*BUILD, *WORDS, "-m", str(llama_folder))
    assert done.exit_code == 2
    assert "No row can be used" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "hello", "--answer", " x"), "has no field in braces"),
        (("build", "", "--answer", " x"), "has no field in braces"),
        (("build", "{x"), "unmatched braces"),
        (("build", "{x} y"), "has no answer"),
        (("build", "{x} y", "--answer", " z"), "No words are given for {x}"),
        (("build", "{x} y", "--answer", " z", "--words", "x"), "does not say which field"),
        (("build", "{x} y", "--answer", " z", "--words", "x="), "does not say which field"),
        (("build", "{x} y", "--answer", " z", "--words", "x=nope"), "There is no file 'nope'"),
        (("build", "{x} y", "--answer", " z", "--words", "x=verbs", "--words", "x=verbs"), "given twice"),
        (("build", "{x} y", "--answer", " z", "--clean", "x=verbs"), "--patch is missing"),
        (("build", "{x} y", "--answer", " z", "--clean", "x=verbs", "--patch", "y=verbs"), "fills"),
        (("build", "names", "--answer", " z"), "brings its own words"),
        (("build", "names", "--keys", "json"), "--keys"),
        (("build", "names", "--out", "nowhere/x"), "folder that does not exist"),
        (("build", "names", "-m", "no-such-model"), "no model called no-such-model"),
        (("build", "{x} y", "--answer", " z", "--words", "x=verbs", "--swap"), "cannot be exchanged"),
        (("check", "nope"), "There is no file 'nope', nor a built-in data set"),
        (("check", "."), "is a folder"),
        (("check", "names", "-m", "no-such-model"), "no model called no-such-model"),
    ],
)
def test_mistakes_are_told_on_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code in {1, 2}
    assert done.stdout == ""
    assert is_one_line(done.stderr)
    assert said in done.stderr


@pytest.mark.parametrize("option", ["--count", "--seed"])
def test_numbers_out_of_range(option: str) -> None:
    done = run("build", "names", option, "-1")
    assert (done.exit_code, done.stdout) == (2, "")


# --- check --------------------------------------------------------------------------------------------------------


def test_a_file_is_checked_row_by_row(elsewhere: Path, llama_folder: Path) -> None:
    good = {"clean": "b in", "answer": " a", "patch": "c in", "patch_answer": " of"}
    file = elsewhere / "mine.jsonl"
    odd = [{**good, "answer": " he"}, {**good, "patch": "cc in"}, good, {**good, "patch": "b in"}]
    file.write_text("\n".join(map(json.dumps, [good, *odd])))
    found = document(printed("check", "mine.jsonl", "-m", str(llama_folder), "--json"))
    assert (found["name"], found["origin"], found["rows"], found["usable"]) == ("mine", "mine.jsonl", 5, 3)
    assert [(f["row"], f["reason"]) for f in found["dropped"]] == [
        (2, "' he' is 3 tokens, not one: ' ' + 'h' + 'e'."),
        (3, "The patch prompt has 3 tokens, the prompt 2."),
    ]
    assert [(f["row"], f["reason"]) for f in found["noticed"]] == [
        (4, "It is the same as row 1."),
        (5, "Clean and patch prompt are the same, so every effect is zero."),
    ]
    text = printed("check", "mine.jsonl", "-m", str(llama_folder))
    assert "3 of 5 rows can be used with llama" in text


def test_nothing_usable_is_a_failure(llama_folder: Path) -> None:
    done = run("check", "names", "-m", str(llama_folder))
    assert done.exit_code == 1
    assert "0 of 50 rows" in done.stdout


@pytest.mark.default_set
def test_the_built_in_sets_fit_the_default_model(default_set: Path) -> None:
    for name in ("names", "baseline_names_female", "prof_stereo", "prof_anti"):
        found = document(printed("check", name, "--json"))
        assert (found["tokenizer"], found["usable"], found["noticed"]) == ("SmolLM2-135M-Instruct", 50, [])
