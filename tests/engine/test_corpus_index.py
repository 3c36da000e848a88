"""The corpus index against a plain loop over the text, and parts of it against the whole."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.cards import AFTER, BEFORE
from engine.corpus import dataset
from engine.corpus.blocks import DOCUMENTS, ahead, blocks_of
from engine.corpus.build import Plan, build, merge_shards, plan_of, read_part, settle
from engine.corpus.index import Index, open_index
from engine.corpus.part import IndexPart, merge
from engine.corpus.reading import read_batches
from engine.corpus.tables import NO_DOCUMENT, bin_edges, bins_of
from engine.corpus.text import LeftOut, contexts_of, documents_of, first_ids
from engine.errors import BadRequest, Cancelled
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.protocol import Open
from tests import tiny

KEEP, LENGTH, ROWS = 4, 32, 3
WORDS = ["the", "in", "a", "of", "then", "other", "thin", "athe", "ofin", "the\n", "in,", "of.", "A", "the", "12", "ab"]


def text_file(folder: Path, documents: int, seed: int = 0) -> Path:
    """JSON lines of random words, of lengths from nothing to several contexts; some twice, so that there are ties."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(chance.choices(WORDS, k=chance.choice([0, 3, 20, 60]))) for _ in range(documents)]
    lines[5::9] = lines[4:-1:9]
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t, "source": f"s{n % 3}"}) + "\n" for n, t in enumerate(lines)))
    return file


@pytest.fixture(scope="module")
def opened(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSet:
    """One dictionary that selects, one that does not, one whose activations have a sign, one at a gate."""
    root = tmp_path_factory.mktemp("set")
    kinds = {"topk": 1, "standard": 2, "abstopk": 2, "jumprelu": 0}
    folders = [tiny.save_dictionary(root / f"{n}-{k}", k, layer=n) for k, n in kinds.items()]
    return open_set(Open(id=1, model=str(llama_folder), dictionaries=tuple(map(str, folders)), device="cpu"), Job())


def built(opened: OpenSet, text: Path, folder: Path, **more: Any) -> Index:
    settings = {"tokens": None, "context": LENGTH, "contexts": KEEP, "rows": ROWS} | more
    plan = plan_of(opened, list(opened.dictionaries.values()), (str(text),), **settings)
    assert build(opened, plan, folder, Job(), lambda *_: None)
    return open_index(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("text"), 150)


@pytest.fixture(scope="module")
def index(opened: OpenSet, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return built(opened, text, tmp_path_factory.mktemp("index") / "whole")


def plain(opened: OpenSet, source: str, text: Path) -> dict[str, Any]:
    """One context at a time, one token at a time, everything kept."""
    dictionary = opened.dictionaries[source]
    found: dict[str, Any] = {"counted": 0, "values": [[] for _ in range(dictionary.d_sae)]}
    for number, line in enumerate(text.read_text().splitlines()):
        ids = opened.model.tokenizer.encode(json.loads(line)["text"], bos=False)
        for start in range(0, len(ids), LENGTH):
            piece = ids[start : start + LENGTH]
            if len(piece) < 16:
                continue
            x = opened.model.capture(torch.tensor([piece]), [dictionary.site])[dictionary.site][0]
            activations = dictionary.encode(x)
            activations[0] = 0
            found["counted"] += len(piece) - 1
            for place, feature in activations.nonzero().tolist():
                found["values"][feature].append(
                    (activations[place, feature].item(), number, start + place, piece, place, activations[:, feature])
                )
    return found


@pytest.mark.parametrize("source", ["1-topk", "2-standard", "2-abstopk", "0-jumprelu"])
def test_an_index_says_what_a_plain_loop_says(opened: OpenSet, text: Path, index: Index, source: str) -> None:
    expected = plain(opened, source, text)
    assert index.counted(source) == expected["counted"]
    checked = 0
    for feature, values in enumerate(expected["values"]):
        sizes = np.abs([v[0] for v in values])
        assert index.fired(source)[feature] == len(values)
        assert index.density(source)[feature] == pytest.approx(len(values) / expected["counted"])
        assert index.maximum(source)[feature] == pytest.approx(sizes.max(initial=0), rel=1e-4)
        assert index.mean(source)[feature] == pytest.approx(sizes.mean() if len(sizes) else 0, rel=1e-4)
        histogram = index.histogram(source, feature)
        borders = index.edges[1:-1]
        # a value on a border may fall on either side of it, as the model reads several contexts at once
        clear = np.abs(sizes[:, None] / borders - 1).min(1, initial=1) > 1e-4 if len(sizes) else np.ones(0, bool)
        counts = np.bincount(np.searchsorted(borders, sizes[clear], "right"), minlength=len(borders) + 1)
        assert histogram.sum() == len(values)
        assert (histogram >= counts).all()
        best: dict[int, Any] = {}
        for value in values:
            if value[1] not in best or abs(value[0]) > abs(best[value[1]][0]) * (1 + 1e-5):
                best[value[1]] = value
        ranked = sorted(best.values(), key=lambda v: (-abs(v[0]), v[1]))[:KEEP]
        found = index.contexts(source, feature)
        assert [c.value for c in found] == pytest.approx([v[0] for v in ranked], rel=1e-4)
        assert len({c.document for c in found}) == len(found)
        for context in found:
            value, _, position, piece, place, row = best[context.document]
            assert (context.value, context.position) == (pytest.approx(value, rel=1e-4), position)
            first, end = max(place - BEFORE, 0), min(place + AFTER + 1, len(piece))
            assert list(context.ids) == piece[first:end]
            assert context.values == pytest.approx(row[first:end].tolist(), rel=1e-3, abs=1e-5)
            assert context.origin == f"s{context.document % 3}"
            checked += 1
    assert checked > 50


def test_ties_go_to_the_earlier_document(index: Index, text: Path) -> None:
    """Some documents are there twice, word for word: of such a pair the first comes first."""
    lines = text.read_text().splitlines()
    pairs = 0
    for feature in range(tiny.D_SAE):
        for one, two in itertools.pairwise(index.contexts("1-topk", feature)):
            assert one.value >= two.value
            if one.value == two.value:
                assert one.document < two.document
            pairs += json.loads(lines[one.document])["text"] == json.loads(lines[two.document])["text"]
    assert pairs > 10


def test_bins_are_where_their_edges_are() -> None:
    edges = bin_edges()
    assert len(edges) == 257
    values = torch.tensor(np.random.default_rng(0).lognormal(0, 4, 5000).astype(np.float32)).clamp(2.0**-16, 65000)
    found = bins_of(values).numpy()
    assert (edges[found] <= values.numpy()).all()
    assert (values.numpy() < edges[found + 1]).all()
    assert bins_of(torch.tensor([1e-9, 1e9])).tolist() == [0, 255]


# --- parts ----------------------------------------------------------------------------------------------------------


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


# --- the stream -----------------------------------------------------------------------------------------------------


def test_blocks_are_the_same_from_anywhere(opened: OpenSet, text: Path) -> None:
    every = list(blocks_of(opened, documents_of((str(text),)), LENGTH, None))
    assert [b.number for b in every] == [0, 1, 2]
    assert every[0].documents == DOCUMENTS
    second = next(blocks_of(opened, documents_of((str(text),), every[0].end), LENGTH, None, number=1, document=64))
    assert [c.ids.tolist() for c in second.contexts] == [c.ids.tolist() for c in every[1].contexts]
    assert [c.document for c in second.contexts] == [c.document for c in every[1].contexts]


def test_what_is_made_ahead_comes_in_order_and_with_its_error() -> None:
    def items() -> Iterator[int]:
        yield from range(20)
        raise ValueError("at the end")

    found = []
    with pytest.raises(ValueError, match="at the end"):
        found.extend(ahead(items(), Job()))
    assert found == list(range(20))


def test_what_is_made_ahead_ends_when_nobody_reads_it() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    stream = ahead(items(), Job())
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if closed:
            break
        __import__("time").sleep(0.02)
    assert closed


def test_text_that_stalls_keeps_nobody_waiting() -> None:
    asked = threading.Event()
    job = Job(1, meanwhile=asked.set)

    def items() -> Iterator[int]:
        yield 1
        assert asked.wait(20)  # something else was answered meanwhile
        job.cancel()
        hang.wait(20)

    hang = threading.Event()
    stream, started = ahead(items(), job), time.monotonic()
    assert next(stream) == 1
    with pytest.raises(Cancelled):
        next(stream)
    assert time.monotonic() - started < 10
    hang.set()


def test_a_hub_that_never_answers_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the question and says nothing: the process that asked is ended when the work is cancelled."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        running: list[subprocess.Popen[bytes]] = []

        def seen() -> None:
            running.extend(process for own in dataset._RUNNING.values() for process in own)
            if running:
                job.cancel()

        job = Job(1, meanwhile=seen)
        with pytest.raises(Cancelled):
            next(ahead(documents_of(("hf://owner/name",)), job))
        assert running[0].wait(5) == -9


def test_what_is_too_short_is_counted(opened: OpenSet, tmp_path: Path) -> None:
    words = [3, 20, 0, 40, 5]  # tokens: every word is one, with its space
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": " the" * n}) + "\n" for n in words))
    counts = [len(opened.model.tokenizer.encode(" the" * n, bos=False)) for n in words]
    ends = [n % LENGTH for n in counts]
    left_out = LeftOut()
    read = list(contexts_of(opened, documents_of((str(tmp_path / "t.jsonl"),)), LENGTH, None, left_out))
    assert sum(len(c.ids) for c in read) + left_out.tokens == sum(counts)
    assert left_out.tokens == sum(end for end in ends if end < 16) > 0
    assert left_out.documents == sum(0 < n < 16 for n in counts) > 0
    whole = f"{left_out.tokens:,} tokens were left out, {left_out.documents} whole documents among them."
    assert str(left_out.note()).endswith(whole)
    index = built(opened, tmp_path / "t.jsonl", tmp_path / "i")
    assert (index.progress.left_out, index.progress.left_documents) == (left_out.tokens, left_out.documents)
    shards = built(opened, tmp_path / "t.jsonl", tmp_path / "s", shards=2)
    assert (shards.progress.left_out, shards.progress.left_documents) == (left_out.tokens, left_out.documents)


def test_the_shortest_context_has_room_for_bos(opened: OpenSet, text: Path) -> None:
    with_bos = replace(opened, bos=True)
    assert len(first_ids(with_bos)) == 1
    found = list(contexts_of(with_bos, documents_of((str(text),)), 16))
    assert {len(c.ids) for c in found} == {16}
    assert {int(c.ids[0]) for c in found} == {with_bos.model.tokenizer.bos_id}


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_reader_names_what_is_not_there(index: Index, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"not of 9-res.*1-topk"):
        index.fired("9-res")
    with pytest.raises(BadRequest, match="no feature 64"):
        index.contexts("1-topk", 64)
    with pytest.raises(BadRequest, match="no index"):
        open_index(tmp_path)


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


def planned(opened: OpenSet, text: Path, **more: Any) -> Plan:
    settings = {"tokens": None, "context": LENGTH, "contexts": KEEP, "rows": ROWS} | more
    return plan_of(opened, list(opened.dictionaries.values()), (str(text),), **settings)


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


# --- other machines -------------------------------------------------------------------------------------------------


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


def test_empty_slots_stay_empty(index: Index) -> None:
    documents = index._file.array("1-topk", "document")
    never = np.flatnonzero(index.fired("1-topk") == 0)
    assert (documents[never] == NO_DOCUMENT).all()
    assert all(index.contexts("1-topk", int(feature)) == [] for feature in never)
