"""Numbers and texts on the screen: three digits, one sign, and never a cell too many."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import visible
from tests.nasty import NASTY
from tui.text import cell_len, fit, number, percent, signed, token_glyphs

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
shown_texts = st.one_of(st.text(st.sampled_from("a漢ﾊé😀🇫🇷\u0301…·👩"), max_size=30), st.text(max_size=30)).map(visible)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-0.0, "0"),
        (31.4159, "31.4"),
        (3.14159, "3.14"),
        (0.314159, ".314"),
        (0.05, ".050"),
        (0.001, ".001"),
        (0.0004, "4e-04"),
        (314.159, "314"),
        (4870.4, "4,870"),
        (1234567, "1,234,567"),
        (-31.4159, "−31.4"),
        (-0.314159, "−.314"),
        (-4870, "−4,870"),
        (9.999, "10.0"),
        (99.96, "100"),
        (999.6, "1,000"),
        (0.9996, "1.00"),
        (-9.999, "−10.0"),
        (0.0009996, ".001"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@given(finite)
def test_a_number_has_three_digits_and_is_right(value: float) -> None:
    shown = number(value)
    read = float(shown.replace(",", "").replace("−", "-"))
    if 0 < abs(value) < 0.0009995:
        assert "e-" in shown
        assert read == pytest.approx(value, rel=0.5)
        return
    assert math.isclose(read, value, rel_tol=0.0051, abs_tol=0.00051)
    assert re.fullmatch(r"−?(\d{1,3}(,\d{3})*|\d*\.\d{1,3})", shown)
    if abs(value) < 999.5:
        assert len(re.sub(r"\D", "", shown)) <= 3


@given(st.floats(0.1, 999))
def test_a_number_rounds_to_three_significant_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(float(f"{value:.3g}"), rel=0.0011)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_said(value: float) -> None:
    assert number(value) == str(value).replace("-", "−")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (2.5, "+2.50"), (-2.5, "−2.50"), (0.25, "+.250"), (-0.25, "−.250"), (-4870, "−4,870"), (44.1, "+44.1")],
)
def test_signs(value: float, shown: str) -> None:
    assert signed(value) == shown


@given(finite.filter(lambda value: value != 0))
def test_opposite_values_differ_by_their_sign_alone(value: float) -> None:
    plus, minus = signed(abs(value)), signed(-abs(value))
    assert plus[0] == "+"
    assert minus[0] == "−"
    assert plus[1:] == minus[1:]


@pytest.mark.parametrize(("share", "shown"), [(0.314, "31.4 %"), (1, "100 %"), (0.0031, ".310 %"), (0, "0 %")])
def test_percentages(share: float, shown: str) -> None:
    assert percent(share) == shown


@given(shown_texts, st.integers(-2, 40), st.booleans())
def test_a_fitted_text_has_exactly_its_width(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(text, width, right=right)) == max(0, width)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("width", range(8))
def test_nasty_texts_fit(text: str, width: int) -> None:
    shown = fit(visible(text), width)
    assert cell_len(shown) == width
    assert "\n" not in shown


@given(shown_texts, st.integers(1, 40))
def test_only_what_is_too_long_is_shortened(text: str, width: int) -> None:
    shown = fit(text, width)
    if cell_len(text) <= width:
        assert shown.startswith(text)
        assert shown[len(text) :].strip(" ") == ""
    else:
        assert shown.endswith("…")
        assert text.startswith(shown[:-1].rstrip(" "))


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 5, "abc  "),
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("漢字", 4, "漢字"),
        ("漢字漢", 5, "漢字…"),
        ("漢字漢", 4, "漢 …"),
        ("漢字", 1, "…"),
        ("abc", 0, ""),
        ("abc", -1, ""),
    ],
)
def test_fitting(text: str, width: int, shown: str) -> None:
    assert fit(text, width) == shown


def test_figures_stand_on_the_right() -> None:
    assert fit("31.4", 7, right=True) == "   31.4"
    assert fit("漢", 4, right=True) == "  漢"
    assert fit("123456789", 4, right=True) == "123…"


@pytest.mark.parametrize("text", NASTY)
def test_a_token_inside_text_is_never_empty(text: str) -> None:
    shown = token_glyphs(text)
    assert shown
    assert shown == (visible(text) or "∅")
    assert shown.isprintable()
