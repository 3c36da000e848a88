"""A cursor stays on what it was on while a result grows and is ranked anew, and goes where the mouse clicks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import AnyView, Bars, Column, Curve, FeatureRef, Heat, Histogram, Scatter, Table
from tests.unit.plot_scene import PAINT, table
from tui.plots.drawing import picture
from tui.plots.picture import Picture
from tui.plots.rows import same_row

RANKED = (Column("feature", "feature"), Column("x", "signed"), Column("y", "number"), Column("which"))


def ranked(*rows: tuple[int, float, float, str]) -> Table:
    return Table("t", "T", RANKED, tuple((f"9-res:{index}", x, y, which) for index, x, y, which in rows))


BEFORE = ranked((1, 0.5, 5.0, "a"), (2, 0.4, 4.0, "b"), (3, 0.3, 3.0, "a"))
AFTER = ranked((7, 0.9, 9.0, "b"), (3, 0.8, 8.0, "a"), (8, 0.7, 7.0, "a"), (1, 0.5, 6.0, "a"), (2, 0.1, 1.0, "b"))
"""Two came in above, one rose over the others, all have other numbers."""


# --- rows ---------------------------------------------------------------------------------------------------------


@given(st.permutations(range(9)), st.integers(0, 8))
def test_a_row_is_found_wherever_it_went(order: list[int], row: int) -> None:
    before = Table("t", "T", RANKED[:2], tuple((f"9-res:{n}", float(n)) for n in range(9)))
    after = Table("t", "T", RANKED[:2], tuple((f"9-res:{n}", float(-n)) for n in order))
    assert same_row(before, row, after, "feature") == order.index(row)


def test_of_rows_about_the_same_feature_the_likest_is_meant() -> None:
    columns = "feature:feature neighbour:feature cosine:number"
    before = table(columns, ("9-res:1", "9-res:2", 0.5), ("9-res:1", "9-res:3", 0.4))
    after = table(columns, ("9-res:1", "9-res:4", 0.9), ("9-res:1", "9-res:3", 0.8), ("9-res:1", "9-res:2", 0.7))
    assert [same_row(before, row, after, "feature") for row in (0, 1)] == [2, 1]
    twice = table("word:text n:count", ("a", 1), ("a", 2), ("b", 3))
    grown = table("word:text n:count", ("b", 8), ("a", 6), ("a", 7))
    assert [same_row(twice, row, grown, None) for row in (0, 1, 2)] == [1, 2, 0], "alike ones by their turn"


def test_rows_without_words_are_told_by_their_first_cell() -> None:
    before = table("position:count loss:number", (4, 1.0), (5, 1.5))
    after = table("position:count loss:number", (3, 1.5), (4, 1.0), (5, 2.5))
    assert [same_row(before, row, after, None) for row in (0, 1)] == [1, 2]
    assert same_row(before, 1, table("position:count loss:number", (9, 9.0)), None) is None
    assert same_row(before, 7, after, None) is None
    assert same_row(BEFORE, 0, ranked((5, 0.5, 5.0, "a")), "feature") is None, "other cells alike are no name"


# --- pictures -----------------------------------------------------------------------------------------------------

NAMED: list[AnyView] = [
    Bars(title="B", table="t", label="feature", values=("x", "y")),
    Scatter(title="S", table="t", x="x", y="y", label="feature", group="which"),
    Scatter(title="S", table="t", x="x", y="y", z="x"),
    Curve(title="C", table="t", x="y", y=("x",)),
    Curve(title="C", table="t", x="y", y=("x",), series="which"),
    Heat(title="H", table="t", row="feature", column="which", value="x"),
]


def walk_to(shown: Picture, feature: FeatureRef) -> None:
    """Through the rows of every series and column, until the cursor is on a feature."""
    for dx, dy in ((0, 0), (0, 1), (1, 0)):
        shown.go(dx, dy)
        for step in (-9, 1, 1):
            shown.step(step)
            if shown.feature == feature:
                return


@pytest.mark.parametrize("view", NAMED, ids=lambda view: type(view).__name__)
@pytest.mark.parametrize("index", [1, 2, 3])
def test_the_cursor_stays_on_its_feature_when_others_come_in_above(view: AnyView, index: int) -> None:
    shown = picture(view, BEFORE)
    shown.draw(80, 24, PAINT)
    walk_to(shown, FeatureRef("9-res", index))
    assert shown.feature == FeatureRef("9-res", index)
    grown = picture(view, AFTER, shown)
    assert grown.feature == FeatureRef("9-res", index)
    assert f"9-res:{index}" in grown.draw(80, 24, PAINT)[-1].plain or isinstance(view, Curve)


@pytest.mark.parametrize("view", NAMED, ids=lambda view: type(view).__name__)
def test_what_is_gone_leaves_the_cursor_somewhere(view: AnyView) -> None:
    shown = picture(view, AFTER)
    shown.draw(80, 24, PAINT)
    shown.step(9)
    grown = picture(view, ranked((5, 1.0, 2.0, "c")), shown)
    grown.draw(80, 24, PAINT)
    assert grown.row == 0


def test_a_bin_and_a_point_of_a_series_stay_where_they_are_on_the_axis() -> None:
    bins = Histogram(title="H", table="t", low="low", high="high", counts=("n",))
    columns = "low:number high:number n:count"
    shown = picture(bins, table(columns, (0.0, 1.0, 4), (1.0, 2.0, 5)))
    shown.step(1)
    assert picture(bins, table(columns, (-1.0, 0.0, 1), (0.0, 1.0, 4), (1.0, 2.0, 6)), shown).row == 2
    finer = table(columns, *((n / 5, (n + 1) / 5, n) for n in range(10)))
    assert picture(bins, finer, shown).row == 7, "the bin that holds the middle, 1.5"
    curve = Curve(title="C", table="t", x="x", y=("y",), series="s")
    line = picture(curve, table("x:number y:number s:text", (1.0, 1.0, "b"), (2.0, 5.0, "b"), (3.0, 2.0, "b")))
    line.step(1)
    rows = ((0.5, 9.0, "a"), (2.0, 9.0, "a"), (0.5, 3.0, "b"), (1.0, 1.0, "b"), (2.1, 4.0, "b"), (3.0, 2.0, "b"))
    assert picture(curve, table("x:number y:number s:text", *rows), line).row == 4


def test_a_zoomed_section_follows_its_point() -> None:
    view = Scatter(title="S", table="t", x="x", y="y", label="feature")
    shown = picture(view, BEFORE)
    shown.step(1)
    shown.zoom(12)
    shown.draw(60, 20, PAINT)
    lines = picture(view, AFTER, shown).draw(60, 20, PAINT)
    assert "◉" in "".join(line.plain for line in lines)
    assert lines[-1].plain.startswith("9-res:2 ")


# --- the mouse ----------------------------------------------------------------------------------------------------


def where(shown: Picture, glyph: str) -> list[tuple[int, int]]:
    lines = [line.plain for line in shown.draw(80, 20, PAINT)[:-1]]
    return [(x, y) for y, line in enumerate(lines) for x, c in enumerate(line) if c == glyph]


@pytest.mark.parametrize("view", NAMED[1:5], ids=lambda view: type(view).__name__)
def test_a_click_beside_a_point_takes_it(view: AnyView) -> None:
    shown = picture(view, AFTER)
    places = {}
    for _ in range(2):
        for _ in range(9):
            row = shown.row
            [places[row]] = where(shown, "◉")
            shown.step(1)
        shown.step(-9)
        shown.go(0, 1)
    assert len(places) == len(set(places.values())) == len(AFTER.rows)
    for row, (x, y) in places.items():
        shown.click(x, y)
        assert shown.row == row
    for row, (x, y) in places.items():
        shown.click(x + (1 if x < 40 else -1), y)
        assert shown.row == row
    assert not shown.click(20, 0), "the heading is no point"


def test_a_click_takes_the_bar_the_bin_and_the_cell() -> None:
    bars = picture(NAMED[0], AFTER)
    lines = [line.plain for line in bars.draw(80, 20, PAINT)]
    for row in (3, 0, 4):
        y = next(n for n, line in enumerate(lines) if f"9-res:{AFTER.rows[row][0]}".split(":")[-1] in line[:9])
        assert bars.click(30, y + 1), "the second bar of a group is as good"
        assert bars.row == row
    bins = Histogram(title="H", table="t", low="low", high="high", counts=("n",))
    shown = picture(bins, table("low:number high:number n:count", (0.0, 1.0, 4), (1.0, 2.0, 9), (3.0, 4.0, 5)))
    shown.draw(80, 20, PAINT)
    for x, row in ((30, 1), (5, 0), (75, 2), (42, 1)):
        assert shown.click(x, 15)
        assert shown.row == row
    heat = Heat(title="H", table="t", row="r", column="c", value="v")
    grid = picture(
        heat, table("r:text c:text v:number", *((f"r{a}", f"c{b}", a * 9 + b) for a in range(40) for b in range(90)))
    )
    grid.go(70, 35)
    lines = [line.plain for line in grid.draw(80, 20, PAINT)]
    top = re.match(r"r(\d+)", lines[2])
    assert top is not None
    assert grid.click(9, 4)
    assert f"r{int(top[1]) + 2} × " in grid.status
    assert "◉" in grid.draw(80, 20, PAINT)[4].plain[8:10]
    assert not grid.click(9, 0)
