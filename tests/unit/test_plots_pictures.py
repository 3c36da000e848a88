"""Drawn views: no table breaks one, every line has room, and what is drawn is where its numbers are."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import AnyView, Bars, Column, Curve, FeatureRef, Heat, Histogram, Scatter, Table
from tests.nasty import NASTY
from tests.unit.plot_scene import PAINT, table
from tui.plots.drawing import picture
from tui.plots.paint import MARKS
from tui.plots.picture import Picture
from tui.text import cell_len

_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def lines_of(view: AnyView, data: Table, width: int = 80, height: int = 20) -> list[str]:
    lines = picture(view, data).draw(width, height, PAINT)
    assert len(lines) == height
    assert [line.plain for line in lines if cell_len(line.plain) > width] == []
    return [line.plain.rstrip() for line in lines]


# --- nothing breaks them ------------------------------------------------------------------------------------------

words = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.sampled_from(["9-res:4", "a", "b"]))
numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, math.inf, -math.inf, math.nan, 1e-300, 10**400]),
    st.floats(),
    st.floats(-1e3, 1e3),
    st.integers(-(10**15), 10**15),
)
cells = st.one_of(st.none(), words, numbers, numbers)
kinds = ["text", "token", "feature", "source", "number", "signed", "count", "share"]
TEXT = "t"
VIEWS: list[AnyView] = [
    Bars(title=TEXT, table="t", label="a", values=("b",)),
    Bars(title="👩‍👩‍👧 漢字 \x1b[31m" * 9, table="t", label="b", values=("a", "c", "d", "b")),
    Histogram(title=TEXT, table="t", low="a", high="b", counts=("c", "d")),
    Histogram(title=TEXT, table="t", low="a", high="b", counts=("c",), log=True),
    Curve(title=TEXT, table="t", x="a", y=("b", "c")),
    Curve(title=TEXT, table="t", x="a", y=("b",), series="c", log_x=True, log_y=True),
    Scatter(title=TEXT, table="t", x="a", y="b"),
    Scatter(title=TEXT, table="t", x="a", y="b", label="c", group="d", path="c"),
    Scatter(title=TEXT, table="t", x="a", y="b", z="c", label="d", path="d"),
    Heat(title=TEXT, table="t", row="a", column="b", value="c"),
    Heat(title=TEXT, table="t", row="d", column="c", value="b", diverging=True),
]


@st.composite
def tables(draw_from: st.DrawFn) -> Table:
    columns = tuple(Column(name, draw_from(st.sampled_from(kinds))) for name in "abcd")
    alike = draw_from(st.booleans())  # all cells of a row the same: values equal, ranges empty
    row = st.tuples(cells, cells, cells, cells) if not alike else cells.map(lambda c: (c, c, c, c))
    return Table("t", "A table", columns, tuple(draw_from(st.lists(row, max_size=9))))


def _checked(shown: Picture, width: int, height: int) -> None:
    lines = shown.draw(width, height, PAINT)
    assert len(lines) == height
    for line in lines:
        assert cell_len(line.plain) <= width
        assert not any(unicodedata.category(c) in _ACTING for c in line.plain)


moves = st.sampled_from(["right", "down", "next", "in", "in", "out", "pan", "turn", "reset", "far"])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
@settings(max_examples=40, deadline=None)
@given(data=tables(), width=st.integers(40, 200), height=st.integers(8, 50), steps=st.lists(moves, max_size=5))
def test_no_table_breaks_a_view(view: AnyView, data: Table, width: int, height: int, steps: list[str]) -> None:
    shown = picture(view, data)
    _checked(shown, width, height)
    for step in steps:
        match step:
            case "right":
                shown.go(1, 0)
            case "down":
                shown.go(0, 1)
            case "next":
                shown.step(1)
            case "far":
                shown.step(10**9)
            case "in" | "out":
                shown.zoom(7 if step == "in" else -7)
            case "pan":
                shown.pan(1, -1)
            case "turn":
                shown.turn(2, 1)
            case _:
                shown.reset()
        _checked(shown, width, height)
    assert shown.feature is None or isinstance(shown.feature, FeatureRef)
    _checked(picture(view, Table("t", "A table", data.columns, data.rows[: len(data.rows) // 2]), shown), width, height)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_even_a_cell_is_not_too_small(view: AnyView) -> None:
    data = table("a:number b:number c:number d:text", (1.0, 2.0, 3.0, "x"), (2.0, 4.0, 9.0, "y"))
    for width in (1, 2, 5, 12, 39):
        for height in (1, 2, 3, 7):
            _checked(picture(view, data), width, height)


@pytest.mark.parametrize("view", VIEWS[::2], ids=lambda view: type(view).__name__)
def test_it_says_why_nothing_is_drawn(view: AnyView) -> None:
    assert "has no rows" in lines_of(view, table("a:number b:number c:number d:text"))[1]
    assert "has no column" in lines_of(view, table("z:number", (1.0,)))[1]


def test_texts_alone_have_no_place() -> None:
    data = table("a:text b:text", ("x", "y"))
    assert "No row" in lines_of(Scatter(title="t", table="t", x="a", y="b"), data)[1]


# --- bars ---------------------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_values_on_both_sides_of_zero() -> None:
    data = table("name:text effect:signed", ("a", 2.0), ("b", -1.0), ("c", 1.0), ("d", None))
    lines = lines_of(Bars(title="Effects", table="t", label="name", values=("effect",)), data, 80, 8)
    assert lines[0] == "Effects"
    up, down, half, nothing = lines[1:5]
    assert "+2.00" in up
    assert "−1.00" in down
    assert "–" in nothing
    assert down.index("█") < down.index("│") < up.index("█")
    assert down.count("█") == pytest.approx(up.count("█") / 2, abs=1)
    assert half.count("█") == pytest.approx(up.count("█") / 2, abs=1)
    assert nothing.count("█") == 0
    assert lines[-1] == "a  effect +2.00  (1/4)"


def test_groups_of_bars_differ_without_colour_and_rows_scroll() -> None:
    rows = tuple((f"f{n}", n / 20, 1 - n / 20) for n in range(20))
    view = Bars(title="Shares", table="t", label="name", values=("mine", "theirs"))
    shown = picture(view, table("name:text mine:share theirs:share", *rows))
    first = [line.plain for line in shown.draw(80, 12, PAINT)]
    assert "█ mine" in first[0]
    assert "▓ theirs" in first[0]
    assert "▓" in first[2]
    assert "█" not in first[2]
    assert "100 %" in first[2]
    assert "… 16 more rows" in first[-3]
    shown.step(19)
    last = [line.plain for line in shown.draw(80, 12, PAINT)]
    assert any("f19" in line and "▌" in line for line in last)
    assert "16 above" in " ".join(last)
    assert shown.row == 19


# --- histogram ----------------------------------------------------------------------------------------------------


def _heights(lines: list[str], glyph: str) -> list[int]:
    return [sum(line[x : x + 1] == glyph for line in lines) for x in range(80)]


def test_stacked_counts_have_their_heights_and_glyphs() -> None:
    data = table(
        "low:number high:number mine:count theirs:count", (0.0, 1.0, 8, 8), (1.0, 2.0, 4, 0), (2.0, 4.0, 0, 16)
    )
    view = Histogram(title="H", table="t", low="low", high="high", counts=("mine", "theirs"))
    lines = lines_of(view, data, 80, 20)  # 16 rows of plot
    mine, theirs = _heights(lines[1:-1], "█"), _heights(lines[1:-1], "▓")
    assert max(mine) == 8
    assert mine.count(8) == pytest.approx(19, abs=2)
    assert mine.count(4) == pytest.approx(19, abs=2)
    assert theirs.count(8) == pytest.approx(19, abs=2)
    assert theirs.count(16) == pytest.approx(38, abs=3), "the bin from 2 to 4 is twice as wide"
    assert lines[-1] == "0 … 1.00  mine 8 · theirs 8  (bin 1/3)"


def test_a_logarithmic_histogram_shows_one_beside_a_million() -> None:
    data = table("low:number high:number n:count", (0.0, 1.0, 999_999), (1.0, 2.0, 1), (2.0, 3.0, 0))
    view = Histogram(title="H", table="t", low="low", high="high", counts=("n",), log=True)
    lines = lines_of(view, data, 60, 24)
    rows = [y for y, line in enumerate(lines[1:-2]) if "1.00e+06" in line or "1,000,000" in line or "100,000" in line]
    assert rows
    heights = [
        sum(line[x : x + 1] in set("▁▂▃▄▅▆▇█") and bool(line[x : x + 1]) for line in lines[1:-3]) for x in (15, 35, 55)
    ]
    assert heights[0] > 18
    assert 1 <= heights[1] <= 2
    assert heights[2] == 0


# --- curve --------------------------------------------------------------------------------------------------------


def test_series_have_marks_of_their_own_and_a_cursor() -> None:
    rows = tuple((x, x * k, name) for k, name in ((1.0, "up"), (-1.0, "down")) for x in (0.0, 1.0, 2.0, 3.0))
    view = Curve(title="C", table="t", x="x", y=("y",), series="which")
    shown = picture(view, table("x:number y:signed which:text", *rows))
    lines = [line.plain for line in shown.draw(80, 20, PAINT)]
    assert "● up" in lines[0]
    assert "▲ down" in lines[0]
    body = "\n".join(lines[1:-3])
    assert body.count("●") + body.count("◉") == 4
    assert body.count("▲") in (3, 4)
    assert any("⠀" < c <= "⣿" for c in body), "the points are joined"
    assert shown.go(1, 0)
    assert shown.go(0, 1)
    assert shown.row == 5
    assert shown.draw(80, 20, PAINT)[-1].plain == "▲ down  x 1.00  −1.00  (point 2/4)"


def test_logarithms_leave_out_what_has_none_and_say_so() -> None:
    view = Curve(title="C", table="t", x="x", y=("y",), log_y=True)
    lines = lines_of(view, table("x:number y:number", (1.0, 0.0), (2.0, 10.0), (3.0, 1000.0), (4.0, -3.0)))
    assert "2 points without a place" in lines[0]
    assert "log y" in lines[0]
    assert any(line.startswith(("1,000", "  100", "100")) for line in lines)


def test_zoom_keeps_the_point_under_the_cursor_in_place() -> None:
    rows = tuple((float(x), float(x * x)) for x in range(50))
    shown = picture(Curve(title="C", table="t", x="x", y=("y",)), table("x:number y:number", *rows))
    shown.step(20)
    whole = [line.plain for line in shown.draw(80, 20, PAINT)]
    where = [(line.index("◉") - 4, y) for y, line in enumerate(whole) if "◉" in line]
    assert shown.zoom(2)
    near = [line.plain for line in shown.draw(80, 20, PAINT)]
    found = [(line.index("◉") - 4, y) for y, line in enumerate(near) if "◉" in line]
    assert abs(found[0][0] - where[0][0]) <= 2
    assert found[0][1] == where[0][1]
    assert near != whole
    assert shown.reset()
    assert [line.plain for line in shown.draw(80, 20, PAINT)] == whole


# --- scatter ------------------------------------------------------------------------------------------------------

CORNERS = table(
    "feature:feature x:signed y:signed group:text",
    ("9-res:1", -1.0, -1.0, "a"), ("9-res:2", 1.0, -1.0, "b"), ("9-res:3", -1.0, 1.0, "c"), ("9-res:4", 1.0, 1.0, "a"),
)  # fmt: skip
PLANE = Scatter(title="S", table="t", x="x", y="y", label="feature", group="group")


def test_points_are_where_they_belong_with_the_marks_of_their_groups() -> None:
    lines = lines_of(PLANE, CORNERS, 60, 20)
    assert all(f"{mark} {name}" in lines[0] for mark, name in zip(MARKS, "abc", strict=False))
    body = lines[1:-3]
    low, high = body[-1], body[0]
    assert "◉" in low
    assert "▲" in low
    assert low.index("◉") < low.index("▲")
    assert "■" in high
    assert "●" in high
    assert high.index("■") < high.index("●")


def test_the_cursor_goes_to_the_nearest_in_a_direction() -> None:
    shown = picture(PLANE, CORNERS)
    shown.draw(60, 20, PAINT)
    assert shown.feature == FeatureRef("9-res", 1)
    assert shown.go(1, 0)
    assert shown.feature == FeatureRef("9-res", 2)
    assert shown.go(0, -1)
    assert shown.feature == FeatureRef("9-res", 4)
    assert not shown.go(0, -1), "nothing is above"
    assert shown.go(-1, 0)
    assert shown.feature == FeatureRef("9-res", 3)
    assert shown.draw(60, 20, PAINT)[-1].plain == "9-res:3  x −1.00 · y +1.00  ■ c"


def test_points_in_one_cell_are_counted_and_zoomed_apart() -> None:
    rows = ((0.0, 0.0), (0.001, 0.0), (0.0, 0.001), (1.0, 1.0))
    shown = picture(Scatter(title="S", table="t", x="x", y="y"), table("x:number y:number", *rows))
    assert shown.draw(60, 20, PAINT)[-1].plain.endswith("+2 here")
    shown.zoom(20)
    lines = [line.plain for line in shown.draw(60, 20, PAINT)]
    assert "here" not in lines[-1]
    assert "".join(lines[1:-3]).count("•") == 2, "and the one far away is out of sight"


def test_dense_places_are_shaded() -> None:
    rows = tuple((x % 40 / 40, (x * 7919 % 1000) / 1000 * 0.1 + (x % 3 == 0) * 0.9) for x in range(6000))
    lines = lines_of(Scatter(title="S", table="t", x="x", y="y"), table("x:number y:number", *rows), 60, 20)
    assert "▓ 40+" in lines[0] or "▓ 40+" in lines[1]
    assert any("▓" in line for line in lines[2:-3])


def test_turning_goes_round_and_shows_depth() -> None:
    rows = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0))
    view = Scatter(title="S", table="t", x="x", y="y", z="z")
    shown = picture(view, table("x:signed y:signed z:signed", *rows))
    first = [line.plain for line in shown.draw(80, 24, PAINT)]
    assert {"·", "●"} <= set("".join(first[1:-3])), "far and near"
    shown.turn(1, 0)
    turned = [line.plain for line in shown.draw(80, 24, PAINT)]
    assert turned != first
    for _ in range(47):
        shown.turn(1, 0)
    again = [line.plain for line in shown.draw(80, 24, PAINT)]
    assert again == first
    assert not picture(PLANE, CORNERS).turn(1, 0)


def test_paths_are_joined_and_only_within_themselves() -> None:
    rows = ((-1.0, 0.0, "w"), (1.0, 0.0, "w"), (-1.0, 1.0, "v"), (1.0, 1.0, None))
    view = Scatter(title="S", table="t", x="x", y="y", path="p")
    lines = lines_of(view, table("x:signed y:signed p:text", *rows), 60, 20)
    dots = [sum("⠀" < c <= "⣿" for c in line) for line in lines[1:-3]]
    assert dots[-1] > 40
    assert sum(dots[:-1]) == 0


# --- heat ---------------------------------------------------------------------------------------------------------


def test_numbers_where_there_is_room_else_levels_that_need_no_colour() -> None:
    few = table("r:text c:text v:number", *((f"r{a}", f"c{b}", a * 3.0 + b) for a in range(3) for b in range(3)))
    lines = lines_of(Heat(title="H", table="t", row="r", column="c", value="v"), few)
    assert lines[2].split() == ["r0", "0", "1.00", "2.00"]
    assert lines[1].split() == ["c0", "c1", "c2"]
    many = table("r:text c:text v:number", *((f"r{a}", f"c{b}", a * 8.0 + b) for a in range(8) for b in range(30)))
    lines = lines_of(Heat(title="H", table="t", row="r", column="c", value="v"), many, 80, 12)
    assert {"░", "▒", "▓", "█"} <= set("".join(lines[2:-1]))
    assert "v 0" in lines[-1]
    assert "r0 × c0" in lines[-1]


@pytest.mark.parametrize("columns", [30, 70])
def test_signs_of_diverging_values_are_seen_without_colour(columns: int) -> None:
    data = table("r:text c:text v:signed", *(("r", f"c{b}", float(b - columns // 2)) for b in range(columns)))
    view = Heat(title="H", table="t", row="r", column="c", value="v", diverging=True)
    cells_drawn = lines_of(view, data, 80, 8)[2].removeprefix("r").strip()
    half = len(cells_drawn) // 2
    low, high = cells_drawn[: half - 2], cells_drawn[half + 2 :]
    below, above = set(low) - set("░▒▓█◉"), set(high) - set("░▒▓█◉")
    assert below <= (set("-=≡≣") if columns == 70 else {"−"})
    assert below
    assert above <= ({"+"} if columns == 30 else set())


def test_wide_grids_scroll_with_the_cursor() -> None:
    rows = tuple((f"r{a}", f"c{b}", a + b / 1000) for a in range(60) for b in range(200))
    shown = picture(Heat(title="H", table="t", row="r", column="c", value="v"), table("r:text c:text v:number", *rows))
    first = [line.plain for line in shown.draw(60, 20, PAINT)]
    assert first[1].endswith("→")
    assert "↓" in "".join(first)
    shown.go(199, 59)
    last = [line.plain for line in shown.draw(60, 20, PAINT)]
    assert "r59 × c199" in last[-1]
    assert "59.199" in last[-1].replace("59.2 (59.199)", "59.199")
    assert last[1].split()[0].startswith("←")
    assert not last[1].endswith("→")
    assert shown.row == len(rows) - 1
