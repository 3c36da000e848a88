"""What survives: the user's own labels, several processes at once, and files that are damaged, newer or read-only."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from engine.errors import BadRequest
from engine.labels import database
from engine.labels.database import LabelsUnusable
from engine.labels.own import OwnLabel
from engine.labels.rows import Row
from engine.labels.store import LabelStore
from engine.paths import data_dir
from engine.results import Label
from tests.conftest import RunPython
from tests.engine.test_label_store import GPT, PYTHIA, filled, found, row

# --- the user's own -----------------------------------------------------------------------------------------------


def test_own_labels_survive_forgetting_importing_and_the_loss_of_the_store() -> None:
    store = filled(row(1, "theirs"))
    store.set_user(*GPT, 1, "mine")
    store.set_user(*PYTHIA, 2, "also mine")
    store.set_user(*PYTHIA, 2, "mine, better")
    store.set_user(*PYTHIA, 3, "regretted")
    store.set_user(*PYTHIA, 3, "")
    filled(row(1, "theirs, new"), store=store)
    store.forget(*GPT)
    exported = store.export_user()
    assert [json.loads(line)["text"] for line in exported.splitlines()] == ["mine", "mine, better"]
    for stale in data_dir().glob("labels.db*"):
        stale.unlink()
    assert LabelStore().labels(*GPT, 1) == (Label("mine", "you"),)
    assert LabelStore().export_user() == exported
    assert found(LabelStore(), "better") == [2]


def test_own_labels_are_read_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    LabelStore().set_user(*GPT, 1, "mine")
    store = LabelStore()
    store.file.unlink()

    def refused(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(database, "private_directory", refused)
    assert found(store, "mine") == [1]
    assert not store.file.exists()


def test_a_lost_file_of_own_labels_is_written_again() -> None:
    store = filled(row(1, "theirs"))
    store.set_user(*GPT, 1, "mine")
    lines = data_dir() / "own-labels.jsonl"
    before = lines.read_bytes()
    lines.unlink()
    assert store.labels(*GPT, 1)[0] == Label("mine", "you")
    assert lines.read_bytes() == before


def test_a_line_that_only_the_file_has_counts() -> None:
    """A process died between the file and the store, in the middle of the next line."""
    store = filled(row(1, "theirs"))
    store.set_user(*GPT, 1, "mine")
    with (data_dir() / "own-labels.jsonl").open("a") as lines:
        lines.write('{"model":"gpt2-small","source":"7-res-jb","index":2,"text":"late"}\n{"model":"gpt')
    assert store.labels(*GPT, 2) == (Label("late", "you"),)
    store.set_user(*GPT, 3, "after")
    store.file.unlink()
    assert [label.text for label in LabelStore().own_labels()] == ["mine", "late", "after"]


@pytest.mark.parametrize("bad", [OwnLabel("", "s", 1, "x"), OwnLabel("m", "", 1, "x"), OwnLabel("m", "s", -1, "x")])
def test_what_is_no_feature_gets_no_label(bad: OwnLabel) -> None:
    with pytest.raises(BadRequest, match="is not a feature"):
        LabelStore().set_own([bad])
    assert not data_dir().exists()


# --- several processes, and files that are not right --------------------------------------------------------------


def test_processes_write_at_once(run_python: RunPython) -> None:
    code = """
import sys
from engine.labels.store import LabelStore
for i in range(10):
    LabelStore().set_user("m", "s", int(sys.argv[1]) + i, f"label {i}")"""
    threads = [threading.Thread(target=run_python, args=(code, str(start))) for start in (0, 100)]
    for thread in threads:
        thread.start()
    for i in range(10):
        LabelStore().set_user("m", "s", 200 + i, "here")
    for thread in threads:
        thread.join()
    assert len(LabelStore().own_labels()) == 30
    assert len((data_dir() / "own-labels.jsonl").read_text().splitlines()) == 30


def test_reading_goes_on_while_another_imports() -> None:
    store = filled(row(1, "before"))
    with store.filling("other") as filling:
        filling.add(row(i, "during " + "x" * 500) for i in range(20_000))
        assert found(LabelStore(), "before") == [1]
        assert found(LabelStore(), "during") == []
    assert store.search("during")[1] == 20_000


def test_a_busy_store_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    store = filled(row(1, "x"))
    with store.filling("other"), pytest.raises(LabelsUnusable, match="in use by another saescope"):
        LabelStore().set_user(*GPT, 1, "mine")


@pytest.mark.parametrize("damage", ["noise", "middle", "tables"])
def test_a_damaged_file_is_named_with_the_way_out(damage: str) -> None:
    store = filled(*(row(i, f"label {i}") for i in range(2000)))
    store.set_user(*GPT, 1, "mine")
    size = store.file.stat().st_size
    if damage == "noise":
        store.file.write_bytes(os.urandom(size))
    elif damage == "middle":
        data = store.file.read_bytes()
        store.file.write_bytes(data[:4096] + bytes(size - 4096))
    else:
        with closing(sqlite3.connect(store.file)) as connection:
            connection.execute("DROP TABLE labels")
    for use in (
        lambda: store.labels(*GPT, 1), lambda: store.search("label"), lambda: store.set_user(*GPT, 1, "other"),
        lambda: filled(row(1, "x"), store=store),
    ):  # fmt: skip
        with pytest.raises(LabelsUnusable, match=r"labels\.db is damaged .* Delete it") as told:
            use()
        assert "own-labels.jsonl" in told.value.remedy
    store.file.unlink()
    assert store.labels(*GPT, 1) == (Label("mine", "you"),)


def test_an_empty_file_is_a_new_store() -> None:
    store = LabelStore()
    store.file.parent.mkdir()
    store.file.touch()
    assert store.counts() == []
    assert found(filled(row(1, "x"), store=store), "x") == [1]


def test_a_newer_file_is_refused() -> None:
    store = filled(row(1, "x"))
    with closing(sqlite3.connect(store.file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for use in (lambda: store.labels(*GPT, 1), lambda: store.set_user(*GPT, 1, "y")):
        with pytest.raises(LabelsUnusable, match="newer saescope"):
            use()


def test_a_folder_that_cannot_be_written_can_be_read(run_python: RunPython) -> None:
    """Root may write everywhere, so the reader becomes somebody else first."""
    code = """
import os, sys
from pathlib import Path
from engine.errors import SaescopeError
from engine.labels.store import LabelStore
if os.geteuid() == 0:
    os.setuid(65534)
store = LabelStore(Path(sys.argv[1]))
print(store.search("hello")[1], store.labels("m", "s", 2)[0].text)
try:
    store.set_user("m", "s", 3, "x")
except SaescopeError as error:
    print(error)"""
    with TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name) / "data"
        folder.mkdir()
        store = filled(Row("m", "s", 1, "hello"), store=LabelStore(folder / "labels.db"))
        store.set_user("m", "s", 2, "mine")
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        Path(name).chmod(0o755)
        done = run_python(code, str(store.file))
        folder.chmod(0o755)
    assert done.stderr == ""
    found_here, refused = done.stdout.splitlines()
    assert found_here == "1 mine"
    assert "labels.db cannot be used" in refused
