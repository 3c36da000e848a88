"""Feature cards: what is written is read, and what is written is what the text says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cards import (
    AFTER,
    BEFORE,
    BINS,
    CARDS,
    CONTEXTS,
    CORPUS,
    PROMOTED,
    WINDOW,
    Columns,
    has_cards,
    peak_tokens,
    quantise,
    read_card,
    write_cards,
    write_corpus,
)
from engine.errors import BadRequest, DictionaryMissing
from engine.formats.saelens import read_dictionary
from engine.headless import Headless
from engine.job import Job
from engine.loading import open_model
from engine.protocol import CardRead, FeatureRef, HintsRead, ListHints, Open, ShowCard
from engine.training.corpus import cap_sources, cut_contexts, read_documents
from engine.training.feature_cards import make_cards
from tests import tiny

TEXTS = [
    f"{n} in the end of the {word} of a thing and the other of the in a the" * 3
    for n, word in enumerate("abcdefghijklmn")
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"source": f"s{n % 2}", "text": t}) + "\n" for n, t in enumerate(TEXTS)))
    return file


@pytest.fixture
def made(tmp_path: Path, llama_folder: Path, corpus: Path) -> Path:
    folder = tiny.save_dictionary(tmp_path / "set" / "1-res-tiny", "topk")
    model = open_model(llama_folder, "cpu")
    contexts = cut_contexts(read_documents([corpus]), model.tokenizer, 48)
    make_cards(model, [read_dictionary(folder)], contexts, folder.parent, Job(), rows=3)
    return folder


def test_columns_survive_the_disk(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count = 150
    columns = Columns(
        density=random.random(count, dtype=np.float32),
        maximum=random.random(count, dtype=np.float32) * 50,
        histogram=random.integers(0, 1 << 20, (count, BINS)).astype(np.uint32),
        peaks=random.integers(0, 5000, (count, CONTEXTS)).astype(np.uint32),
        strength=random.integers(0, 256, (count, CONTEXTS)).astype(np.uint8),
        window=random.integers(0, 32, (count, CONTEXTS, WINDOW)).astype(np.uint8),
        promoted=random.integers(0, 49152, (count, 2 * PROMOTED)).astype(np.uint32),
        effect=random.standard_normal((count, 2 * PROMOTED)).astype(np.float16),
    )
    ids = random.integers(0, 49152, 5000).astype(np.uint32)
    starts = [(start, f"source{start % 3}") for start in range(0, 5000, 128)]
    peaks = np.tile(np.array([5, 6, Columns.NO_CONTEXT], np.uint32), (count, 1))
    write_corpus(tmp_path, ids, starts)
    write_cards(tmp_path, columns, peaks, 4900)
    for index in (0, 63, 64, 149):
        card = read_card(tmp_path, index)
        assert card.density == pytest.approx(float(columns.density[index]))
        assert card.histogram == tuple(columns.histogram[index].tolist())
        assert [i for i, _ in card.promotes + card.suppresses] == columns.promoted[index].tolist()
        assert card.corpus_tokens == 4900
        for slot, context in enumerate(card.contexts):
            peak = int(columns.peaks[index, slot])
            start = peak // 128 * 128
            first, last = max(start, peak - BEFORE), min(start + 128, peak + AFTER + 1, 5000)
            assert list(context.ids) == ids[first:last].tolist()
            assert context.peak == peak - first
            assert context.origin == f"source{start % 3}"
            assert context.values[context.peak] == pytest.approx(
                float(columns.maximum[index] * columns.strength[index, slot] / 255), rel=1e-5
            )
    assert peak_tokens(tmp_path, 3) == [5, 6]
    assert not list(tmp_path.glob("*.partial"))


def test_cards_say_what_the_text_says(made: Path, llama_folder: Path, corpus: Path) -> None:
    """Against a direct computation: all activations of all contexts, one feature at a time."""
    model = open_model(llama_folder, "cpu")
    dictionary = read_dictionary(made)
    contexts = cut_contexts(read_documents([corpus]), model.tokenizer, 48)
    rows, ids, documents = [], [], []
    for context in contexts:
        x = model.capture(torch.tensor(context.ids[None].tolist()), [dictionary.site])[dictionary.site][0]
        activations = dictionary.encode(x)
        activations[0] = 0
        rows.append(activations)
        ids += context.ids.tolist()
        documents += [context.document] * len(context.ids)
    dense = torch.cat(rows)
    counted = len(dense) - len(contexts)
    effects = dictionary.decoder @ model.unembedding.T
    checked = 0
    for index in range(tiny.D_SAE):
        card, column = read_card(made, index), dense[:, index]
        assert card.density == pytest.approx(float((column > 0).sum() / counted))
        assert card.maximum == pytest.approx(float(column.max()), rel=1e-4)
        assert sum(card.histogram) == int((column > 0).sum())
        best: dict[int, float] = {}
        for document, value in zip(documents, column.tolist(), strict=True):
            best[document] = max(best.get(document, 0.0), value)
        expected = sorted((v for v in best.values() if v > 0), reverse=True)[:CONTEXTS]
        peaks = [c.values[c.peak] for c in card.contexts]
        assert peaks == pytest.approx(expected, abs=card.maximum / 250)
        checked += len(peaks)
        top = effects[index].topk(PROMOTED)
        assert [i for i, _ in card.promotes] == top.indices.tolist()
        assert [v for _, v in card.promotes] == pytest.approx(top.values.tolist(), rel=2e-3)
        assert [v for _, v in card.suppresses] == pytest.approx(
            effects[index].topk(PROMOTED, largest=False).values.tolist(), rel=2e-3
        )
    assert checked > 100


def test_the_engine_puts_cards_into_words(made: Path, llama_folder: Path) -> None:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=str(llama_folder), dictionaries=(str(made),)))
    index = max(range(tiny.D_SAE), key=lambda i: read_card(made, i).density)
    feature = FeatureRef("1-res-tiny", index)
    card = next(e.card for e in headless.ask(ShowCard(id=2, feature=feature)) if isinstance(e, CardRead))
    assert len(card.contexts) == CONTEXTS
    assert {c.origin for c in card.contexts} == {"s0", "s1"}
    text = "".join(t.text for t in card.contexts[0].tokens)
    assert any(text.strip() in t for t in TEXTS)
    hints = next(e.hints for e in headless.ask(ListHints(id=3, features=(feature,))) if isinstance(e, HintsRead))
    assert hints[str(feature)]


def test_without_cards_the_weights_still_speak(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> None:
    headless = Headless(lambda *_: None)
    headless.ask(Open(id=1, model=str(llama_folder), dictionaries=(str(dictionary_folders[0]),)))
    assert not has_cards(dictionary_folders[0])
    card = next(
        e.card for e in headless.ask(ShowCard(id=2, feature=FeatureRef("1-res-tiny", 5))) if isinstance(e, CardRead)
    )
    assert (card.density, card.contexts) == (None, ())
    assert len(card.promotes) == 10


def test_a_damaged_file_is_named(made: Path) -> None:
    (made / CARDS).write_bytes(b"not a database")
    with pytest.raises(DictionaryMissing, match=r"cards\.db"):
        read_card(made, 0)
    assert peak_tokens(made, 0) == []


def test_contexts_are_optional(made: Path) -> None:
    (made.parent / CORPUS).unlink()
    assert read_card(made, 0).contexts == ()


def test_what_fires_is_never_quantised_to_nothing() -> None:
    shares = np.array([0, 1e-6, 0.5, 1.0], np.float32)
    levels = quantise(shares)
    assert levels[0] == 0
    assert (levels[1:] > 0).all()
    assert levels[-1] == 31


# --- the text they come from --------------------------------------------------------------------------------------


def test_documents_of_every_form(tmp_path: Path) -> None:
    import gzip
    import lzma

    line = json.dumps({"source": "a", "text": "one"}) + "\n"
    (tmp_path / "plain.txt").write_text("two")
    (tmp_path / "x.jsonl").write_text(line)
    (tmp_path / "y.jsonl.xz").write_bytes(lzma.compress(line.encode()))
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"three"))
    found = [(d.source, d.text) for d in read_documents(sorted(tmp_path.iterdir()))]
    assert found == [("plain", "two"), ("a", "one"), ("a", "one"), ("z", "three")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.jsonl", b'{"text": "x"}\n{"no": 1}\n', "line 2"),
        ("bad.jsonl", b"not json\n", "line 1"),
        ("bad.txt", b"\xff\xfe\x00", "UTF-8"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=words):
        list(read_documents([tmp_path / name]))


def test_caps_bound_sources(llama_folder: Path, corpus: Path) -> None:
    tokenizer = open_model(llama_folder, "cpu").tokenizer
    contexts = cut_contexts(read_documents([corpus]), tokenizer, 20, seed=1)
    capped = cap_sources(contexts, {"s0": 100, "*": 60}, None)
    taken = {s: sum(len(c.ids) for c in capped if c.source == s) for s in ("s0", "s1")}
    assert 100 <= taken["s0"] < 120
    assert 60 <= taken["s1"] < 80
    assert sum(len(c.ids) for c in cap_sources(contexts, {}, 50)) < 80
