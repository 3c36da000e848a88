"""Log-likelihood proxies against their definition, worked out by trying every beginning of the string."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.studies.categories import sentences
from engine.studies.proxies import Members, characters, kind_of

FLOOR = math.log(1e-10)


def pieces(text: str, size: int = 2) -> list[bytes]:
    data = text.encode()
    return [data[n : n + size] for n in range(0, len(data), size)]


def test_an_alphabet_gives_the_best_over_all_beginnings() -> None:
    contexts = [pieces("GATTACA is DNA"), pieces("the cat sat, GATTA"), pieces("ACGTACGT")]
    every = [piece for context in contexts for piece in context]
    kind = kind_of("dna")
    kind.learn(contexts)

    def log_ratio(part: list[bytes]) -> float:
        own = sum(math.log(1 / 4) if c in "ACGT" else FLOOR for c in b"".join(part).decode())
        return own - sum(math.log(every.count(piece) / len(every)) for piece in part)

    for context in contexts:
        expected = [max(log_ratio(context[j : t + 1]) for j in range(t + 1)) for t in range(len(context))]
        assert kind.proxy(context) == pytest.approx(expected)


def test_special_tokens_are_no_text() -> None:
    plain, with_bos = kind_of("dna"), kind_of("dna")
    contexts = [pieces("xx GATTACA"), pieces("ACGTACGT")]
    plain.learn(contexts)
    with_bos.learn([[b"", *context] for context in contexts])
    for context in contexts:
        assert with_bos.proxy([b"", *context])[1:] == pytest.approx(plain.proxy(context))
    script = kind_of("arabic")
    assert isinstance(script, Members)
    script.learn([[b"", "و".encode()], [b"", b"x"]])
    assert script.share == 0.5


def test_a_script_follows_from_bayes() -> None:
    contexts = [[b"the", " كتاب".encode(), b" of", " و".encode()], [b"x", b"y", b"z", b" "]]
    kind = kind_of("arabic")
    kind.learn(contexts)
    prior = math.log(2 / 8)
    assert kind.proxy(contexts[0]) == pytest.approx([FLOOR - prior, -prior, FLOOR - prior, -prior])
    assert kind.group(kind.proxy(contexts[0])).tolist() == [0, 1, 0, 1]
    assert kind.group(kind.proxy(contexts[1])).tolist() == [0, 0, 0, 0]


def test_a_character_over_several_tokens_belongs_to_all_of_them() -> None:
    first, second = "ש".encode()[:1], "ש".encode()[1:]
    kind = kind_of("hebrew")
    contexts = [[b"a", first, second, b"\xff", b"b"]]
    kind.learn(contexts)
    assert kind.group(kind.proxy(contexts[0])).tolist() == [0, 1, 1, 0, 0]


def test_words_are_whole_and_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("gold\nNew York\n\ngold\n")
    kind = kind_of(f"words:{file}")
    context = [b"Gold", b" in", b" new", b" york", b" golden"]
    kind.learn([context])
    assert kind.group(kind.proxy(context)).tolist() == [1, 0, 1, 1, 0]


def test_a_pattern() -> None:
    kind = kind_of(r"regex:\d+")
    context = [b"in", b" 19", b"84", b"a"]
    kind.learn([context])
    assert kind.group(kind.proxy(context)).tolist() == [0, 1, 1, 0]


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_tokens_of_any_bytes_cover_their_characters(given_pieces: list[bytes]) -> None:
    text, starts, ends = characters(given_pieces)
    assert text.encode("utf-8", "surrogateescape") == b"".join(given_pieces)
    for piece, start, end in zip(given_pieces, starts, ends, strict=True):
        assert 0 <= start <= end <= len(text)
        assert piece in text[start:end].encode("utf-8", "surrogateescape")
        assert (start == end) == (piece == b"")
    kind = kind_of("han")
    kind.learn([given_pieces])
    assert len(kind.proxy(given_pieces)) == len(given_pieces)
    assert np.isfinite(kind.proxy(given_pieces)).all()


@pytest.mark.parametrize(
    "name", ["", "klingon", "regex:", "regex:(", "words:", "words:/nowhere", "arabic:x", "words:."]
)
def test_what_is_no_kind_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        kind_of(name)


def test_built_in_sentences_are_of_their_scripts() -> None:
    found = sentences(())
    assert len(found) >= 12
    for category, script in [("Arabic", "arabic"), ("Hebrew", "hebrew"), ("Russian", "cyrillic"), ("Greek", "greek"),
                             ("Chinese", "han"), ("Korean", "hangul"), ("Hindi", "devanagari")]:  # fmt: skip
        kind = kind_of(script)
        words = [[character.encode() for character in sentence] for sentence in found[category]]
        kind.learn(words)
        share = np.concatenate([kind.group(kind.proxy(context)) for context in words]).mean()
        assert share > 0.5, category
    assert "\n" in found["Python"][0]


def test_categories_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "poems.txt"
    file.write_text("one line\n\nanother\n")
    assert sentences((str(file),)) == {"poems": ("one line", "another")}
    assert list(sentences((f"verse={file}", str(file)))) == ["verse", "poems"]
    with pytest.raises(BadRequest, match="Two categories"):
        sentences((str(file), str(file)))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(BadRequest, match="is empty"):
        sentences((str(tmp_path / "empty.txt"),))
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(BadRequest, match="not UTF-8"):
        sentences((str(tmp_path / "latin.txt"),))
