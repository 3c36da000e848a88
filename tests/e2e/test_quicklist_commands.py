"""`saescope import` of addresses, `saescope link` and `saescope export --form` as a user runs them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import main
from engine.protocol import DictionaryInfo, FeatureRef, Open
from sessions.circuit_quicklist import strongest_features
from sessions.links import Entry, embed_url, feature_url, steer_url, topk_url
from sessions.model import Owner, Session
from sessions.quicklist import Form, quicklist_url
from sessions.store import new_session, read_session, write_session
from tests import samples
from tests.e2e.command import Home, document, here, hidden_characters

GPT2 = "gpt2-small/8-res-jb"
FEATURES = [Entry("gpt2-small", "8-res-jb", "7"), Entry("other", "9-own", "1"), Entry("gpt2-small", "8-res-jb", "3")]
URL = quicklist_url("a & b", FEATURES)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "command")
    yield made
    assert made.strays() == []


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session left in good order, with one mark."""

    def dictionary(source: str, page: str | None) -> DictionaryInfo:
        return DictionaryInfo(source, "blocks.8.hook_resid_pre", 8, "topk", "", 768, 24_576, "/x", "0" * 64, page)

    made: Session = msgspec.structs.replace(
        new_session(Open(id=0)),
        owner=None,
        dictionaries=(dictionary("8-res-jb", GPT2), dictionary("9-res-jb", "gpt2-small/9-res-jb")),
        marks=(FeatureRef("8-res-jb", 3),),
    )
    write_session(tmp_path / "session.json", made)
    return tmp_path / "session.json"


def fails(code: int, *arguments: str, stdin: str = "") -> str:
    """What a command says that must fail, on one line."""
    done = CliRunner().invoke(main.app, list(arguments), input=stdin)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("saescope: ")
    assert done.stderr.count("\n") == 1
    assert hidden_characters(done.stderr) == set()
    return done.stderr


# --- import ---------------------------------------------------------------------------------------------------------


def test_the_features_of_an_address_are_printed(home: Home) -> None:
    printed = home.answer("import", URL)
    assert printed == "gpt2-small@8-res-jb:7\nother@9-own:1\ngpt2-small@8-res-jb:3\n"
    found = document(here("import", quicklist_url("a & b", FEATURES, "compact").replace("//", "//www."), "--json"))
    assert found == {"names": ["a & b"], "features": msgspec.to_builtins(FEATURES)}
    assert home.answer("import", "-", stdin=printed.encode()) == printed
    assert here("import", feature_url(GPT2, 5)) == here("import", "gpt2-small@8-res-jb:5") == "gpt2-small@8-res-jb:5\n"


def test_the_features_are_written_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "features.txt"
    printed = here("import", URL, "--out", str(file))
    assert file.read_text() == printed
    here("import", URL, "--out", str(file), "--json")
    assert document(file.read_text())["names"] == ["a & b"]


def test_what_stands_in_an_address_is_printed_safely() -> None:
    url = quicklist_url("\x1b]0;t\x07", [Entry("\x1b[31m", "\u202e\n", "3")])
    assert here("import", url) == "␛[31m@⟨202E⟩⏎:3\n"
    assert document(here("import", url, "--json"))["features"][0]["modelId"] == "\x1b[31m"


def test_the_features_of_a_list_become_marks(home: Home, session: Path) -> None:
    ran = home.run("import", URL, "--into", str(session))
    assert (ran.code, ran.out) == (0, "8-res-jb:7\n8-res-jb:3\n")
    assert ran.err == (
        "saescope: Not marked, 1 feature of other/9-own: no open dictionary has this id. Open one whose "
        "cfg.json has it as neuronpedia_id.\nsaescope: 1 feature was marked already.\n"
    )
    assert read_session(session).marks == (FeatureRef("8-res-jb", 3), FeatureRef("8-res-jb", 7))
    done = CliRunner().invoke(main.app, ["import", URL, "--into", str(session), "--json"])
    found = document(done.stdout)
    assert found["marks"] == [{"source": "8-res-jb", "index": 7}, {"source": "8-res-jb", "index": 3}]
    assert found["unknown"] == [{"modelId": "other", "layer": "9-own", "index": "1"}]
    assert found["notes"][1] == "2 features were marked already."


def test_exported_lists_are_imported_again(session: Path, tmp_path: Path) -> None:
    """A list of several parts goes through a pipe."""
    marks = tuple(FeatureRef(f"{8 + i % 2}-res-jb", i * 50) for i in range(400))
    full = tmp_path / "full.json"
    write_session(full, msgspec.structs.replace(read_session(session), marks=marks))
    exported = here("export", str(full))
    assert exported.count("\n") == 3
    done = CliRunner().invoke(main.app, ["import", "-", "--into", str(session)], input=exported)
    assert done.exit_code == 0
    assert read_session(session).marks == (FeatureRef("8-res-jb", 3), *marks)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["https://neuronpedia.org/quick-list/?name=x"], "has no features; in a shell it needs quotes"),
        (["https://example.com/x"], "is no address of Neuronpedia. A quicklist address has the form"),
        (["-"], "There are no addresses."),
        (["gpt2-small@8-res-jb:07"], "'07' is not the index of a feature."),
        ([URL, "--out", "/none/x"], "is in a folder that does not exist."),
        (["none.pt", "--into", "x"], "--into takes the features of addresses."),
        (["gpt2-small/7-res-jb/5"], "or MODEL@SOURCE:INDEX. Did you mean gpt2-small@7-res-jb:5?"),
        (["gpt2-small/7-res-jb/5", "--into", "x"], "Did you mean gpt2-small@7-res-jb:5?"),
        (["nothing"], "'nothing' is no address, no feature and no file here. Give an address in quotes, or MODEL@"),
    ],
)
def test_what_was_typed_wrong_is_said(arguments: list[str], said: str) -> None:
    assert said in fails(2, "import", *arguments)


def test_a_session_that_cannot_take_marks_is_said(session: Path) -> None:
    assert "cannot be read" in fails(1, "import", URL, "--into", str(session.with_name("none.json")))
    assert "No feature of the list is of a dictionary" in fails(1, "import", "a@b:3", "--into", str(session))
    owned = msgspec.structs.replace(read_session(session), owner=Owner(os.getpid(), socket.gethostname()))
    write_session(session, owned)
    before = session.read_bytes()
    assert f"is open in saescope (process {os.getpid()} on" in fails(1, "import", URL, "--into", str(session))
    assert session.read_bytes() == before


def test_a_circuit_takes_no_marks(tmp_path: Path) -> None:
    file = tmp_path / "circuit.json"
    file.write_bytes(msgspec.json.encode(samples.circuit()))
    assert f"{file} is a circuit, not a session." in fails(2, "import", URL, "--into", str(file))


def test_a_file_is_still_a_circuit(tmp_path: Path) -> None:
    file = tmp_path / "x_n1.pt"
    file.write_bytes(b"no pickle")
    assert "x_n1.pt is no circuit" in fails(2, "import", str(file))


# --- link -----------------------------------------------------------------------------------------------------------


def test_links_of_a_feature(home: Home) -> None:
    assert home.answer("link", "gpt2-small@8-res-jb:7") == f"{feature_url(GPT2, 7)}\n"
    assert home.answer("link", "8-res-jb:7", "--steer", "-4.5") == f"{steer_url(GPT2, 7, -4.5)}\n"
    assert here("link", feature_url(GPT2, 7), "--search", "a & b") == f"{topk_url(GPT2, 'a & b')}\n"
    embedded = here("link", "gpt2-small@8-res-jb:7", "--embed", "--hide", "plots", "--hide", "link")
    assert embedded == f"{embed_url(GPT2, 7, hide=['plots', 'link'])}\n"
    found = document(here("link", "gpt2-small@8-res-jb:7", "--json"))
    assert found == {"feature": "gpt2-small@8-res-jb:7", "url": feature_url(GPT2, 7)}


def test_a_source_of_a_session(session: Path) -> None:
    assert here("link", "9-res-jb:7", "--session", str(session)) == f"{feature_url('gpt2-small/9-res-jb', 7)}\n"
    assert "has no feature 24576." in fails(2, "link", "9-res-jb:24576", "--session", str(session))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["9-res-sc:3"], "No model is known that has a source '9-res-sc'. Write MODEL@SOURCE:INDEX."),
        (["a@b:3", "--steer", "1", "--embed"], "Only one of --steer, --embed and --search"),
        (["a@b:3", "--steer", "nan"], "nan is not a strength."),
        (["a@b:3", "--hide", "x"], "A feature page has no part 'x'."),
        (["a@b:3", "--search", " "], "A search needs a text."),
        (["\x1b[31m"], "'\\x1b[31m' names no feature."),
    ],
)
def test_links_that_cannot_be_made(arguments: list[str], said: str) -> None:
    assert said in fails(2, "link", *arguments)


# --- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["published", "compact", "nested"])
def test_the_form_of_a_quicklist(session: Path, form: Form) -> None:
    marks = tuple(FeatureRef(f"{8 + i % 2}-res-jb", i) for i in range(5))
    write_session(session, msgspec.structs.replace(read_session(session), marks=marks))
    done = CliRunner().invoke(main.app, ["export", str(session), "--form", form, "--name", "x"])
    features = [Entry("gpt2-small", ref.source, str(ref.index)) for ref in marks]
    assert done.stdout == f"{quicklist_url('x', features, form)}\n"
    assert ("group features by source" in done.stderr) == (form == "nested")
    assert "'short' is not a form of quicklists." in fails(2, "export", str(session), "--form", "short")


@pytest.mark.parametrize("form", ["published", "compact", "nested"])
def test_the_form_of_a_circuits_quicklist(tmp_path: Path, form: Form) -> None:
    traced = samples.circuit()
    sites = tuple(msgspec.structs.replace(site, neuronpedia=f"fake-1l/{site.source}") for site in traced.sites)
    file = tmp_path / "circuit.json"
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(traced, sites=sites)))
    features = [Entry("fake-1l", ref.source, str(ref.index)) for ref in strongest_features(traced)]
    assert len(features) > 2
    printed = here("export", str(file), "--to", "quicklist", "--form", form, "--name", "x")
    assert printed == f"{quicklist_url('x', features, form)}\n"
