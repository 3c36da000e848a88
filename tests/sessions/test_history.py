"""Prompts typed before come back in order, and losing their file costs nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine import paths
from sessions.history import History
from tests.nasty import NASTY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history" / "history.jsonl"


def filled(file: Path, *texts: str) -> History:
    history = History(file)
    for text in texts:
        history.add(text)
    return history


def all_of(history: History) -> list[str]:
    """Every prompt, newest first, as Up finds them."""
    texts: list[str] = []
    place = 0
    while True:
        text, next_place = history.recall(place, -1, "")
        if next_place == place:
            return texts
        texts.append(text)
        place = next_place


def test_up_goes_back_and_stops_at_the_oldest(file: Path) -> None:
    history = filled(file, "one", "two", "three")
    assert history.recall(0, -1, "draft") == ("three", 1)
    assert history.recall(1, -1, "three") == ("two", 2)
    assert history.recall(2, -1, "two") == ("one", 3)
    assert history.recall(3, -1, "one, edited") == ("one, edited", 3)


def test_down_goes_forth_and_ends_in_an_empty_field(file: Path) -> None:
    history = filled(file, "one", "two", "three")
    assert history.recall(3, 1, "one") == ("two", 2)
    assert history.recall(2, 1, "two") == ("three", 1)
    assert history.recall(1, 1, "three") == ("", 0)
    assert history.recall(0, 1, "draft") == ("draft", 0)


def test_an_empty_history_leaves_the_draft(file: Path) -> None:
    history = History(file)
    assert history.recall(0, -1, "draft") == ("draft", 0)
    assert history.recall(0, 1, "draft") == ("draft", 0)


def test_a_repeated_prompt_is_kept_once_and_is_the_newest(file: Path) -> None:
    history = filled(file, "one", "two", "one")
    assert all_of(history) == ["one", "two"]
    assert all_of(History(file)) == ["one", "two"]


def test_history_lives_on_in_the_next_session(file: Path) -> None:
    filled(file, *NASTY)
    assert all_of(History(file)) == list(reversed(NASTY))


def test_history_is_kept_with_the_state_of_the_program() -> None:
    History().add("here")
    assert all_of(History(paths.state_dir() / "history.jsonl")) == ["here"]


def test_the_newest_500_are_kept(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("".join(json.dumps(f"prompt {i}") + "\n" for i in range(600)))
    history = History(file)
    assert all_of(history) == [f"prompt {i}" for i in range(599, 99, -1)]
    history.add("one more")
    for kept in (history, History(file)):
        texts = all_of(kept)
        assert len(texts) == 500
        assert texts[:2] == ["one more", "prompt 599"]
        assert texts[-1] == "prompt 101"


def test_adding_a_known_prompt_to_a_full_history_loses_none(file: Path) -> None:
    history = filled(file, *(f"prompt {i}" for i in range(500)))
    history.add("prompt 0")
    assert len(all_of(history)) == 500


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    history = filled(tmp_path / "file" / "history.jsonl", "one", "two")
    assert all_of(history) == ["two", "one"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_its_place_is_no_reason_to_stop(file: Path) -> None:
    file.mkdir(parents=True)
    assert all_of(filled(file, "one")) == ["one"]


@pytest.mark.parametrize("damage", [b'"cut', b"", b"{", b"17", b"\xff\xfe", b'["a"]', b"\x00"])
def test_a_damaged_line_costs_itself_alone(file: Path, damage: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(b'"before"\n' + damage + b'\n"after"\n')
    history = History(file)
    assert all_of(history) == ["after", "before"]
    history.add("newest")
    assert all_of(History(file)) == ["newest", "after", "before"]


def test_writing_leaves_nothing_beside_the_file(file: Path) -> None:
    filled(file, "one", "two")
    assert os.listdir(file.parent) == [file.name]
