"""Features from what was typed: names, a study's JSON, sessions, text; and what is none of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.protocol import FeatureRef
from engine.results import Provenance
from engine.studies.given import given_sets
from engine.study_results import FeatureSet, SetMember, StudyResult
from engine.study_settings.ablation import Ablation
from engine.study_settings.steering import Steering
from tests.engine.steering_scene import open_engine

ONE, TWO, OTHER = "1-res-tiny:3", "1-res-tiny:9", "2-res-tiny:5"


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> OpenSet:
    return open_engine(llama_folder, *dictionary_folders).engine.opened


def _result(*sets: FeatureSet) -> StudyResult:
    provenance = Provenance("m", "", {}, {}, "cpu", "float32", "off", {}, {})
    return StudyResult("select", "t", {}, provenance, sets=sets)


def _set(name: str, *refs: str) -> FeatureSet:
    members = [SetMember(FeatureRef(*cast(Any, _split(ref))), 0.5) for ref in refs]
    return FeatureSet(name, tuple(members), "a rule")


def _split(ref: str) -> tuple[str, int]:
    source, index = ref.split(":")
    return source, int(index)


def _names(sets: Sequence[FeatureSet]) -> dict[str, list[str]]:
    return {one.name: [str(m.feature) for m in one.members] for one in sets}


def test_sets_come_from_results_sessions_and_text(opened: OpenSet, tmp_path: Path) -> None:
    result = tmp_path / "selected.json"
    result.write_bytes(msgspec.json.encode(_result(_set("male", ONE, TWO, ONE), _set("empty"), _set("female", OTHER))))
    assert _names(given_sets(opened, [str(result)])) == {"male": [ONE, TWO], "female": [OTHER]}
    assert _names(given_sets(opened, [f"{result}#female", ONE])) == {"features": [ONE], "female": [OTHER]}
    assert given_sets(opened, [f"{result}#male"])[0].members[0].effect == 0.5
    again = tmp_path / "again.json"
    again.write_bytes(result.read_bytes())
    assert list(_names(given_sets(opened, [f"{result}#male", *[f"{again}#male"] * 2]))) == [
        "male", "again male", "again male 2",
    ]  # fmt: skip
    session = tmp_path / "session.json"
    studies = [{"at": "then", "result": _result(_set("old", TWO))}, {"at": "now", "result": _result(_set("old", ONE))}]
    document = {
        "id": "x",
        "schema": 1,
        "runs": [{"whatever": 1}],
        "studies": studies,
        "marks": [FeatureRef("2-res-tiny", 5)],
    }
    session.write_bytes(msgspec.json.encode(document))
    assert _names(given_sets(opened, [str(session)])) == {"old": [ONE], "marks": [OTHER]}


def test_of_sets_of_one_name_in_a_session_the_newest_is_meant_and_said(opened: OpenSet) -> None:
    for settings in (Ablation, Steering):
        struct = msgspec.inspect.type_info(settings)
        assert isinstance(struct, msgspec.inspect.StructType)
        told = {field.name: field.type for field in struct.fields}
        assert "of each name the newest set" in str(told["features"])


def test_a_file_may_be_named_from_the_home_folder(
    opened: OpenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text(f"{ONE}\n{OTHER}\n")
    assert _names(given_sets(opened, ["~/mine.txt"])) == {"mine": [ONE, OTHER]}
    assert _names(given_sets(opened, ["~/mine.txt#mine"])) == {"mine": [ONE, OTHER]}
    with pytest.raises(BadRequest, match="neither a feature nor a file"):
        given_sets(opened, ["~nobody-of-this-name/mine.txt"])


def _broken(folder: Path) -> Iterator[tuple[str, str]]:
    def file(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    yield "", "neither a feature nor a file"
    yield "x" * 5000, "neither a feature nor a file"
    yield "a\0b", "neither a feature nor a file"
    yield "https://neuronpedia.org/quick-list/?name=a", "address is not read"
    yield str(folder), "neither a feature nor a file"
    yield file("latin.txt", b"1-res-tiny:3\n\xe9"), "not UTF-8"
    yield file("none.txt", b"\n# nothing\n"), "holds no features"
    yield file("prose.txt", b"1-res-tiny:3\nhello\n"), "line 2: 'hello' is not a feature"
    yield file("broken.json", b'{"sets": [}'), "not JSON with sets"
    yield file("deep.json", b"[" * 100_000), "not JSON with sets"
    yield file("list.json", b"[1, 2]"), "not JSON with sets"
    yield file("wrong.json", b'{"sets": [{"name": 1}]}'), "not JSON with sets"
    yield file("other.json", b'{"nodes": []}'), "holds no sets of features"
    held = file("held.json", msgspec.json.encode(_result(_set("male", ONE), _set("empty"))))
    yield f"{held}#female", "no set called 'female'"
    yield f"{held}#empty", "is empty"
    yield file("closed.json", msgspec.json.encode(_result(_set("s", "9-res-tiny:1")))), "No dictionary called"


def test_what_holds_no_features_is_told(opened: OpenSet, tmp_path: Path) -> None:
    for name, said in _broken(tmp_path):
        with pytest.raises(BadRequest, match=said) as refused:
            given_sets(opened, [name])
        assert refused.value.remedy, name
    with pytest.raises(BadRequest, match="No feature was named"):
        given_sets(opened, [])
