"""The store of labels: what is kept, what is found, and what is like what."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.labels.rows import LONGEST_TEXT, Row, packed
from engine.labels.store import LabelStore
from engine.labels.words import match_expression
from engine.paths import data_dir
from engine.results import Label
from tests.nasty import NASTY

GPT = ("gpt2-small", "7-res-jb")
PYTHIA = ("pythia-70m-deduped", "5-res-sm")


def row(index: int, text: str, place: tuple[str, str] = GPT, by: str = "gpt-4o-mini", **more: object) -> Row:
    return Row(*place, index, text, by, "oai_token-act-pair", **more)  # type: ignore[arg-type]


def filled(*rows: Row, store: LabelStore | None = None, origin: str = "file") -> LabelStore:
    store = store or LabelStore()
    with store.filling(origin) as filling:
        filling.add(rows)
    return store


def found(store: LabelStore, query: str, places: tuple[tuple[str, str], ...] | None = None) -> list[int]:
    return [hit.index for hit in store.search(query, places)[0]]


# --- nothing there ------------------------------------------------------------------------------------------------


def test_reading_creates_nothing() -> None:
    store = LabelStore()
    assert store.labels(*GPT, 1) == ()
    assert store.best(*GPT, [1, 2]) == {}
    assert store.search("plural") == ([], 0)
    assert store.counts() == []
    assert store.labelled([GPT]) == {}
    assert store.export_user() == ""
    with pytest.raises(BadRequest, match="embedding"):
        store.like(*GPT, 1)
    assert not data_dir().exists()


# --- labels -------------------------------------------------------------------------------------------------------


def test_the_users_own_label_is_first_and_notes_are_last() -> None:
    store = filled(
        row(3, "names of cities", by="gpt-4o"),
        Row(*GPT, 3, "an aside", "a.jsonl", "notes"),
        Row(*GPT, 3, "towns", "a.jsonl", "annotation"),
    )
    store.set_user(*GPT, 3, "  places \n")
    assert store.labels(*GPT, 3) == (
        Label("places", "you"),
        Label("towns", "a.jsonl", "annotation"),
        Label("names of cities", "gpt-4o", "oai_token-act-pair"),
        Label("an aside", "a.jsonl", "notes"),
    )
    assert store.best(*GPT, [3, 4, 3, -1, 10**12]) == {3: "places"}
    store.set_user(*GPT, 3, "")
    assert store.best(*GPT, [3]) == {3: "towns"}


def test_the_order_of_labels_is_not_that_of_the_file() -> None:
    rows = [row(1, text, by=by) for text, by in (("b", "x"), ("a", "x"), ("c", "a"))]
    one = filled(*rows).labels(*GPT, 1)
    other = filled(*reversed(rows), store=LabelStore(data_dir() / "other" / "labels.db")).labels(*GPT, 1)
    assert one == other
    assert [label.text for label in one] == ["c", "a", "b"]


def test_best_of_many_features_at_once() -> None:
    store = filled(*(row(i, f"label {i}") for i in range(0, 3000, 3)))
    assert store.best(*GPT, range(3000)) == {i: f"label {i}" for i in range(0, 3000, 3)}


def test_importing_again_replaces_and_does_not_double() -> None:
    store = filled(row(1, "old", key="a"), row(2, "gone", key="b"))
    filled(row(1, "new", key="a"), row(3, "more", key="c"), row(3, "more still", key="c"), store=store)
    assert store.labels(*GPT, 1) == (Label("new", "gpt-4o-mini", "oai_token-act-pair"),)
    assert store.labels(*GPT, 2) == ()
    assert [label.text for label in store.labels(*GPT, 3)] == ["more still"]
    assert found(store, "old") == found(store, "gone") == []
    assert found(store, "new") == [1]
    assert (count := store.counts()[0]).labels == 2
    assert [(origin.name, origin.labels) for origin in count.origins] == [("file", 2)]


def test_the_same_label_from_two_files_is_there_once() -> None:
    store = filled(row(1, "same", key="a"), row(2, "alike"))
    filled(row(1, "same", key="a"), row(2, "alike"), store=store, origin="copy")
    assert [(origin.name, origin.labels) for origin in store.counts()[0].origins] == [("copy", 2)]
    assert store.search("same")[1] == 1


def test_what_is_interrupted_leaves_nothing() -> None:
    store = filled(row(1, "kept"))

    def breaking() -> Iterator[Row]:
        for index in range(2500):
            yield row(index, "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.filling("file") as filling:
        filling.add(breaking())
    assert found(store, "half") == []
    assert found(store, "kept") == [1]


@pytest.mark.parametrize("text", [text for text in NASTY if text.strip()] + ["\ud800x"])
def test_any_text_is_kept_as_it_was_but_for_what_sqlite_cannot_keep(text: str) -> None:
    store = filled(row(1, text))
    kept = text.strip().replace("\0", "␀").replace("\ud800", "?")
    assert [label.text for label in store.labels(*GPT, 1)] == ([kept] if kept else [])


def test_long_texts_are_cut_and_empty_ones_left_out() -> None:
    store = filled(row(1, "a" * 10_000), row(2, "  \n"), row(-1, "x"), row(2**40, "x"))
    assert len(store.labels(*GPT, 1)[0].text) == LONGEST_TEXT
    assert store.counts()[0].features == 1


def test_counts() -> None:
    vector = packed([1.0, 2.0])
    store = filled(row(1, "a", vector=vector), row(1, "b"), row(2, "c"), row(7, "d", PYTHIA))
    store.set_user(*GPT, 9, "mine")
    first, second = store.counts()
    assert (first.model, first.features, first.labels, first.embeddings, first.own) == ("gpt2-small", 3, 4, 1, 1)
    assert [(origin.name, origin.labels) for origin in first.origins] == [("you", 1), ("file", 3)]
    assert (second.source, second.features, second.own) == ("5-res-sm", 1, 0)
    assert store.labelled([GPT, PYTHIA, ("a", "b")]) == {GPT: 3, PYTHIA: 1}
    assert store.models_with("7-res-jb") == ["gpt2-small"]
    assert store.forget(*GPT) == 3
    assert [(each.model, each.features, each.own) for each in store.counts()] == [
        ("gpt2-small", 1, 1), ("pythia-70m-deduped", 1, 0),
    ]  # fmt: skip


# --- searching ----------------------------------------------------------------------------------------------------


def test_words_prefixes_and_quotes() -> None:
    store = filled(
        row(1, "plural nouns"),
        row(2, "nouns in the plural, of places"),
        row(3, "Ünïcode plurals"),
        row(4, "programming: NOT and OR"),
    )
    assert sorted(found(store, "plural")) == [1, 2, 3]
    assert sorted(found(store, "nouns plural")) == [1, 2]
    assert found(store, '"plural nouns"') == [1]
    assert found(store, '"plural nou') == [1]
    assert found(store, '"plural nou"') == []
    assert found(store, '"plural" pla') == [2]
    assert found(store, "PLURALS unic") == [3]
    assert found(store, "NOT") == found(store, "and or not") == [4]
    assert found(store, "plural -nouns") == [1, 2]
    assert found(store, "missing") == found(store, "") == found(store, '"((*') == []


def test_the_best_match_is_first_and_the_users_own_among_equals() -> None:
    store = filled(row(1, "dogs and many other animals of the house"), row(2, "dogs"), row(5, "cats"))
    store.set_user(*GPT, 9, "dogs")
    hits, total = store.search("dogs")
    assert [hit.index for hit in hits] == [9, 2, 1]
    assert total == 3
    assert hits[0].label.by == "you"
    assert hits[0].score == hits[1].score > hits[2].score > 0


def test_top_and_total_and_places() -> None:
    rows = [row(i, "plural", place) for i in range(30) for place in (GPT, PYTHIA)]
    store = filled(*rows)
    hits, total = store.search("plural", top=7)
    assert (len(hits), total) == (7, 60)
    hits, total = store.search("plural", [PYTHIA, ("none", "none")], 100)
    assert {(hit.model, hit.source) for hit in hits} == {PYTHIA}
    assert total == 30
    assert store.search("plural", [("none", "none")]) == ([], 0)
    assert store.search("plural", []) == ([], 0)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return filled(row(1, "plural nouns (of a kind)"), store=LabelStore(tmp_path_factory.mktemp("s") / "labels.db"))


@given(st.text(max_size=60) | st.text(alphabet='ab "*()^:-+{}\0\ud800ÄNEAROT', max_size=40))
@example('"((*')
@example("a" * 5000)
@example("a " * 5000)
@example('"' * 999)
@example("ﷺ ́ _ 漢字 \U000e0041")
@settings(deadline=None, max_examples=300)
def test_no_query_is_a_syntax_error(searched: LabelStore, query: str) -> None:
    hits, total = searched.search(query)
    assert len(hits) == total
    assert total in (0, 1)


@given(st.lists(st.sampled_from(["plural", "nouns", "kind", "of", "a"]), min_size=1), st.sampled_from(["", "(", "*)"]))
@settings(deadline=None)
def test_the_words_of_a_label_find_it_whatever_is_between(searched: LabelStore, words: list[str], dirt: str) -> None:
    assert found(searched, f" {dirt} ".join(words)) == [1]


def test_the_expression_of_a_query() -> None:
    assert match_expression('one "two three" fo') == '"one" "two three" "fo" *'
    assert match_expression('one "two three"') == '"one" "two three"'
    assert match_expression("( ) *") is None


# --- labels like another ------------------------------------------------------------------------------------------


def vectors(count: int, dimensions: int = 16) -> list[list[float]]:
    numbers = random.Random(0)
    return [[numbers.gauss(0, 1) for _ in range(dimensions)] for _ in range(count)]


def test_labels_like_another_are_ranked_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy on the whole at once; chunks are small here, so that every border is crossed."""
    monkeypatch.setattr("engine.labels.similar._CHUNK", 7)
    given = vectors(100)
    labels = [row(i % 50, f"label {i}", key=str(i), vector=packed(v)) for i, v in enumerate(given)]
    store = filled(*labels, row(60, "without"))
    query, hits, total = store.like(*GPT, 4, top=10)
    matrix = np.array(given) / np.linalg.norm(np.array(given), axis=1, keepdims=True)
    best = (matrix @ matrix[int(query.removeprefix("label "))]).reshape(2, 50).max(axis=0)
    best[4] = -math.inf
    assert [hit.index for hit in hits] == np.argsort(-best)[:10].tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(best)[::-1][:10].tolist(), abs=2e-3)
    assert total == 98


def test_places_of_likeness() -> None:
    one, near, far = [1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.0]
    other_length = packed([1.0, 0.0])
    store = filled(
        row(1, "one", vector=packed(one)), row(2, "far", vector=packed(far)), row(9, "short", vector=other_length),
        row(1, "near", PYTHIA, vector=packed(near)),
    )  # fmt: skip
    _, hits, total = store.like(*GPT, 1)
    assert [(hit.model, hit.index) for hit in hits] == [("pythia-70m-deduped", 1), ("gpt2-small", 2)]
    assert total == 2
    assert [hit.index for hit in store.like(*GPT, 1, [GPT])[1]] == [2]
    with pytest.raises(BadRequest, match="embedding"):
        store.like(*GPT, 5)


def test_embeddings_that_are_none() -> None:
    for vector in ([], [1.0], [0.0] * 4, [math.nan, 1.0], [math.inf, 1.0], [1.0] * 5000):
        assert packed(vector) is None
    assert len(packed([1e300] * 256) or b"") == 512


@pytest.mark.timeout(60)
def test_a_large_source_is_compared_quickly() -> None:
    """As many labels as Gemma Scope's 131k, drawn from a few embeddings: the time is that of reading and comparing."""
    drawn = [packed(v) for v in vectors(64, 256)]
    store = filled(*(row(i, "x", vector=drawn[i % 64], key=str(i)) for i in range(32_768)))
    started = time.perf_counter()
    _, hits, total = store.like(*GPT, 5, top=20)
    assert time.perf_counter() - started < 2  # 0.08 s alone on this machine
    assert total == 32_767
    assert [hit.score for hit in hits] == pytest.approx([1.0] * 20, abs=1e-3)
