"""Lines in dots: thinned ones look the same as whole ones, and what is far outside costs nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Column, Curve, Table
from tui.plots import curve
from tui.plots.drawing import picture
from tui.plots.paint import paint
from tui.plots.strokes import line_through, stroke, thinned

WIDE, HIGH = 30, 24
eighths = st.integers(-160, 400).map(lambda n: n / 8)  # nearer to an edge than that, rounding says what is inside
places = st.lists(st.tuples(eighths, st.floats(-30, 60)), min_size=2, max_size=300).map(sorted)
XY = (Column("x", "number"), Column("y", "number"))
VIEW = Curve(title="C", table="t", x="x", y=("y",))


def around(found: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Dots and their neighbours: where a line is clipped, floats may round it to the dot beside."""
    return {(x + dx, y + dy) for x, y in found for dx in (-1, 0, 1) for dy in (-1, 0, 1)}


@given(places)
def test_a_thinned_line_looks_as_the_whole_one(line: list[tuple[float, float]]) -> None:
    few = thinned(line, WIDE)
    assert len(few) <= 4 * (WIDE + 2)
    assert set(few) <= set(line)
    whole, drawn = (line_through(part, WIDE, HIGH) for part in (line, few))
    assert all(0 <= x < WIDE and 0 <= y < HIGH for x, y in drawn)
    assert drawn <= around(whole)
    assert whole <= around(drawn)


def test_a_thinned_line_keeps_every_dot_of_its_columns() -> None:
    line = [(n / 64, float(n * 37 % 23)) for n in range(64 * WIDE)]
    few = thinned(line, WIDE)
    assert len(few) <= 4 * WIDE < len(line) / 10
    assert line_through(few, WIDE, HIGH) == line_through(line, WIDE, HIGH)


def test_a_stroke_has_both_ends_and_no_gaps() -> None:
    dots = stroke((2.0, 3.0), (9.0, 5.0), WIDE, HIGH)
    assert (dots[0], dots[-1]) == ((2, 3), (9, 5))
    assert all(abs(a - c) <= 1 and abs(b - d) <= 1 for (a, b), (c, d) in itertools.pairwise(dots))
    assert {x for x, _ in dots} == set(range(2, 10))
    assert stroke((-5.0, 3.0), (-1.0, 5.0), WIDE, HIGH) == []


def test_a_long_curve_is_drawn_through_as_many_points_as_the_width_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to = []

    def counted(line: list[tuple[float, float]], wide: int, high: int) -> set[tuple[int, int]]:
        given_to.append(len(line))
        return line_through(line, wide, high)

    monkeypatch.setattr(curve, "line_through", counted)
    shown = picture(VIEW, Table("t", "T", XY, tuple((float(n), float(n * 7919 % 1000)) for n in range(20_000))))
    shown.draw(80, 20, paint())
    assert 80 < given_to[0] <= 4 * 2 * 80
    shown.step(1)
    shown.draw(80, 20, paint())
    assert len(given_to) == 1, "the cursor alone draws no line again"
    shown.zoom(1)
    shown.draw(80, 20, paint())
    assert len(given_to) == 2


def test_what_is_far_outside_a_section_takes_no_memory() -> None:
    """A line that leaves the section for a million of its heights; through plotext it took all memory there was."""
    rows = ((0.0, 0.0), (1.0, 1e9), (2.0, 0.0), (3.0, -1e9), (4.0, 1.0))
    shown = picture(VIEW, Table("t", "T", XY, rows))
    shown.zoom(50)
    lines = [line.plain for line in shown.draw(80, 20, paint())]
    assert "◉" in "".join(lines)
    assert any("⠀" < c <= "⣿" for line in lines for c in line), "the line goes on upwards"


def test_lines_go_through_the_marks_of_their_points() -> None:
    shown = picture(VIEW, Table("t", "T", XY, ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0))))
    lines = [line.plain for line in shown.draw(80, 20, paint())]
    peak = next(line.index("●") for line in lines[1:] if "●" in line)
    sides = [[x for x, c in enumerate(line) if "⠀" < c <= "⣿"] for line in lines[2:-4]]
    assert sum(map(len, sides)) > 40
    assert all(abs((peak - min(xs)) - (max(xs) - peak)) <= 2 for xs in sides if xs), "it falls on both sides alike"
