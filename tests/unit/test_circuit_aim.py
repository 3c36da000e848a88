"""What is typed to say what a trace explains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.circuit_aim import Aim, doubt, parse_aim, reading


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("", Aim()),
        ("   ", Aim()),
        (" Paris", Aim((" Paris",))),
        ("·Paris", Aim((" Paris",))),
        ("Paris", Aim(("Paris",))),
        (" Paris / Rome", Aim((" Paris",), (" Rome",))),
        ("·Paris,·Lyon/·Rome , ·Bonn", Aim((" Paris", " Lyon"), (" Rome", " Bonn"))),
        ("·Paris | The Colosseum is in the city of", Aim((" Paris",), (), "The Colosseum is in the city of")),
        ("| other", Aim((), (), "other")),
        ("·Paris |", Aim((" Paris",))),
        (r"·\/ , \, / \||a\|b / c", Aim((" /", " ,"), (" |",), "a|b / c")),
    ],
)
def test_what_is_typed_is_understood(text: str, aim: Aim) -> None:
    assert parse_aim(text) == aim


@given(st.text(max_size=40))
def test_anything_may_be_typed(text: str) -> None:
    aim = parse_aim(text)
    assert reading(aim).isprintable()
    assert all(aim.target)
    doubt(aim, "a prompt")


def test_a_word_without_its_space_is_doubted() -> None:
    assert "a word of its own is ·Rome" in doubt(parse_aim("·Paris/Rome"), "the city of")
    assert doubt(parse_aim("·Paris / ·Rome"), "the city of") == ""
    assert doubt(parse_aim("Paris"), "the city of ") == ""
    assert doubt(parse_aim("."), "the city of") == ""
