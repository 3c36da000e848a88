"""Building a corpus index: in parts, with interruptions, in a folder that others want too, on other machines."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.corpus.build import build, merge_shards, plan_of, read_part, settle
from engine.corpus.index import open_index
from engine.corpus.part import IndexPart, merge
from engine.corpus.reading import read_batches
from engine.corpus.text import contexts_of, documents_of
from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from tests.engine.corpus_scene import KEEP, LENGTH, ROWS, built, open_four, planned, text_file


@pytest.fixture(scope="module")
def opened(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSet:
    return open_four(llama_folder, tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), 150)


# --- parts ------------------------------------------------------------------------------------------------------------


def parts(opened: OpenSet, text: Path) -> list[IndexPart]:
    """A part of every few documents."""
    dictionaries = list(opened.dictionaries.values())
    contexts = list(contexts_of(opened, documents_of((str(text),)), LENGTH))
    found = []
    for start in range(0, len(contexts), 40):
        part = IndexPart.empty(dictionaries, KEEP, opened.model.device)
        for batch in read_batches(opened.model, dictionaries, contexts[start : start + 40], Job(), ROWS):
            part.add(batch)
        found.append(part)
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit, but for sums of floating point numbers."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        if name.endswith("/total"):
            np.testing.assert_allclose(array, other[name], rtol=1e-12)
        else:
            np.testing.assert_array_equal(array, other[name], name)


def test_parts_merge_in_any_order_and_grouping(opened: OpenSet, text: Path) -> None:
    a, b, c, *_ = parts(opened, text)
    left = merge(merge(a, b), c)
    a, b, c, *_ = parts(opened, text)
    right = merge(c, merge(b, a))
    same(left.arrays(), right.arrays())
    assert (left.tokens, left.contexts, left.origins) == (right.tokens, right.contexts, right.origins)
    whole = IndexPart.empty(list(opened.dictionaries.values()), KEEP, opened.model.device)
    merge(whole, left)
    same(whole.arrays(), right.arrays())


@pytest.mark.parametrize("limit", [None, 1500])
def test_shards_give_what_one_run_gives(opened: OpenSet, text: Path, tmp_path: Path, limit: int | None) -> None:
    one = built(opened, text, tmp_path / "one", tokens=limit)
    other = built(opened, text, tmp_path / "shards", tokens=limit, shards=4)
    same(one._file.arrays(), other._file.arrays())
    for name in ("tokens", "contexts", "documents", "origins"):
        assert getattr(one.progress, name) == getattr(other.progress, name)
    if limit is not None:
        assert limit <= one.progress.tokens < limit + LENGTH


def test_an_index_is_the_same_wherever_it_was_interrupted(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    whole = built(opened, text, tmp_path / "whole")
    plan = plan_of(opened, list(opened.dictionaries.values()), (str(text),), tokens=None, context=LENGTH,
                   contexts=KEEP, rows=ROWS)  # fmt: skip
    stops = 0
    for stop in itertools.count(1):
        left = [1 + stop % 7]

        def told(*_: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        try:
            build(opened, plan, tmp_path / "stopped", Job(), told)
        except KeyboardInterrupt:
            stops += 1
            continue
        break
    assert stops > 10
    again = open_index(tmp_path / "stopped")
    for name, array in whole._file.arrays().items():
        np.testing.assert_array_equal(array, again._file.arrays()[name], name)
    assert again.progress.documents == 150


def test_what_fails_in_the_middle_of_adding_is_not_kept(
    opened: OpenSet, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(opened, list(opened.dictionaries.values()), (str(text),), tokens=None, context=LENGTH,
                   contexts=KEEP, rows=ROWS)  # fmt: skip
    from engine.corpus.tables import FeatureTable

    added, honest = [0], FeatureTable.add

    def fails(*arguments: Any) -> None:
        added[0] += 1
        if added[0] == 22:  # two of the four tables have the batch
            raise MemoryError
        honest(*arguments)

    monkeypatch.setattr(FeatureTable, "add", fails)
    with pytest.raises(MemoryError):
        build(opened, plan, tmp_path / "i", Job(), lambda *_: None)
    part, progress = read_part(plan, tmp_path / "i", opened)
    assert (part.tokens, progress.batches) == (0, 0)
    assert build(opened, plan, tmp_path / "i", Job(), lambda *_: None)
    whole = built(opened, text, tmp_path / "whole")
    same(whole._file.arrays(), open_index(tmp_path / "i")._file.arrays())


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_damaged_state_is_named(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    built(opened, text, tmp_path / "i", tokens=200)
    (tmp_path / "i" / "state.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    with pytest.raises(BadRequest, match="damaged"):
        open_index(tmp_path / "i")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"context": 16}, "another --context"), ({"contexts": 5}, "another --contexts"), ({"rows": 4}, "another --rows")],
)
def test_a_folder_of_other_settings_is_refused(
    opened: OpenSet, text: Path, tmp_path: Path, change: dict[str, int], words: str
) -> None:
    built(opened, text, tmp_path / "i", tokens=200)
    with pytest.raises(BadRequest, match=words):
        built(opened, text, tmp_path / "i", tokens=200, **change)
    text_two = text_file(tmp_path / "other", 150, seed=1)
    with pytest.raises(BadRequest, match="other text"):
        built(opened, text_two, tmp_path / "i", tokens=200)


def test_nobody_takes_a_folder_that_is_being_built_in(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    """Nothing is kept yet when the other comes; what is kept later is what the manifest says."""
    other = planned(opened, text_file(tmp_path / "other", 60, seed=1))
    batches, refused = [0], []

    def told(*_: object) -> None:
        batches[0] += 1
        if batches[0] == 3:
            assert not (tmp_path / "i" / "state.safetensors").exists()
            with pytest.raises(BadRequest, match="built by another process") as caught:
                build(opened, other, tmp_path / "i", Job(), lambda *_: None)
            refused.append(caught.value)
        if batches[0] == 6:
            raise KeyboardInterrupt

    mine = planned(opened, text)
    with pytest.raises(KeyboardInterrupt):
        build(opened, mine, tmp_path / "i", Job(), told)
    assert refused
    assert open_index(tmp_path / "i").manifest == mine.manifest
    with pytest.raises(BadRequest, match="other text"):
        build(opened, other, tmp_path / "i", Job(), lambda *_: None)
    assert build(opened, mine, tmp_path / "i", Job(), lambda *_: None)
    whole = built(opened, text, tmp_path / "whole")
    same(whole._file.arrays(), open_index(tmp_path / "i")._file.arrays())


def test_a_folder_of_shards_is_taken_before_one_is_read(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    settle(tmp_path / "i", planned(opened, text, shards=2))
    for shards in (1, 2):
        other = planned(opened, text_file(tmp_path / "other", 60, seed=1), shards=shards)
        with pytest.raises(BadRequest, match="other text"):
            build(opened, other, tmp_path / "i", Job(), lambda *_: None)


def test_who_finishes_last_need_not_merge_first(opened: OpenSet, text: Path, tmp_path: Path) -> None:
    """Two workers find all shards there; the second finds them merged."""
    plan = planned(opened, text, tokens=300, shards=2)
    assert build(opened, plan, tmp_path / "i", Job(), lambda *_: None)
    merged = open_index(tmp_path / "i").progress
    heard: list[Any] = []
    assert merge_shards(opened, plan, tmp_path / "i", lambda _, progress: heard.append(progress))
    assert heard == [merged]


# --- other machines ---------------------------------------------------------------------------------------------------


def test_a_worker_opens_the_same_and_reads_the_same(
    opened: OpenSet, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray makes one: from what was sent to it, in another folder. A copy of the text has another time."""
    from engine.corpus.on_ray import Reader, opening_of

    opening = opening_of(opened)
    assert opening.device == "cpu"
    copy = tmp_path / "text.jsonl"
    shutil.copy(text, copy)
    monkeypatch.chdir(tmp_path)
    plan = planned(opened, Path("text.jsonl"), shards=2)
    settle(tmp_path / "i", plan)
    os.utime(copy, (1, 1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reader = Reader(opening, plan, tmp_path / "i", 1)
    tokens = sum(reader({"id": np.array([shard])})["tokens"][0] for shard in (0, 1))
    assert tokens == built(opened, text, tmp_path / "whole").progress.tokens
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(BadRequest, match="other text here"):
        Reader(opening, plan, tmp_path / "i", 1)
