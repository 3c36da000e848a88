"""The corpus index against a plain loop over the text, and the stream of contexts it is made of."""

from __future__ import annotations

import itertools
import json
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
from engine.corpus.index import Index, open_index
from engine.corpus.tables import NO_DOCUMENT, bin_edges, bins_of
from engine.corpus.text import LeftOut, contexts_of, documents_of, first_ids
from engine.errors import BadRequest, Cancelled
from engine.job import Job
from engine.opening import OpenSet
from tests import tiny
from tests.engine.corpus_scene import KEEP, LENGTH, built, open_four, text_file


@pytest.fixture(scope="module")
def opened(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenSet:
    return open_four(llama_folder, tmp_path_factory.mktemp("set"))


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
            assert context.value == pytest.approx(value, rel=1e-4)
            assert context.position == position
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


def test_empty_slots_stay_empty(index: Index) -> None:
    documents = index._file.array("1-topk", "document")
    never = np.flatnonzero(index.fired("1-topk") == 0)
    assert (documents[never] == NO_DOCUMENT).all()
    assert all(index.contexts("1-topk", int(feature)) == [] for feature in never)


def test_a_reader_names_what_is_not_there(index: Index, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"not of 9-res.*1-topk"):
        index.fired("9-res")
    with pytest.raises(BadRequest, match="no feature 64"):
        index.contexts("1-topk", 64)
    with pytest.raises(BadRequest, match="no index"):
        open_index(tmp_path)


def test_bins_are_where_their_edges_are() -> None:
    edges = bin_edges()
    assert len(edges) == 257
    values = torch.tensor(np.random.default_rng(0).lognormal(0, 4, 5000).astype(np.float32)).clamp(2.0**-16, 65000)
    found = bins_of(values).numpy()
    assert (edges[found] <= values.numpy()).all()
    assert (values.numpy() < edges[found + 1]).all()
    assert bins_of(torch.tensor([1e-9, 1e9])).tolist() == [0, 255]


# --- the stream -------------------------------------------------------------------------------------------------------


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

    found: list[int] = []
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
    stream.close()
    for _ in range(100):
        if closed:
            break
        time.sleep(0.02)
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
