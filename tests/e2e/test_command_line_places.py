"""What the commands say that run no prompt: cards, sets, places, the doctor, quicklists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import main
from engine.doctor import examine
from engine.protocol import DictionaryInfo, FeatureRef, Open
from sessions.model import Session
from sessions.quicklist import Entry, read_quicklist_url
from sessions.store import new_session, write_session
from tests.e2e.command import Home, document, here, hidden_characters, opening

PLACES = ("state", "config", "data", "cache")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home that this process shares; what is written outside its four places is an error."""
    made = Home(tmp_path / "command")
    for name in PLACES:
        monkeypatch.setenv(f"SAESCOPE_{name.upper()}", str(made.root / name))
    yield made
    assert made.strays() == []


# --- what is there ------------------------------------------------------------------------------------------------


def test_a_card_without_a_card_file_says_what_the_weights_say(
    home: Home, llama_folder: Path, dictionary_folders: tuple[Path, ...]
) -> None:
    opened = opening(llama_folder, dictionary_folders)
    found = document(home.answer("card", "2-res-tiny:5", *opened, "--json"))
    assert found["ref"] == {"source": "2-res-tiny", "index": 5}
    assert found["density"] is None
    assert [e for _, e in found["promotes"]] == sorted((e for _, e in found["promotes"]), reverse=True)
    assert found["promotes"][0][1] > 0 > found["suppresses"][0][1]
    printed = here("card", "llama@2-res-tiny:5", *opened)
    assert hidden_characters(printed) == set()
    heading, remark, *_ = printed.splitlines()
    assert heading == "2-res-tiny:5"
    assert "came without cards" in remark


def test_sets_are_listed(home: Home, llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    home.add_set("mine", llama_folder, dictionary_folders, "a set \x1b[31mof my own")
    listed = document(home.answer("sets", "--json"))
    mine = next(entry for entry in listed if entry["name"] == "mine")
    assert (mine["model"], mine["model_ready"]) == (str(llama_folder), True)
    assert len(mine["dictionaries"]) == 2
    printed = here("sets")
    assert hidden_characters(printed) == set()
    assert "mine: a set ␛[31mof my own" in printed


def test_everything_has_a_place(home: Home) -> None:
    places = document(home.answer("locate", "--json"))
    assert {"model", "dictionaries", "config", "state", "cache", "log"} <= places.keys()
    for name in PLACES:
        assert places[name] == str(home.root / name)
    assert Path(places["log"]).is_relative_to(home.root / "state")
    assert Path(places["model"]).is_relative_to(home.root / "cache")
    assert isinstance(places["dictionaries"], list)
    printed = [line.split(maxsplit=1) for line in here("locate").splitlines()]
    flat = [[key, v] for key, value in places.items() for v in (value if isinstance(value, list) else [value])]
    assert printed == flat


def test_a_place_whose_name_is_not_text_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_STATE", "/tmp/\udcff\x1b[31m")
    assert "⟨DCFF⟩␛[31m" in here("locate")
    assert document(here("locate", "--json"))["state"] == "/tmp/\udcff\x1b[31m"


def test_the_doctor_looks_at_everything(home: Home) -> None:
    found = document(home.answer("doctor", "--json"))
    assert found["python"].startswith("3.")
    assert {"textual", "torch", "typer", "msgspec"} <= found["packages"].keys()
    assert None not in found["packages"].values()
    assert found["devices"]["cpus"] > 0
    assert found["terminal"].keys() >= {"TERM", "colours", "size", "utf8"}
    assert found["paths"]["state"] == str(home.root / "state")
    assert all(hint.endswith(".") for hint in found["hints"])
    printed = here("doctor")
    assert hidden_characters(printed) == set()
    assert printed.startswith("saescope on Python 3.")
    assert "torch " in printed


def test_a_torch_that_cannot_be_imported_is_named_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = examine()
    assert found["devices"] == {"error": "torch cannot be imported: OSError: libcudart.so.12: no such file"}
    assert found["devices"]["error"] in found["hints"]


# --- export -------------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Three marks: two in a dictionary with Neuronpedia pages, one without."""

    def dictionary(source: str, pages: str | None) -> DictionaryInfo:
        return DictionaryInfo(source, "blocks.8.hook_resid_pre", 8, "topk", "", 768, 24576, "/x", "0" * 64, pages)

    made: Session = msgspec.structs.replace(
        new_session(Open(id=0)),
        title="the & city",
        dictionaries=(dictionary("8-res-jb", "gpt2-small/8-res-jb"), dictionary("9-own", None)),
        marks=(FeatureRef("8-res-jb", 7), FeatureRef("9-own", 1), FeatureRef("8-res-jb", 24575)),
    )
    write_session(tmp_path / "session.json", made)
    return tmp_path / "session.json"


def test_marks_become_a_quicklist(home: Home, session: Path) -> None:
    before = session.read_bytes()
    ran = home.run("export", str(session), "--to", "quicklist")
    assert ran.code == 0
    assert ran.err == "saescope: Left out, for want of a Neuronpedia page: 1 marked of 9-own.\n"
    (address,) = ran.out.splitlines()
    assert address.isascii()
    assert " " not in address
    features = [Entry("gpt2-small", "8-res-jb", "7"), Entry("gpt2-small", "8-res-jb", "24575")]
    assert read_quicklist_url(address) == ("the & city", features)
    done = CliRunner().invoke(main.app, ["export", str(session), "--name", "é", "--json"])
    assert done.exit_code == 0
    said = document(done.stdout)
    assert read_quicklist_url(said["urls"][0]) == ("é", features)
    assert len(said["notes"]) == 1
    assert session.read_bytes() == before
