"""What the engine answers about labels: kept under Neuronpedia's names where a dictionary has pages, else its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BadRequest
from engine.job import Job
from engine.labels.answers import best_labels, labels_of, place_of, search, set_label
from engine.labels.database import LabelsUnusable
from engine.labels.names import place_called
from engine.labels.rows import Row, packed
from engine.labels.store import LabelStore
from engine.opening import OpenSet, open_set
from engine.paths import data_dir
from engine.protocol import FeatureRef, Label, Open, SearchLabels, SetLabel
from tests import tiny

PAGE = ("gpt2-small", "1-res-jb")


@pytest.fixture(scope="module")
def opened(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSet:
    root = tmp_path_factory.mktemp("labelled")
    pages = tiny.save_dictionary(root / "1-paged", "topk", metadata={"neuronpedia_id": "/".join(PAGE)})
    own = tiny.save_dictionary(root / "2-own", "topk", layer=2)
    return open_set(Open(id=1, model=str(llama_folder), dictionaries=(str(pages), str(own)), device="cpu"), Job())


@pytest.fixture
def sources(opened: OpenSet) -> tuple[str, str]:
    """The dictionary with pages, and the one without."""
    paged, own = opened.dictionaries
    return paged, own


@pytest.fixture
def store(opened: OpenSet, sources: tuple[str, str]) -> LabelStore:
    store = LabelStore()
    with store.filling("file") as filling:
        filling.add(Row(*PAGE, i, f"label {i}", "m", vector=packed([1.0, i / 10])) for i in (1, 2, 3, 5000))
        filling.add([Row(opened.model.name, sources[1], 1, "label of our own"), Row("other", "s", 1, "label")])
    return store


def test_where_labels_are_kept(opened: OpenSet, sources: tuple[str, str]) -> None:
    assert place_of(opened, sources[0]) == PAGE
    assert place_of(opened, sources[1]) == (opened.model.name, sources[1])


@pytest.mark.parametrize("said", ["gpt2-small/7/res", "gpt2-small/", "gpt2-small", "", 7, None])
def test_labels_are_kept_where_they_can_be_named(opened: OpenSet, sources: tuple[str, str], said: object) -> None:
    """What is no page of Neuronpedia is no name of a place: `labels remove` could not be told it."""
    dictionary = replace(opened.dictionaries[sources[1]], metadata={"neuronpedia_id": said})
    place = place_of(replace(opened, dictionaries={sources[1]: dictionary}), sources[1])
    assert place == (opened.model.name, sources[1])
    assert place_called("/".join(place)) == place


def test_nothing_is_made_by_asking(opened: OpenSet, sources: tuple[str, str]) -> None:
    feature = FeatureRef(sources[0], 1)
    assert labels_of(opened, feature) == ()
    assert best_labels(opened, (feature, FeatureRef("closed", 1))) == {}
    assert search(opened, SearchLabels(id=1, query="x")).hits == ()
    assert not data_dir().exists()


@pytest.mark.usefixtures("store")
def test_labels_of_open_dictionaries(opened: OpenSet, sources: tuple[str, str]) -> None:
    paged, own = sources
    assert labels_of(opened, FeatureRef(paged, 2)) == (Label("label 2", "m"),)
    assert labels_of(opened, FeatureRef("closed", 2)) == ()
    best = best_labels(opened, (FeatureRef(paged, 1), FeatureRef(own, 1), FeatureRef(own, 2), FeatureRef("closed", 1)))
    assert best == {f"{paged}:1": "label 1", f"{own}:1": "label of our own"}


@pytest.mark.usefixtures("store")
def test_searching_open_dictionaries(opened: OpenSet, sources: tuple[str, str]) -> None:
    """What lies beyond the dictionary, and labels of dictionaries that are not open, cannot be gone to."""
    paged, own = sources
    result = search(opened, SearchLabels(id=1, query="label"))
    assert {(hit.feature.source, hit.feature.index) for hit in result.hits} == {
        (paged, 1),
        (paged, 2),
        (paged, 3),
        (own, 1),
    }
    assert result.labelled == {paged: 4, own: 1}
    assert (result.query, result.like) == ("label", None)
    result = search(opened, SearchLabels(id=1, query="label", sources=(own,), top=5))
    assert ([str(hit.feature) for hit in result.hits], result.total) == ([f"{own}:1"], 1)
    like = FeatureRef(paged, 1)
    result = search(opened, SearchLabels(id=1, like=like, top=2))
    assert [str(hit.feature) for hit in result.hits] == [f"{paged}:2", f"{paged}:3"]
    assert (result.query, result.like) == ("label 1", like)
    for wrong in (SearchLabels(id=1, query="x", sources=("closed",)), SearchLabels(id=1, like=FeatureRef(own, 1))):
        with pytest.raises(BadRequest):
            search(opened, wrong)


@pytest.mark.usefixtures("store")
def test_the_users_own_label(opened: OpenSet, sources: tuple[str, str]) -> None:
    feature = FeatureRef(sources[0], 2)
    assert set_label(opened, SetLabel(id=1, feature=feature, text=" mine ")) == (
        Label("mine", "you"),
        Label("label 2", "m"),
    )
    assert best_labels(opened, (feature,)) == {str(feature): "mine"}
    assert LabelStore().own_labels()[0].model == PAGE[0]
    assert set_label(opened, SetLabel(id=1, feature=feature, text="")) == (Label("label 2", "m"),)
    for missing in (FeatureRef("closed", 1), FeatureRef(sources[0], 5000)):
        with pytest.raises(BadRequest):
            set_label(opened, SetLabel(id=1, feature=missing, text="x"))


def test_a_damaged_store_is_an_error_and_not_silence(
    opened: OpenSet, sources: tuple[str, str], store: LabelStore
) -> None:
    store.file.write_bytes(b"x" * 9000)
    with pytest.raises(LabelsUnusable, match="damaged"):
        labels_of(opened, FeatureRef(sources[0], 2))
