"""`saescope study` as a user runs it: every study's help, one result in all its forms, and what goes wrong."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import main
from engine.headless_studies import study, study_settings
from engine.protocol import STUDIES, Open, StudyResult
from engine.studies.measure import module_of
from sessions.store import read_session
from tests.e2e.command import Home, Ran, hidden_characters, opening

NASTY = "the \x1b[31mend\x1b]0;t\x07 of \u202eabc\u2066 in the bag of a thing"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home that must stay tidy."""
    made = Home(tmp_path_factory.mktemp("command"))
    yield made
    assert made.strays() == []


def asked(*arguments: str) -> Ran:
    """What a command leaves, run in this process, where torch is loaded already."""
    done = CliRunner().invoke(main.app, list(arguments))
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def tiny(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> list[str]:
    return opening(llama_folder, dictionary_folders)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_it_takes(name: str) -> None:
    ran = asked("study", name, "-h")
    assert ran.code == 0
    words = " ".join(ran.out.split())
    assert " ".join((STUDIES[name].__doc__ or "").split()).split(". ")[0] in words
    named = set(re.findall(r"(?:--|\[)([a-z][a-z-]*)", words))
    for field in STUDIES[name].__struct_fields__:
        option = field.replace("_", "-")
        assert {option, option.removesuffix("s"), option.removesuffix("ies") + "y"} & named, field
    assert {"json", "out", "into", "csv", "model", "dictionary"} <= named


def test_every_study_has_a_module() -> None:
    import importlib

    for kind in STUDIES.values():
        assert callable(importlib.import_module(module_of(kind)).measure)


def test_one_result_in_all_its_forms(home: Home, tiny: list[str], tmp_path: Path) -> None:
    out, into, tables = tmp_path / "result.json", tmp_path / "session.json", tmp_path / "tables"
    ran = home.run(
        "study", "logits", "1-res-tiny:3", "1-res-tiny:5", "--top", "4", *tiny, "--out", str(out), "--into", str(into),
        "--csv", str(tables), "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.err == f"saescope: {into} holds 1 study; `saescope replay {into}`.\n"
    result = msgspec.json.decode(ran.out, type=StudyResult)
    assert msgspec.json.decode(out.read_bytes(), type=StudyResult) == result
    assert read_session(into).studies[0].result == result
    assert result.finished
    assert result.settings["features"] == ["1-res-tiny:3", "1-res-tiny:5"]
    for table in result.tables:
        rows = list(csv.reader((tables / f"{table.name}.csv").open(encoding="utf-8")))
        assert rows[0] == [column.name for column in table.columns]
        assert len(rows) == len(table.rows) + 1
    for view in result.views:
        assert result.table(view.table)
    text = home.answer("study", "logits", "1-res-tiny:3", "--top", "4", *tiny)
    assert result.tables[0].title in text
    exported = home.run("export", str(into), "--study", "1", "--to", "csv")
    assert exported.out.splitlines()[0].startswith("feature,")
    assert exported.err.startswith("saescope: table tokens; --table ")


def test_names_from_text_do_not_act_on_a_terminal(home: Home, tiny: list[str], tmp_path: Path) -> None:
    file = tmp_path / "nasty.txt"
    file.write_text(NASTY * 10)
    ran = home.run("study", "tokens", "1-res-tiny:3", "--text", str(file), *tiny)
    assert ran.code == 0
    assert hidden_characters(ran.out.replace("\n", "")) == set()


def test_what_could_not_be_kept_is_said_before_the_work(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.commands.study_commands.study", lambda *_, **__: pytest.fail("the work began"))
    more = opening(llama_folder, dictionary_folders)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{}")
    for option in ("--csv", "--into"):
        ran = asked("study", "logits", "1-res-tiny:3", option, str(damaged), *more)
        assert ran.code in {1, 2}
        assert str(damaged) in ran.err
    assert damaged.read_text() == "{}"


WRONG: list[tuple[list[str], str]] = [
    (["logits"], "No feature was named"),
    (["logits", "nonsense"], "is not a feature"),
    (["logits", "9-nowhere:1"], "No dictionary called 9-nowhere is open"),
    (["logits", "1-res-tiny:64"], "has no feature 64"),
    (["logits", "1-res-tiny:3", "--top", "0"], "--top: expected `int` >= 1"),
    (["walk", "in the end", "--positions", "middle"], "Use last, all"),
    (["walk", ""], "prompt"),
    (["select"], "data set"),
    (["select", "--pairs", "/nowhere.jsonl"], "/nowhere.jsonl"),
    (["ablation", "--pairs", "/nowhere.jsonl", "--feature", "1-res-tiny:3"], "/nowhere.jsonl"),
    (["health", "--text", "/nowhere.txt"], "/nowhere.txt"),
    (["logits", "1-res-tiny:3", "--out", "/nowhere/x.json"], "folder that does not exist"),
    (["nonsense"], "No such command"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_what_is_wrong_is_said_on_one_line(
    arguments: list[str], said: str, llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    more = opening(llama_folder, dictionary_folders) if arguments != ["nonsense"] else []
    ran = asked("study", *arguments, *more)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert ran.err.count("\n") == 1 or arguments == ["nonsense"]


def test_an_interrupted_study_leaves_what_there_is(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.studies.measure._APART", 0.0)
    settings = study_settings("walk", {"prompt": "in the end of the bag", "steps": 6, "walks": 2, "tokens": 0})
    opening = Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, dictionary_folders)))
    calls: list[str] = []
    end = 10**6

    def report(text: str, done: int, total: int) -> None:
        calls.append(text)
        if len(calls) == end:
            raise KeyboardInterrupt

    whole = study(opening, settings, report=report)
    assert whole.finished
    end, first = len(calls) - 1, calls.index("reading the prompt") + 1
    calls.clear()
    found = study(opening, settings, report=report)
    assert not found.finished
    assert 0 < sum(len(table.rows) for table in found.tables) < sum(len(table.rows) for table in whole.tables)
    end = first  # before anything was there
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        study(opening, settings, report=report)
