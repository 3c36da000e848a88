"""Nothing that reaches a terminal may act on it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import (
    bytes_glyph,
    has_lone_surrogate,
    quoted,
    terminal_safe_json,
    visible,
    visible_in_place,
    visible_token,
)
from tests.nasty import NASTY

_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
anything = st.text(st.characters(), max_size=40)


@given(anything)
def test_visible_text_holds_nothing_a_terminal_obeys(text: str) -> None:
    assert not {unicodedata.category(c) for c in visible(text)} & _ACTING


@given(anything)
def test_a_field_keeps_one_glyph_per_character(text: str) -> None:
    shown = visible_in_place(text)
    assert len(shown) == len(text)
    assert not {unicodedata.category(c) for c in shown} & _ACTING


@given(anything)
def test_visible_is_settled_after_one_pass(text: str) -> None:
    assert visible(visible(text)) == visible(text)


def test_a_quoted_text_is_the_text_cut_where_it_is_long() -> None:
    assert quoted("a \\x1b 'b'") == "“a \\x1b 'b'”"
    assert quoted("a\x1b[31m\n") == "“a␛[31m⏎”"
    assert quoted("x" * 60) == f"“{'x' * 60}”"
    assert quoted("x" * 61) == f"“{'x' * 59}…”"


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=40))
def test_plain_text_is_left_alone(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("text", NASTY)
def test_nasty_tokens_are_never_empty(text: str) -> None:
    assert visible_token(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Tower", "·Tower"),
        ("  x", "··x"),
        ("a b", "a b"),
        ("\n", "⏎"),
        ("\x1b[0m", "␛[0m"),
        ("\t", "⇥"),
        ("\x9b", "⟨9B⟩"),
        ("\u202e", "⟨202E⟩"),
        ("\ud800", "⟨D800⟩"),
        ("\u0301", "◌\u0301"),
        ("", "∅"),
    ],
)
def test_glyphs(text: str, shown: str) -> None:
    assert visible_token(text) == shown


def test_bytes_are_shown_in_hexadecimal() -> None:
    assert bytes_glyph(b"\xe2\x80") == "⟨E2 80⟩"


@given(st.text(max_size=60))
def test_printed_json_is_the_same_document_and_safe(text: str) -> None:
    encoded = json.dumps({"text": text}, ensure_ascii=False)
    safe = terminal_safe_json(encoded)
    assert json.loads(safe) == {"text": text}
    assert not any(unicodedata.category(c) in _ACTING for c in safe)


def test_lone_surrogates_are_told_apart() -> None:
    assert has_lone_surrogate("a\udcff")
    assert not has_lone_surrogate("aé漢👩")
