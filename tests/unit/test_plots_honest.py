"""Plots do not mislead: shares of stacks, rows under others, points without a group, tables that are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import AnyView, Bars, Curve, Heat, Histogram, Scatter
from tests.unit.plot_scene import PAINT, table
from tui.plots.drawing import picture
from tui.plots.histogram import split
from tui.plots.paint import MARKS
from tui.plots.picture import Picture


def lines_of(shown: Picture, width: int = 80, height: int = 40) -> list[str]:
    return [line.plain for line in shown.draw(width, height, PAINT)]


# --- stacks -------------------------------------------------------------------------------------------------------


def stack(log: bool, *counts: tuple[int, ...], height: int = 40) -> list[list[int]]:
    """How many cells each part of each bin has, in the middle of the bin."""
    names = "abc"[: len(counts[0])]
    columns = " ".join(["low:number high:number", *(f"{name}:count" for name in names)])
    rows = [(float(n), float(n + 1), *row) for n, row in enumerate(counts)]
    view = Histogram(title="H", table="t", low="low", high="high", counts=tuple(names), log=log)
    lines = lines_of(picture(view, table(columns, *rows)), 80, height)[1:-3]
    left = next(line.index("│") for line in lines if "│" in line) + 1
    places = [left + round((n + 0.5) * (80 - left) / len(rows)) for n in range(len(rows))]
    return [[sum(line[x : x + 1] == glyph for line in lines) for glyph in "█▓▒"[: len(names)]] for x in places]


def test_the_parts_of_a_logarithmic_stack_have_their_linear_shares() -> None:
    [[mine, theirs], [half, other]] = stack(True, (20_000, 980_000), (500, 500))
    assert (mine, theirs) == (1, 35), "2 % of 36 cells"
    assert half == other
    assert 2 * half == pytest.approx(36 * 3 / 6, abs=1), "the height is that of the logarithm of 1,000"


@pytest.mark.parametrize("log", [True, False])
def test_no_part_of_a_high_stack_vanishes(log: bool) -> None:
    assert stack(log, (1_000_000, 900), (900, 1_000_000)) == [[35, 1], [1, 35]]
    assert stack(log, (5, 10**6, 7)) == [[1, 34, 1]]


def test_low_stacks_keep_their_parts_only_where_the_scale_is_logarithmic() -> None:
    assert stack(True, (10**6, 0), (1, 1), height=20) == [[16, 0], [1, 1]], "1.3 cells for two"
    assert stack(False, (1000, 0), (1, 2)) == [[36, 0], [0, 1]], "three of a thousand are not two cells of 36"
    assert stack(True, (10**6, 0), (0, 0)) == [[36, 0], [0, 0]]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6), st.integers(0, 50))
def test_cells_are_split_by_shares(counts: list[int], room: int) -> None:
    sizes = split([float(count) for count in counts], room)
    total = sum(counts)
    assert sum(sizes) == (room if total else 0)
    assert all(size == 0 for size, count in zip(sizes, counts, strict=True) if count == 0)
    if room >= len(counts):
        assert all(size > 0 for size, count in zip(sizes, counts, strict=True) if count)
    if total and all(count * room >= total for count in counts):
        assert all(abs(size - count / total * room) < 1 for size, count in zip(sizes, counts, strict=True))


def test_a_stack_on_a_logarithmic_scale_says_how_it_is_split() -> None:
    data = table("low:number high:number a:count b:count", (0.0, 1.0, 5, 5))
    view = Histogram(title="H", table="t", low="low", high="high", counts=("a", "b"), log=True)
    assert "log counts, split by share" in lines_of(picture(view, data))[0]


# --- groups -------------------------------------------------------------------------------------------------------


def test_points_without_a_number_are_a_group_of_their_own() -> None:
    rows = [(float(n), float(n), float(n)) for n in range(12)] + [(20.0, 20.0, None), (21.0, 21.0, float("nan"))]
    view = Scatter(title="S", table="t", x="x", y="y", group="g")
    shown = picture(view, table("x:number y:number g:number", *rows))
    lines = lines_of(shown, 120)
    assert "· none" in f"{lines[0]} {lines[1]}"
    for place in (12, 13):
        shown.step(place - (shown.row or 0))
        assert lines_of(shown)[-1].endswith("· none")
    shown.step(-2)
    assert lines_of(shown)[-1].rstrip().split("  ")[-1].startswith(MARKS[5]), "the largest number is in the last range"


def test_few_ranges_and_none_have_the_marks_of_the_legend() -> None:
    values = [0.0] * 30 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, None]
    data = table("x:number y:number g:number", *((float(n), float(n % 5), g) for n, g in enumerate(values)))
    shown = picture(Scatter(title="S", table="t", x="x", y="y", group="g"), data)
    heads = "  ".join(lines_of(shown, 160)[:2])
    for row in range(len(values)):
        assert shown.row == row
        assert lines_of(shown, 160)[-1].split("  ")[2] in heads
        shown.step(1)


def test_no_number_at_all_is_said_too() -> None:
    data = table("x:number y:number g:number", *((float(n), 1.0, float("nan")) for n in range(9)))
    shown = picture(Scatter(title="S", table="t", x="x", y="y", group="g"), data)
    assert "none" in lines_of(shown)[-1]


# --- grids --------------------------------------------------------------------------------------------------------

GRID = Heat(title="H", table="t", row="r", column="c", value="v")


def test_cells_that_read_the_same_stay_apart() -> None:
    rows = ((0.12341, "a\x1b", 1.0), (0.12342, "a␛", 2.0), (0.12341, "a␛", 3.0), (0.12342, "a\x1b", 4.0))
    shown = picture(GRID, table("r:number c:text v:number", *rows))
    lines = lines_of(shown)
    assert [line.split() for line in lines[2:4]] == [["0.12341", "1.00", "3.00"], ["0.12342", "4.00", "2.00"]]
    assert "under" not in lines[0]


def test_values_under_others_are_counted() -> None:
    rows = (("a", "x", 1.0), ("a", "y", 2.0), ("a", "x", 3.0), ("a", "x", 4.0), (float("nan"), "x", 5.0))
    lines = lines_of(picture(GRID, table("r:text c:text v:number", *rows, (float("nan"), "y", 6.0))))
    assert "2 values under a later one" in lines[0]
    assert lines[2].split() == ["a", "4.00", "2.00"]
    assert lines[3].split() == ["NaN", "5.00", "6.00"]


# --- tables that are cut ------------------------------------------------------------------------------------------

CUT: list[AnyView] = [
    GRID,
    Curve(title="A title of some length, as studies have them", table="t", x="v", y=("v",), log_y=True),
    Histogram(title="A title of some length, as studies have them", table="t", low="v", high="v", counts=("v",)),
    Bars(title="B", table="t", label="r", values=("v",)),
]


@pytest.mark.parametrize("view", CUT, ids=lambda view: type(view).__name__)
def test_a_heading_says_that_its_table_is_cut(view: AnyView) -> None:
    rows = (("a", "x", 1.0), ("b", "x", 2.0))
    for width in (60, 120):
        assert (
            "2 of 16,000 rows"
            in lines_of(picture(view, table("r:text c:text v:number", *rows, total=16_000)), width)[0]
        )
        assert "rows" not in lines_of(picture(view, table("r:text c:text v:number", *rows, total=2)), width)[0]
