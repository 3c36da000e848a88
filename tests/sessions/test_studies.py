"""Results of studies in session files, and what leaves them for other programs."""

from __future__ import annotations

import csv
import io
import os
import socket
from pathlib import Path

import msgspec
import pytest

from engine.documents import to_json
from engine.errors import SessionError
from engine.protocol import Column, FeatureRef, FeatureSet, Open, Provenance, SetMember, StudyResult, Table
from sessions.model import Owner, Session, StudyRecord
from sessions.quicklist import read_quicklist_url
from sessions.store import read_session, write_session
from sessions.studies import record_study
from sessions.study_export import export_set, export_study, find_study
from tests import samples
from tests.samples import WITH_PAGE, WITHOUT_PAGE

TABLE = Table(
    "effects", "Effects", (Column("feature", "feature"), Column("token", "token"), Column("effect", "signed")),
    (("9-res-fk:31", ' a "b",\n', -0.25), ("9-res-fk:7", "·", None)),
)  # fmt: skip


def result(*names: str, page: str | None = None) -> StudyResult:
    members = (SetMember(WITH_PAGE, 0.5, page), SetMember(FeatureRef("9-res-fk", 7), -0.4, page))
    sets = tuple(FeatureSet(name, members, "by hand") for name in names)
    provenance = Provenance("m", "", {}, {}, "cpu", "float32", "on", {}, {})
    return StudyResult("select", "A title", {"count": 2}, provenance, tables=(TABLE,), sets=sets)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    file = tmp_path / "one.json"
    records = (StudyRecord("2026-01-01", result("old")), StudyRecord("2026-01-02", result("names", "both")))
    write_session(file, msgspec.structs.replace(samples.session("one two"), studies=records))
    return file


def test_a_result_is_added_to_a_session_or_makes_one(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    assert "1 study" in record_study(file, Open(id=1, model="m"), result("a"))
    assert "2 studies" in record_study(file, Open(id=1, model="m"), result("b"))
    made = read_session(file)
    assert [r.result.sets[0].name for r in made.studies] == ["a", "b"]
    assert (made.title, made.owner, made.opening.model) == ("A title", None, "m")
    assert not made.is_empty


def test_a_session_that_is_open_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "open.json"
    owner = Owner(os.getpid(), socket.gethostname())
    write_session(file, msgspec.structs.replace(samples.session("x"), owner=owner))
    before = file.read_bytes()
    with pytest.raises(SessionError, match="is open in saescope"):
        record_study(file, Open(id=1), result())
    assert file.read_bytes() == before
    file.write_text("no session")
    with pytest.raises(SessionError, match="not a saescope session"):
        record_study(file, Open(id=1), result())


def test_studies_are_found_by_number(session: Path, tmp_path: Path) -> None:
    assert find_study(session).sets[0].name == "names"
    assert find_study(session, 1).sets[0].name == "old"
    for number in (0, 3):
        with pytest.raises(SessionError, match=f"no study {number}"):
            find_study(session, number)
    alone = tmp_path / "result.json"
    alone.write_text(to_json(result("x")))
    assert find_study(alone).sets[0].name == "x"
    empty = tmp_path / "empty.json"
    write_session(empty, samples.session("x"))
    with pytest.raises(SessionError, match="holds no study"):
        find_study(empty)
    with pytest.raises(SessionError, match="cannot be read"):
        find_study(tmp_path / "nowhere.json")


def test_a_set_is_a_quicklist_in_its_order(session: Path) -> None:
    exported = export_set(session, "names")
    name, entries = read_quicklist_url(exported.urls[0])
    assert name == "names"
    assert [(e.modelId, e.layer, e.index) for e in entries] == [
        ("fake-1l", "9-res-fk", "31"), ("fake-1l", "9-res-fk", "7"),
    ]  # fmt: skip
    assert read_quicklist_url(export_set(session, "old", "Other name").urls[0])[0] == "Other name"
    with pytest.raises(SessionError, match="no set called 'x'; there are 'old', 'names', 'both'"):
        export_set(session, "x")


def test_a_result_file_brings_its_pages(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(to_json(result("only", page="gpt2-small/9-res-jb")))
    _, entries = read_quicklist_url(export_set(file, "").urls[0])
    assert [e.layer for e in entries] == ["9-res-jb", "9-res-jb"]
    file.write_text(to_json(result("only")))
    with pytest.raises(SessionError, match="None of the features of only has a Neuronpedia page"):
        export_set(file, "only")
    file.write_text(to_json(result("a", "b")))
    with pytest.raises(SessionError, match="several sets: 'a', 'b'"):
        export_set(file, "")


def test_tables_leave_as_csv_with_every_cell_whole() -> None:
    rows = list(csv.reader(io.StringIO(export_study(result(), "csv"))))
    assert rows == [["feature", "token", "effect"], ["9-res-fk:31", ' a "b",\n', "-0.25"], ["9-res-fk:7", "·", ""]]
    assert msgspec.json.decode(export_study(result(), "json"), type=StudyResult) == result()
    with pytest.raises(SessionError, match="no table x"):
        export_study(result(), "csv", "x")
    with pytest.raises(SessionError, match="cannot be exported as svg"):
        export_study(result(), "svg")


def test_a_session_of_before_has_no_studies() -> None:
    old = msgspec.to_builtins(samples.session("x"))
    del old["studies"]
    assert msgspec.convert(old, Session).studies == ()


def test_what_has_no_page_is_said(tmp_path: Path) -> None:
    members = (SetMember(WITH_PAGE), SetMember(WITHOUT_PAGE))
    mixed = msgspec.structs.replace(result(), sets=(FeatureSet("mixed", members),))
    file = tmp_path / "s.json"
    write_session(file, msgspec.structs.replace(samples.session("x"), studies=(StudyRecord("", mixed),)))
    assert "Left out" in export_set(file, "mixed").notes[0]


def test_a_set_is_that_of_the_study_named(tmp_path: Path) -> None:
    other = msgspec.structs.replace(
        result("names"), sets=(FeatureSet("names", (SetMember(FeatureRef("9-res-fk", 99)),)),)
    )
    file = tmp_path / "two.json"
    studies = (StudyRecord("", other), StudyRecord("", result("names")))
    write_session(file, msgspec.structs.replace(samples.session("x"), studies=studies))

    def indices(study: int | None) -> list[str]:
        return [e.index for e in read_quicklist_url(export_set(file, "names", study=study).urls[0])[1]]

    assert indices(1) == ["99"]
    assert indices(2) == indices(None) == ["31", "7"]
    with pytest.raises(SessionError, match="no study 3"):
        indices(3)


def test_a_damaged_result_is_told_as_that(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(to_json(result("x")).replace('"title":', '"titel":', 1))
    with pytest.raises(SessionError, match="a study that cannot be read"):
        find_study(file)
