"""The marks of a session as quicklists: what has a page is listed, what has none is said."""

from __future__ import annotations

import msgspec
import pytest

from engine.errors import BadRequest, SessionError
from engine.protocol import FeatureRef
from sessions.export import Exported, export_quicklist
from sessions.model import Session, neuronpedia_ids
from sessions.quicklist import read_quicklist_url
from tests import samples
from tests.samples import WITH_PAGE, WITHOUT_PAGE


def marked(*marks: FeatureRef, title: str = "a title · 漢") -> Session:
    return msgspec.structs.replace(samples.session("one two"), marks=marks, title=title)


def listed(exported: Exported) -> list[tuple[str, str, str]]:
    """Every feature of the addresses."""
    return [(e.modelId, e.layer, e.index) for url in exported.urls for e in read_quicklist_url(url)[1]]


def names(exported: Exported) -> list[str]:
    return [read_quicklist_url(url)[0] for url in exported.urls]


def test_only_some_dictionaries_have_pages() -> None:
    assert neuronpedia_ids(marked()) == {"9-res-fk": "fake-1l/9-res-fk"}


def test_marks_are_listed_in_their_order() -> None:
    exported = export_quicklist(marked(WITH_PAGE, FeatureRef("9-res-fk", 7)))
    assert listed(exported) == [("fake-1l", "9-res-fk", "31"), ("fake-1l", "9-res-fk", "7")]
    assert exported.notes == ()


def test_marks_without_a_page_are_left_out_and_said() -> None:
    exported = export_quicklist(marked(WITHOUT_PAGE, WITH_PAGE, FeatureRef("14-res-fk", 1), FeatureRef("4-res-fk", 2)))
    assert listed(exported) == [("fake-1l", "9-res-fk", "31")]
    (note,) = exported.notes
    assert ": 3 marked of 14-res-fk, 4-res-fk" in note
    assert "14-res-fk, 4-res-fk" in note
    assert "9-res-fk" not in note


def test_marks_of_a_dictionary_no_longer_open_have_no_page() -> None:
    exported = export_quicklist(marked(WITH_PAGE, FeatureRef("gone", 1)))
    assert "gone" in exported.notes[0]
    assert listed(exported) == [("fake-1l", "9-res-fk", "31")]


def test_no_mark_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SessionError, match="No feature is marked") as caught:
        export_quicklist(marked())
    assert "space" in caught.value.remedy


def test_marks_of_which_none_has_a_page_are_an_error() -> None:
    with pytest.raises(SessionError, match="14-res-fk, 4-res-fk") as caught:
        export_quicklist(marked(WITHOUT_PAGE, FeatureRef("14-res-fk", 1)))
    assert "neuronpedia_id" in caught.value.remedy


def test_the_list_is_named_by_the_user_or_the_session() -> None:
    assert names(export_quicklist(marked(WITH_PAGE), "mine")) == ["mine"]
    assert names(export_quicklist(marked(WITH_PAGE))) == ["a title · 漢"]
    assert names(export_quicklist(marked(WITH_PAGE, title=""))) == ["saescope features"]


def test_a_blank_name_is_refused() -> None:
    with pytest.raises(BadRequest, match="needs a name"):
        export_quicklist(marked(WITH_PAGE), "  ")


def test_many_marks_become_several_lists() -> None:
    exported = export_quicklist(marked(*(FeatureRef("9-res-fk", i) for i in range(151))), "many")
    assert names(exported) == ["many (1/2)", "many (2/2)"]
    assert [index for _, _, index in listed(exported)] == [str(i) for i in range(151)]


def test_a_session_read_back_exports_the_same() -> None:
    session = marked(WITHOUT_PAGE, WITH_PAGE)
    again = msgspec.json.decode(msgspec.json.encode(session), type=Session)
    assert export_quicklist(again) == export_quicklist(session)
