"""Presets go out of one session and into another unchanged, and what is no preset file says so."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest, SessionError
from engine.protocol import FeatureRef, Intervention, ModelInfo, Open, Positions
from sessions.model import Preset, Session
from sessions.presets import export_presets, find_preset, read_presets
from sessions.store import new_session, write_session
from tests.nasty import NASTY

MODEL = ModelInfo("SmolLM2", "/m", "Llama", 30, 576, 2048, 10, "cpu", "float32", "ab", "added")
PRESETS = (
    Preset("gender", (Intervention(FeatureRef("15-res-sc", 7), 2.5, unit="max", positions=Positions("range", 2)),)),
    Preset(
        "all kinds",
        (
            Intervention(FeatureRef("9-res-sc", 1), -4, "clamp", special=False),
            Intervention(FeatureRef("9-res-sc", 2), 0, "ablate", to="patch", patch="other prompt"),
            Intervention(FeatureRef("9-res-sc", 3), 0, "ablate", to="noise", seed=9),
            Intervention(FeatureRef("9-res-sc", 4), 12, unit_norm=True),
        ),
    ),
    Preset("nothing", ()),
)


def session(*presets: Preset) -> Session:
    return msgspec.structs.replace(new_session(Open(id=0)), model=MODEL, presets=presets)


def test_presets_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    path.write_text(export_presets(session(*PRESETS)), encoding="utf-8")
    assert read_presets(path) == PRESETS
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document) == ["schema", "model", "presets"]
    assert document["schema"] == 1
    assert document["model"] == "SmolLM2"
    assert document["presets"][0] == {
        "name": "gender",
        "interventions": [
            {
                "feature": {"source": "15-res-sc", "index": 7},
                "strength": 2.5,
                "unit": "max",
                "positions": {"kind": "range", "start": 2, "stop": None},
            }
        ],
    }


def test_a_session_file_serves_too(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    write_session(path, session(*PRESETS))
    assert read_presets(path) == PRESETS
    write_session(path, session())
    assert read_presets(path) == ()


def test_a_session_without_a_model_exports(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    path.write_text(export_presets(msgspec.structs.replace(session(*PRESETS), model=None)), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["model"] == ""
    assert read_presets(path) == PRESETS


@given(st.lists(st.builds(Preset, st.sampled_from(NASTY) | st.text(), st.just(PRESETS[0].interventions)), min_size=1))
def test_any_name_comes_back_and_none_acts_on_a_terminal(
    tmp_path_factory: pytest.TempPathFactory, presets: list[Preset]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    text = export_presets(session(*presets))
    assert all(c.isprintable() or c == "\n" for c in text if ord(c) < 0xA0)
    path.write_text(text, encoding="utf-8")
    assert read_presets(path) == tuple(presets)


def test_nothing_to_export_is_said() -> None:
    with pytest.raises(SessionError, match="No preset is saved"):
        export_presets(session())
    with pytest.raises(SessionError, match="not Unicode"):
        export_presets(session(Preset("\ud800", ())))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no file of presets"),
        ("{", "is no file of presets"),
        ("[]", "is no file of presets"),
        ("\u00ff" * 3, "is no file of presets"),
        ("[" * 100_000, "is no file of presets"),
        ("{}", "holds no presets"),
        ('{"schema": 1, "nodes": []}', "holds no presets"),
        ('{"schema": 2, "presets": []}', "newer saescope"),
        ('{"schema": 1, "presets": [{"name": "a"}]}', "is no file of presets"),
        ('{"schema": 1, "presets": [{"name": 3, "interventions": []}]}', "is no file of presets"),
        (
            '{"presets": [{"name": "", "interventions": [{"feature": {"source": "", "index": 1}, "strength":1e999}]}]}',
            "is no file of presets",
        ),
        (
            '{"presets": [{"name": "", "interventions": [{"feature": {"source": "", "index": 1}, "kind": "boost"}]}]}',
            "boost",
        ),
        ('{"schema": 1, "opening": {}}', "is not a saescope session"),
        ('{"schema": 99, "opening": {}}', "newer saescope"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_its_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SessionError, match=why) as caught:
        read_presets(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="cannot be read: No such file"):
        read_presets(tmp_path / "none.json")
    with pytest.raises(SessionError, match="cannot be read: Is a directory"):
        read_presets(tmp_path)


def test_a_preset_is_found_by_its_name() -> None:
    later = Preset("gender", ())
    assert find_preset(PRESETS, "gender") is PRESETS[0]
    assert find_preset((*PRESETS, later), "gender") is later
    with pytest.raises(BadRequest, match="no preset 'Gender'") as caught:
        find_preset(PRESETS, "Gender")
    assert caught.value.remedy == "There are: 'gender', 'all kinds', 'nothing'."
    with pytest.raises(BadRequest) as caught:
        find_preset((), "x")
    assert caught.value.remedy == "None is saved there."
