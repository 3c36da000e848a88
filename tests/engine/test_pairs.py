"""Files of prompts: every form that is about, and what is wrong with a broken one.

`SAESCOPE_SAMPLES` names a folder with the published data sets; without it their tests are skipped.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.pairs import SEED, pair_of, read_pairs
from engine.protocol import Pair
from engine.tokenizer import byte_level_alphabet
from tests.nasty import NASTY

SAMPLES = Path(os.environ.get("SAESCOPE_SAMPLES") or "missing")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="SAESCOPE_SAMPLES names no folder")
GLYPH = {byte: glyph for glyph, byte in byte_level_alphabet().items()}
PUBLISHED = {
    "clean_prefix": "The girls",
    "patch_prefix": "The girl",
    "clean_answer": " have",
    "patch_answer": " has",
    "case": "plural",
}
OURS = {"clean": "a", "patch": "b", "answer": " x", "patch_answer": " y", "case": "c"}


def written(folder: Path, *rows: Any) -> Path:
    """A JSON-lines file; strings are written as they are."""
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def document(folder: Path, value: Any, **how: Any) -> Path:
    file = folder / "pairs.json"
    file.write_text(json.dumps(value, **how), encoding="utf-8")
    return file


def glyphs(text: str) -> list[str]:
    """Every byte of a text as a token of its own."""
    return [GLYPH[byte] for byte in text.encode()]


@needs_samples
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("simple_train.json", 480),
        ("simple_test.json", 120),
        ("nounpp_train.json", 1920),
        ("nounpp_test.json", 480),
        ("within_rc_test.json", 2400),
        ("within_rc_train.head200.json", 200),
        ("rc_train.100examples_from_pt.jsonl", 100),
    ],
)
def test_published_data_sets(name: str, count: int) -> None:
    pairs = read_pairs(SAMPLES / "datasets" / name)
    assert len(pairs) == count
    assert all(p.patch and p.patch_answer and p.answer.startswith(" ") and p.case for p in pairs)


@needs_samples
def test_published_contexts() -> None:
    pairs = read_pairs(SAMPLES / "clusters" / "code_and_math_contexts.json")
    assert len(pairs) == 66
    assert pairs[0].answer == ")"
    assert pairs[0].clean.startswith("*j(f) - 8*t(f). What is p(-3)?\n3\nLet y(x) = x")
    assert {p.answer for p in pairs} >= {"\n", " when", " 0"}
    assert not any(glyph in p.clean for p in pairs for glyph in "ĠĊĉč")
    assert any("        " in p.clean for p in pairs), "added tokens are plain text among byte-level ones"
    assert all(p.patch is None and p.patch_answer is None for p in pairs)


def test_both_vocabularies(tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, PUBLISHED, OURS)) == (
        Pair(clean="The girls", answer=" have", patch="The girl", patch_answer=" has", case="plural"),
        Pair(clean="a", answer=" x", patch="b", patch_answer=" y", case="c"),
    )


@pytest.mark.parametrize("key", ["context", "prompt", "clean", "clean_prefix"])
def test_single_contexts(tmp_path: Path, key: str) -> None:
    assert read_pairs(written(tmp_path, {key: "Ġ is a letter", "answer": " b"})) == (Pair("Ġ is a letter", " b"),)


def test_what_is_null_is_not_there(tmp_path: Path) -> None:
    row = {"clean": "a", "answer": "b", "patch": None, "patch_answer": None, "case": None}
    assert read_pairs(written(tmp_path, row)) == (Pair("a", "b"),)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_is_read_as_lines_are(tmp_path: Path, indent: int | None) -> None:
    assert read_pairs(document(tmp_path, [OURS, OURS], indent=indent)) == read_pairs(written(tmp_path, OURS, OURS))


def test_one_row_over_several_lines(tmp_path: Path) -> None:
    assert read_pairs(document(tmp_path, OURS, indent=1)) == read_pairs(written(tmp_path, OURS))


@pytest.mark.parametrize("indent", [None, 1])
def test_contexts_of_tokens(tmp_path: Path, indent: int | None) -> None:
    rows = {
        "7": {"context": ["The", "Ġcat", "Ċ", "   ", "ĠÃ©"], "answer": "Ġsat", "loss": 1.5},
        "8": {"context": [" plain", " tokens Ġ"], "answer": " x", "case": "own"},
    }
    assert read_pairs(document(tmp_path, rows, indent=indent)) == (
        Pair("The cat\n    é", " sat", case="7"),
        Pair(" plain tokens Ġ", " x", case="own"),
    )


def test_a_bare_list_of_tokens_is_answered_by_its_key(tmp_path: Path) -> None:
    assert read_pairs(document(tmp_path, {" when": ["Ġ5", ".", "ĠCalc"], "é": ["x"]})) == (
        Pair(" 5. Calc", " when"),
        Pair("x", "é"),
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_bytes_of_any_text_become_the_text(text: str) -> None:
    row = {"context": [*glyphs("x "), *glyphs(text)], "answer": "".join(glyphs(text))}
    assert pair_of(row, "row 1") == Pair("x " + text, text)


@given(st.binary(min_size=1, max_size=20))
def test_bytes_that_are_no_text_are_refused_or_read_as_written(data: bytes) -> None:
    """Accents of a plain text look like bytes; glyphs such as Ġ do not, and then bytes must be UTF-8."""
    tokens = [GLYPH[byte] for byte in data]
    try:
        expected = data.decode()
    except UnicodeDecodeError:
        if all(ord(token) < 0x100 for token in tokens):
            assert pair_of({"context": tokens, "answer": "x"}, "row 1").clean == "".join(tokens)
        else:
            with pytest.raises(BadRequest, match=r"row 9.*not UTF-8"):
                pair_of({"context": tokens, "answer": "x"}, "row 9")
    else:
        assert pair_of({"context": tokens, "answer": "x"}, "row 1").clean == expected


@pytest.mark.parametrize("text", [text for text in NASTY if text])
def test_nasty_text_is_kept(tmp_path: Path, text: str) -> None:
    assert read_pairs(written(tmp_path, {"clean": text, "answer": text})) == (Pair(text, text),)


def test_order_limit_and_shuffle(tmp_path: Path) -> None:
    rows = [{"clean": str(n), "answer": "x"} for n in range(40)]
    file = written(tmp_path, *rows)
    assert [p.clean for p in read_pairs(file, limit=3)] == ["0", "1", "2"]
    expected = [str(n) for n in range(40)]
    random.Random(12).shuffle(expected)
    assert [p.clean for p in read_pairs(file, seed=SEED)] == expected
    assert [p.clean for p in read_pairs(file, limit=5, seed=12)] == expected[:5]
    assert len(read_pairs(file, limit=100)) == 40
    with pytest.raises(BadRequest, match="0 is not a number of examples"):
        read_pairs(file, limit=0)


def test_blank_lines_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    file = tmp_path / "crlf.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(OURS).encode() + b"\r\n\r\n" + json.dumps(OURS).encode() + b"\r\n")
    assert len(read_pairs(file)) == 2


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, '{"clean": "a\u2028b", "answer": "x"}', OURS | {"patch": None}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((OURS, '{"clean": "a"'), "line 2 is not JSON"),
        (('{"clean": "a"', OURS), "line 1 is not JSON"),
        ((OURS, "", "nonsense"), "line 3 is not JSON"),
        ((OURS, "[1]"), "line 2 is no object but list"),
        ((OURS, "5"), "line 2 is no object but int"),
        (("5",), "neither rows nor an object"),
        (("{",), "line 1 is not JSON"),
        (("[",), "line 1 is not JSON"),
        (("[\n1,\n}",), "line 3 is not JSON"),
        (("[5]",), "row 1 is no object"),
        (("[" * 100_000,), "nested too deep"),
        (({"clean": "a"},), "line 1 has no 'answer'"),
        (({"clean": "", "answer": "x"},), "an empty 'clean'"),
        (({"context": [], "answer": "x"},), "an empty 'clean'"),
        (({"clean": "a", "answer": "x", "patch": ""},), "an empty 'patch'"),
        (({"clean": "a", "answer": 5},), "'answer' is no text but int"),
        (({"context": ["a", 5], "answer": "x"},), "'context' is no text but list"),
        (({"clean": "a", "clean_prefix": "b", "answer": "x"},), "'clean' twice"),
        (({"clean": "a", "answer": "x", "pach": "b"},), "unknown key 'pach'"),
        (({"clean": "a", "answer": "x", "\x1b[31m": "b"},), "␛"),
        (({"clean": "a\ud800", "answer": "x"},), "half of a surrogate pair"),
        (({"9": {"context": ["Ġ", "é"], "answer": "x"}},), r"row '9'.*not UTF-8"),
        (({"9": {"context": ["x"]}},), "row '9' has no 'answer'"),
        (({"9": 5},), "row '9' is no object but int"),
        ((OURS, {"clean": "a", "answer": "x"}), r"with a patch prompt \(1\) and without \(1\)"),
        (("",), "holds no examples"),
        (("[]",), "holds no examples"),
        (("{}",), "holds no examples"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, rows: tuple[Any, ...], message: str) -> None:
    file = written(tmp_path, *rows)
    with pytest.raises(BadRequest, match=message) as caught:
        read_pairs(file)
    assert str(file) in caught.value.message
    assert caught.value.remedy
    assert "\x1b" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BadRequest, match="not UTF-8"):
        read_pairs(binary)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(BadRequest, match="cannot be read"):
            read_pairs(missing)
