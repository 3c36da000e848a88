"""Ticks are round numbers, few, in order, and where their words say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.study_picture_scale import Scale, nice_step, number, scale_over


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.integers(1, 12))
def test_ticks_are_round_few_and_apart(a: float, b: float, most: int) -> None:
    scale = scale_over([a, b]).between(0.0, 1000.0)
    ticks = scale.ticks(most)
    assert len(ticks) <= most
    assert [place for place, _ in ticks] == sorted({place for place, _ in ticks})
    assert len({text for _, text in ticks}) == len(ticks)
    for place, text in ticks:
        assert abs(scale.at(read(text)) - place) < 0.5


def test_ticks() -> None:
    assert [text for _, text in Scale(0, 1).ticks(5)] == ["0", "0.5", "1.0"]
    assert [text for _, text in Scale(0, 1).ticks(6)] == ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in Scale(-2500, 9000).ticks(6)] == ["−2,000", "0", "2,000", "4,000", "6,000", "8,000"]
    assert [text for _, text in Scale(0, 3, kind="log").ticks(9)] == ["1", "10", "100", "1,000"]
    assert [text for _, text in Scale(0.1, 0.9, kind="log").ticks(9)] == ["2", "5"]
    assert [text for _, text in Scale(math.log10(2.1), math.log10(2.9), kind="log").ticks(4)] == [
        "2.2",
        "2.4",
        "2.6",
        "2.8",
    ]
    assert [nice_step(x) for x in (1, 1.2, 2.5, 7, 0.011)] == pytest.approx([1, 2, 5, 10, 0.02])
    shown = [number(v) for v in (0, -0.0, 0.12345, -12345, 1e-9, 2.5e12, math.inf, math.nan, 999_999)]
    assert shown == ["0", "0", "0.123", "−12,300", "1e-09", "2.5e+12", "∞", "NaN", "1,000,000"]
