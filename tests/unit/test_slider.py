"""The slider: its cells and what they stand for are each other's inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from tui.widgets.slider import place_of, share_at, slider

WIDTHS = st.integers(1, 60).map(lambda n: 2 * n + 1)


def drawn(share: float, width: int) -> str:
    return "".join(segment.text for segment in slider(share, width, lambda _: Style()))


@given(WIDTHS, st.data())
def test_a_cell_stands_for_a_share_that_lies_on_it(width: int, data: st.DataObject) -> None:
    cell = data.draw(st.integers(0, width - 1))
    assert place_of(share_at(cell, width), width) == cell


@given(WIDTHS, st.floats(-1, 1))
def test_a_share_moves_by_less_than_half_a_cell(width: int, share: float) -> None:
    assert abs(share_at(place_of(share, width), width) - share) <= 0.5 / (width // 2) + 1e-9


@given(WIDTHS, st.integers(-500, 500), st.integers(-500, 500))
def test_further_right_is_never_less(width: int, a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert -1 <= share_at(low, width) <= share_at(high, width) <= 1


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "─────●─────"),
        (0.6, "─────┼━━●──"),
        (-0.6, "──●━━┼─────"),
        (1.0, "─────┼━━━━●"),
        (1.5, "─────┼━━━━▶"),
        (-9.0, "◀━━━━┼─────"),
    ],
)
def test_the_slider_shows_sign_and_size(share: float, shown: str) -> None:
    assert drawn(share, 11) == shown


@given(st.integers(0, 60), st.floats(-10, 10))
def test_a_slider_has_the_width_it_was_given(width: int, share: float) -> None:
    assert len(drawn(share, width)) == width
