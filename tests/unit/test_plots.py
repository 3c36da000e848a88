"""Plots in text: the right size, ends that are labelled, and marks where the numbers are."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import RunPython
from tui.plot import Points, bars, curve, histogram
from tui.text import cell_len

anything = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308, float("inf"), float("-inf"), float("nan")]),
    st.floats(-1e6, 1e6),
    st.floats(),
)
pairs = st.lists(st.tuples(anything, anything), max_size=8).map(lambda points: tuple(sorted(points)))


def where(lines: tuple[str, ...], mark: str) -> list[tuple[int, int]]:
    """Column and row of every mark, rows from the top."""
    return [(x, y) for y, line in enumerate(lines) for x, c in enumerate(line) if c == mark]


def test_bars_are_as_long_as_their_values() -> None:
    lines = bars(("plain", "steered", "random"), (0.0, 0.8, 0.4), 60)
    assert len(lines) == 4
    assert [line.split("█")[0].split() for line in lines] == [
        ["plain", "0"], ["steered", ".800"], ["random", ".400"], ["0", ".800"],
    ]  # fmt: skip
    plain, steered, random = (line.count("█") for line in lines[:3])
    assert plain == 0
    assert steered == 60 - len("steered .800 ")
    assert abs(random - steered / 2) <= 1


def test_one_bar_and_no_height_at_all() -> None:
    assert bars(("only",), (0.3,), 40)[0].count("█") == 40 - len("only .300 ")
    assert "█" not in "".join(bars(("a", "b"), (0.0, 0.0), 40))


def test_a_curve_rises_where_the_values_do() -> None:
    lines = curve(((-40.0, 0.1), (0.0, 0.5), (40.0, 0.9)), (), 60, 9)
    marks = sorted(where(lines, "●"))
    assert len(marks) == 3
    assert [y for _, y in marks] == sorted((y for _, y in marks), reverse=True)
    assert marks[2] == (59, 0)
    assert lines[0].startswith(".900")
    assert lines[-1].split() == ["−40.0", "0", "+40.0"]
    assert any("⠀" < c <= "⣿" for line in lines for c in line), "the points are joined"


def test_others_are_marked_apart() -> None:
    lines = curve(((0.0, 1.0), (10.0, 2.0)), ((0.0, 0.0), (10.0, 0.0)), 60, 9)
    assert len(where(lines, "●")) == 2
    assert [y for _, y in where(lines, "·")] == [7, 7], "zero is the lowest line above the axis"


def test_a_logarithmic_scale_spaces_powers_evenly() -> None:
    rows = [y for _, y in sorted(where(curve(((0.0, 1.0), (1.0, 100.0), (2.0, 10000.0)), (), 60, 10, True), "●"))]
    assert rows[0] - rows[1] == rows[1] - rows[2] == 4
    assert curve(((0.0, 0.0), (1.0, -5.0)), (), 60, 9, True) == ()


def test_a_single_point_is_drawn_at_its_strength() -> None:
    lines = curve(((12.5, 8.0),), (), 60, 9)
    assert len(where(lines, "●")) == 1
    assert lines[-1].split() == ["+12.5"]


@settings(max_examples=80, deadline=None)
@given(pairs, pairs, st.integers(40, 120), st.integers(7, 14), st.booleans())
def test_no_numbers_break_a_curve(points: Points, others: Points, width: int, height: int, log: bool) -> None:
    lines = curve(points, others, width, height, log)
    assert len(lines) in (0, height)
    assert all(cell_len(line) <= width for line in lines)
    assert not any(unicodedata.category(c) == "Cc" for line in lines for c in line)


@settings(max_examples=80, deadline=None)
@given(st.lists(anything, min_size=1, max_size=12), st.integers(40, 120))
def test_no_numbers_break_bars(values: list[float], width: int) -> None:
    shown = [value for value in values if abs(value) < 1e9] or [1.0]
    lines = bars(tuple(f"arm {n}" for n in range(len(shown))), tuple(shown), width)
    assert len(lines) == len(shown) + 1
    assert all(cell_len(line) <= width for line in lines)
    assert [f"arm {n}" in line for n, line in enumerate(lines[:-1])] == [True] * len(shown)


def test_one_plot_leaves_nothing_to_the_next() -> None:
    first = histogram.__wrapped__((5, 3, 1), 10.0, 50, 7)
    curve.__wrapped__(((0.0, 1.0), (5.0, 1e5)), ((1.0, 3.0),), 70, 12, True)
    bars.__wrapped__(("a", "b"), (1.0, 2.0), 44)
    assert histogram.__wrapped__((5, 3, 1), 10.0, 50, 7) == first


def test_plotext_waits_for_the_first_plot(run_python: RunPython) -> None:
    done = run_python("import sys, tui.screens.evidence, tui.screens.presets; print('plotext' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
