"""The line of settings: what it means, and what it says to a line that means nothing."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import BadRequest
from tests.nasty import NASTY
from tui.panes.steering_settings import parse_settings, shown_settings
from tui.steering_state import Sampling

TEXTS = st.lists(st.text(min_size=1, max_size=12), max_size=3).map(tuple)
SAMPLINGS = st.builds(
    Sampling,
    tokens=st.integers(1, 2048),
    temperature=st.integers(0, 1000).map(lambda n: n / 100),
    top_p=st.integers(1, 100).map(lambda n: n / 100),
    top_k=st.integers(0, 100),
    repetition_penalty=st.integers(1, 500).map(lambda n: n / 100),
    seed=st.integers(0, 2**31 - 1),
    stop=TEXTS,
    watch=TEXTS,
    keep_error=st.booleans(),
)


def test_a_line_means_what_it_says() -> None:
    line = 'tokens 60  T .9  top-p .95  top-k 50  penalty 1.2  seed 3  error dropped  stop "###" "\\n"  watch " she" he'
    sampling, patch = parse_settings(line + '  patch "The key"')
    assert sampling == Sampling(60, 0.9, 0.95, 50, 1.2, 3, ("###", "\n"), (" she", "he"), keep_error=False)
    assert patch == "The key"


def test_what_is_left_out_is_as_usual() -> None:
    assert parse_settings("") == (Sampling(), None)
    assert parse_settings("TOKENS 3") == (Sampling(tokens=3), None)
    assert parse_settings("temperature 0")[0].temperature == 0


def test_a_quoted_name_is_a_text() -> None:
    assert parse_settings('watch "tokens" "T"')[0].watch == ("tokens", "T")


@given(SAMPLINGS, st.none() | st.text(max_size=20))
def test_what_is_shown_means_the_same(sampling: Sampling, patch: str | None) -> None:
    assert parse_settings(shown_settings(sampling, patch)) == (sampling, patch)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tokens", "tokens has no value"),
        ("tokens 0", "tokens is a whole number from 1"),
        ("tokens 1e3", "not '1e3'"),
        ("T warm", "T is a number of at least 0"),
        ("T nan", "T is a number of at least 0"),
        ("top-p 0", "over 0 and at most 1"),
        ("top-p 1.5", "over 0 and at most 1"),
        ("penalty 0", "a number over 0"),
        ("error lost", "kept or dropped"),
        ('stop ""', "empty text"),
        ('stop "abc', "not closed"),
        ('stop "a\\q"', "backslash"),
        ("heat 3", "'heat' is no setting"),
        ('"tokens" 3', "is no setting"),
        ("tokens 3 4", "'4' is no setting"),
    ],
)
def test_what_is_wrong_is_said(line: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_settings(line)
    assert said in caught.value.message
    assert caught.value.remedy


@given(
    st.text() | st.lists(st.sampled_from(["tokens", "T", "stop", "watch", '"', "3", "-1", "\\", "patch"])).map(" ".join)
)
def test_no_line_does_anything_else(line: str) -> None:
    with contextlib.suppress(BadRequest):
        parse_settings(line)


def test_texts_from_anywhere_come_through() -> None:
    texts = tuple(text for text in NASTY if text)
    assert parse_settings(shown_settings(Sampling(watch=texts), None))[0].watch == texts


def test_what_is_left_out_stays_and_lists_can_be_emptied() -> None:
    present = Sampling(tokens=7, seed=2, stop=(".",), watch=(" she",))
    assert parse_settings("T 0", present)[0] == msgspec.structs.replace(present, temperature=0.0)
    assert parse_settings("stop watch", present)[0] == Sampling(tokens=7, seed=2)
