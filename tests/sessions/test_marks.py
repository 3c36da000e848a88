"""A quicklist becomes marks: matched by Neuronpedia ids alone, and what does not match is said, not lost."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from engine.errors import BadRequest, SessionError
from engine.protocol import DictionaryInfo, FeatureRef, Open
from sessions.export import export_quicklist
from sessions.links import Entry
from sessions.marks import import_address, import_into, import_quicklist
from sessions.model import Owner, Session
from sessions.quicklist import FORMS, FormChoice, quicklist_url, read_quicklist_url
from sessions.registered import models_with, release_names
from sessions.store import new_session, read_session, write_session

GPT2 = "gpt2-small"


def dictionary(source: str, page: str | None, d_sae: int = 24_576) -> DictionaryInfo:
    return DictionaryInfo(source, "blocks.8.hook_resid_pre", 8, "topk", "", 768, d_sae, "/x", "0" * 64, page)


OPENED = (
    dictionary("mine", f"{GPT2}/8-res-jb"),
    dictionary("9-res-jb", None),
    dictionary("e", f"{GPT2}/10-res-jb", 16),
)


def left(*marks: FeatureRef, dictionaries: tuple[DictionaryInfo, ...] = OPENED) -> Session:
    """A session that was left in good order."""
    made = new_session(Open(id=0))
    return msgspec.structs.replace(made, owner=None, dictionaries=dictionaries, marks=marks, updated="2020")


def test_features_are_matched_by_id_in_their_order() -> None:
    entries = [Entry(GPT2, "10-res-jb", "15"), Entry(GPT2, "8-res-jb", "24575"), Entry(GPT2, "10-res-jb", "0")]
    found = import_quicklist(OPENED, [*entries, entries[0]])
    assert found.marks == (FeatureRef("e", 15), FeatureRef("mine", 24575), FeatureRef("e", 0))
    assert (found.unknown, found.notes) == ((), ())
    assert import_quicklist(left(), entries) == import_quicklist(iter(OPENED), entries)


def test_an_address_becomes_marks() -> None:
    text = f"{quicklist_url('x', [Entry(GPT2, '8-res-jb', '3')])}\n{GPT2}@10-res-jb:4"
    assert import_address(text, OPENED).marks == (FeatureRef("mine", 3), FeatureRef("e", 4))
    with pytest.raises(BadRequest, match="'x' names no feature"):
        import_address("x", OPENED)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (GPT2, "9-res-jb"),  # a dictionary has this name, but no id
        (GPT2, "mine"),
        ("GPT2-small", "8-res-jb"),
        ("gpt2", "8-res-jb"),
        ("gpt2-small/8-res-jb", ""),
        ("", "gpt2-small/8-res-jb"),
    ],
)
def test_names_are_never_guessed(model: str, layer: str) -> None:
    found = import_quicklist(OPENED, [Entry(model, layer, "3")])
    assert found.marks == ()
    assert found.unknown == (Entry(model, layer, "3"),)
    assert "no open dictionary has this id" in found.notes[0]


def test_what_is_not_open_is_kept_and_said_with_what_to_open() -> None:
    unknown = [
        Entry("pythia-70m-deduped", "e-res-sm", "1"),
        Entry("no", "1-x", "2"),
        Entry("pythia-70m-deduped", "e-res-sm", "3"),
    ]
    found = import_quicklist(OPENED, [unknown[0], Entry(GPT2, "8-res-jb", "5"), *unknown[1:]])
    assert found.marks == (FeatureRef("mine", 5),)
    assert found.unknown == tuple(unknown)
    assert found.notes == (
        "Not marked, 2 features of pythia-70m-deduped/e-res-sm: no open dictionary has this id. "
        "Open pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre.",
        "Not marked, 1 feature of no/1-x: no open dictionary has this id. "
        "Open one whose cfg.json has it as neuronpedia_id.",
    )


def test_an_index_beyond_the_dictionary_is_no_mark() -> None:
    entries = [Entry(GPT2, "10-res-jb", index) for index in ("15", "999999999", "16")]
    found = import_quicklist(OPENED, entries)
    assert found.marks == (FeatureRef("e", 15),)
    assert found.unknown == tuple(entries[1:])
    assert found.notes == ("Not marked: e has no features 999999999, 16; its last is 15.",)
    one = import_quicklist(OPENED, entries[2:])
    assert one.notes == ("Not marked: e has no feature 16; its last is 15.",)
    many = import_quicklist(OPENED, [Entry(GPT2, "10-res-jb", str(index)) for index in range(16, 23)])
    assert many.notes == ("Not marked: e has no features 16, 17, 18 and 4 more; its last is 15.",)


def test_damaged_ids_of_dictionaries_match_nothing() -> None:
    damaged = [dictionary("a", "x"), dictionary("b", "/x"), dictionary("c", "\ud800/y"), dictionary("d", "")]
    assert import_quicklist(damaged, [Entry("x", "", "1"), Entry("", "x", "1")]).marks == ()
    twice = [dictionary("a", "m/s"), dictionary("b", "m/s")]
    assert import_quicklist(twice, [Entry("m", "s", "1")]).marks == (FeatureRef("a", 1),)


def test_the_registry_knows_what_to_open() -> None:
    assert release_names(GPT2, "7-res-jb") == ("gpt2-small-res-jb/blocks.7.hook_resid_pre",)
    assert release_names(GPT2, "7-res-none") == ()
    assert models_with("7-res-jb") == (GPT2,)
    assert models_with("7-res-none") == ()
    assert len(models_with("9-gemmascope-2-res-16k")) > 1


# --- into a session file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_exported_marks_come_back(tmp_path: Path, form: FormChoice) -> None:
    marks = tuple(FeatureRef(source, i) for i in range(15) for source in ("mine", "e"))
    urls = export_quicklist(left(*marks), "x", form).urls
    file = tmp_path / "session.json"
    write_session(file, left())
    import_into(file, [entry for url in urls for entry in read_quicklist_url(url)[1]])
    found = read_session(file).marks
    assert sorted(found) == sorted(marks)
    assert form == "nested" or found == marks


def test_marks_are_added_behind_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    before = left(FeatureRef("9-res-jb", 1), FeatureRef("mine", 5))
    write_session(file, before)
    entries = [Entry(GPT2, "10-res-jb", "2"), Entry(GPT2, "8-res-jb", "5"), Entry("no", "1-x", "2")]
    found = import_into(file, entries)
    assert found.marks == (FeatureRef("e", 2), FeatureRef("mine", 5))
    assert found.unknown == (entries[2],)
    assert found.notes[-1] == "1 feature was marked already."
    after = read_session(file)
    assert after.marks == (*before.marks, FeatureRef("e", 2))
    assert after.updated > before.updated
    assert msgspec.structs.replace(after, marks=before.marks, updated=before.updated) == before
    bytes_before = file.read_bytes()
    assert import_into(file, entries[:2]).notes == ("2 features were marked already.",)
    assert file.read_bytes() == bytes_before


def test_a_session_that_is_open_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    for owner in (Owner(os.getpid(), socket.gethostname()), Owner(1, "another-host")):
        write_session(file, msgspec.structs.replace(left(), owner=owner))
        before = file.read_bytes()
        with pytest.raises(SessionError, match=rf"is open in saescope \(process {owner.pid} on {owner.host}\)"):
            import_into(file, [Entry(GPT2, "8-res-jb", "5")])
        assert file.read_bytes() == before


def test_a_session_that_was_cut_off_takes_marks_and_is_still_offered(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    gone = Owner(2**22 + 12_345, socket.gethostname())
    write_session(file, msgspec.structs.replace(left(), owner=gone))
    import_into(file, [Entry(GPT2, "8-res-jb", "5")])
    assert (read_session(file).owner, read_session(file).marks) == (gone, (FeatureRef("mine", 5),))


def test_a_list_of_other_dictionaries_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "session.json"
    write_session(file, left())
    before = file.read_bytes()
    with pytest.raises(SessionError, match="No feature of the list is of a dictionary of") as caught:
        import_into(file, [Entry(GPT2, "7-res-jb", "5")])
    assert "Open gpt2-small-res-jb/blocks.7.hook_resid_pre." in caught.value.remedy
    assert file.read_bytes() == before
    with pytest.raises(SessionError, match="cannot be read"):
        import_into(tmp_path / "none.json", [])
