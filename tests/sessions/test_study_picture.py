"""Pictures of studies: well-formed whatever the tables hold, and everything lies where its number says."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import main
from engine.documents import to_json
from engine.errors import SessionError
from engine.results import Provenance
from engine.study_results import (
    AnyView,
    Bars,
    Cell,
    Column,
    ColumnKind,
    Curve,
    Heat,
    Histogram,
    Scatter,
    StudyResult,
    Table,
)
from sessions.model import StudyRecord
from sessions.store import write_session
from sessions.study_export import export_study
from sessions.study_picture import study_svg
from tests import samples
from tests.nasty import NASTY

SVG = "{http://www.w3.org/2000/svg}"
CELLS = (
    st.none()
    | st.floats()
    | st.integers(-(10**30), 10**30)
    | st.text(max_size=6)
    | st.sampled_from([0, 1, 2.5, -1e308, 1e308, 5e-324, *NASTY])
)
NAMES = ("a", "b", "c", "d")
VIEWS: dict[str, AnyView] = {
    "bars": Bars(title="bars", table="t", label="a", values=("b", "c")),
    "histogram": Histogram(title="histogram", table="t", low="b", high="c", counts=("d", "a")),
    "log histogram": Histogram(title="log histogram", table="t", low="b", high="c", counts=("d",), log=True),
    "curve": Curve(title="curve", table="t", x="b", y=("c", "d")),
    "log curve": Curve(title="log curve", table="t", x="b", y=("c",), series="a", log_x=True, log_y=True),
    "scatter": Scatter(title="scatter", table="t", x="b", y="c", z="d", label="a", group="d", path="a"),
    "heat": Heat(title="heat", table="t", row="a", column="b", value="c"),
    "diverging": Heat(title="diverging", table="t", row="a", column="b", value="c", diverging=True),
}


def table_of(
    rows: Sequence[tuple[Cell, ...]], kinds: tuple[ColumnKind, ...] = ("text", "number", "number", "number")
) -> Table:
    columns = tuple(Column(name, kind) for name, kind in zip(NAMES, kinds, strict=True))
    return Table("t", "Table", columns, tuple(rows))


def result_of(table: Table, *views: AnyView) -> StudyResult:
    provenance = Provenance("m", "", {}, {}, "cpu", "float32", "on", {}, {})
    return StudyResult("select", "A study", {}, provenance, tables=(table,), views=views)


def picture(table: Table, *views: AnyView) -> ElementTree.Element:
    """The picture, parsed; it holds nothing that loads or runs anything, and only numbers where numbers belong."""
    svg = study_svg(result_of(table, *views))
    svg.encode()
    assert not any((ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in svg)
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "defs", "pattern", "rect", "g", "path", "text", "line",
    }  # fmt: skip
    height = float(root.attrib["height"])
    for element in root.iter():
        for key, value in element.attrib.items():
            assert "href" not in key
            assert not key.startswith("on")
            if key in {"x", "y", "width", "height", "x1", "x2", "y1", "y2"}:
                assert -20 <= float(value) <= max(height, 900) + 1, (key, value)
            if key == "d":
                assert all(map(math.isfinite, map(float, re.findall(r"-?[\d.]+", value))))
                assert "nan" not in value
            for pattern in re.findall(r"url\(#(\w+)\)", value):
                assert root.find(f".//{SVG}pattern[@id='{pattern}']") is not None
    return root


def of(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.attrib.get("class") == name]


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def axis(root: ElementTree.Element, name: str, log: bool = False) -> Any:
    """From a number to its coordinate, as the ticks of an axis have it: the outermost two say all others."""
    ticks = [(read(t.text or ""), coordinate(t, name)) for t in of(root, name)]
    assert len(ticks) >= 2
    of_number = math.log10 if log else float
    (a, left), (b, right) = (ticks[0], ticks[-1])
    a, b = of_number(a), of_number(b)

    def at(value: float) -> float:
        return left + (of_number(value) - a) / (b - a) * (right - left)

    for value, place in ticks:
        assert place == pytest.approx(at(value), abs=0.11)
    return at


def coordinate(tick: ElementTree.Element, name: str) -> float:
    return float(tick.attrib["x"]) if name == "x" else float(tick.attrib["y"]) - 4


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def points(root: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    found = [re.match(r"M([\d.]+) ([\d.]+)m", element.attrib["d"]) for element in of(root, name)]
    return [(float(match[1]), float(match[2])) for match in found if match]


# --- where things are ---------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_numbers() -> None:
    values = [0.5, -0.25, None, 2.0]
    root = picture(table_of([(f"n{k}", v, 1.0, None) for k, v in enumerate(values)]), VIEWS["bars"])
    at = axis(root, "x")
    bars = of(root, "bar")
    mine = [bar for bar in bars if " b " in (bar[0].text or "")]
    assert [bar[0].text for bar in mine] == ["n0 · b 0.5", "n1 · b -0.25", "n3 · b 2"]
    for bar, value in zip(mine, [0.5, -0.25, 2.0], strict=True):
        left, width = float(bar.attrib["x"]), float(bar.attrib["width"])
        assert (left, left + width) == pytest.approx(sorted((at(0), at(value))), abs=0.2)
    tops = [float(bar.attrib["y"]) for bar in mine]
    assert tops == sorted(tops)
    assert len({bar.attrib["fill"] for bar in bars}) == 2
    assert {"n0", "n2", "−0.25", "–", "2"} <= set(words(root))


def test_counts_are_stacked() -> None:
    rows: list[tuple[Cell, ...]] = [(3, 0.0, 1.0, 5), (4, 1.0, 4.0, 10), (0, 4.0, 5.0, 0)]
    root = picture(table_of(rows), VIEWS["histogram"])
    across, up = axis(root, "x"), axis(root, "y")
    boxes = [tuple(float(b.attrib[k]) for k in ("x", "y", "width", "height")) for b in of(root, "bin")]
    expected = [(0, 1, 0, 5), (1, 4, 0, 10), (0, 1, 5, 8), (1, 4, 10, 14)]
    assert len(boxes) == len(expected)
    for (x, y, width, height), (low, high, below, top) in zip(boxes, expected, strict=True):
        assert (x, x + width) == pytest.approx((across(low), across(high)), abs=0.2)
        assert (y, y + height) == pytest.approx((up(top), up(below)), abs=0.2)


def test_logarithmic_counts_have_a_place_for_zero() -> None:
    root = picture(table_of([("", float(k), k + 1.0, 10**k - 1) for k in range(4)]), VIEWS["log histogram"])
    ticks = {t.text: coordinate(t, "y") for t in of(root, "y")}
    assert list(ticks) == ["0", "1", "10", "100", "1,000"]
    unit = (ticks["0"] - ticks["1"]) / math.log10(2)
    for box, count in zip(of(root, "bin"), (9, 99, 999), strict=True):
        assert float(box.attrib["height"]) == pytest.approx(unit * math.log10(1 + count), rel=0.003)
    assert "counts on a logarithmic scale" in words(root)


def test_points_of_a_curve() -> None:
    rows: list[tuple[Cell, ...]] = [("", 3.0, 1.0, 1), ("", 1.0, 9.0, 2), ("", 2.0, 4.0, 3), ("", None, 4.0, 4)]
    view = Curve(title="c", table="t", x="b", y=("c",))
    root = picture(table_of(rows), view)
    across, up = axis(root, "x"), axis(root, "y")
    expected = [(across(x), up((x - 4) ** 2)) for x in (1, 2, 3)]
    for found, place in zip(points(root, "point"), expected, strict=True):
        assert found == pytest.approx(place, abs=0.2)
    line = re.findall(r"([\d.]+) ([\d.]+)", of(root, "line")[0].attrib["d"])
    for (x, y), place in zip(line, expected, strict=True):
        assert (float(x), float(y)) == pytest.approx(place, abs=0.2)
    assert "1 point without a place" in words(root)
    assert up(0) == pytest.approx(
        float(of(root, "frame")[0].attrib["y"]) + float(of(root, "frame")[0].attrib["height"])
    )


def test_parts_of_a_logarithmic_bar_divide_it_by_their_share() -> None:
    view = Histogram(title="H", table="t", low="b", high="c", counts=("d", "e"), log=True)
    columns = (Column("b", "number"), Column("c", "number"), Column("d", "count"), Column("e", "count"))
    root = picture(Table("t", "T", columns, ((0.0, 1.0, 980, 20), (1.0, 2.0, 0, 7))), view)
    kind, other, _ = (float(box.attrib["height"]) for box in root.iter() if box.attrib.get("class") == "bin")
    assert other / (kind + other) == pytest.approx(0.02, abs=0.001)
    assert "parts by their share" in " ".join(words(root))


def test_logarithmic_axes() -> None:
    rows: list[tuple[Cell, ...]] = [(s, 10.0**k, 10.0 ** (s * k), 0) for s in (1, 2) for k in range(-2, 3)]
    root = picture(table_of([*rows, (1, 0.0, 1.0, 0), (1, 1.0, -1.0, 0)]), VIEWS["log curve"])
    across, up = axis(root, "x", log=True), axis(root, "y", log=True)
    expected = [(across(10.0**k), up(10.0 ** (s * k))) for s in (1, 2) for k in range(-2, 3)]
    for found, place in zip(points(root, "point"), expected, strict=True):
        assert found == pytest.approx(place, abs=0.3)
    first, second = of(root, "line")
    assert first.attrib["stroke"] != second.attrib["stroke"]
    assert "x on a logarithmic scale · y on a logarithmic scale · 2 points without a place" in words(root)


def test_points_of_a_scatter() -> None:
    rows: list[tuple[Cell, ...]] = [(f"f{k % 2}", k * 1.0, k * k - 7.0, "ab"[k % 2]) for k in range(8)]
    root = picture(table_of([*rows, ("f9", 1.0, None, "a")]), VIEWS["scatter"])
    across, up = axis(root, "x"), axis(root, "y")
    found = {p[0].text: points_of for p, points_of in zip(of(root, "points"), points(root, "points"), strict=True)}
    assert len(found) == 8
    for name, x, y, _ in rows:
        assert found[f"{name} · {x:.6g} · {y:.6g}"] == pytest.approx((across(x), up(y)), abs=0.2)
    by_group = {p.attrib["fill"]: p.attrib["d"][p.attrib["d"].index("m") :] for p in of(root, "points")}
    assert len(by_group) == len(set(by_group.values())) == 2
    assert "the third dimension, d, is left out · 8 points · 1 without a place" in words(root)
    walks = [re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"]) for path in of(root, "walk")]
    assert [len(walk) for walk in walks] == [4, 4]
    assert [float(x) for x, _ in walks[1]] == pytest.approx([across(x) for x in (1, 3, 5, 7)], abs=0.2)


def test_groups_beyond_the_twelfth_share_a_mark_and_numbers_are_grouped_by_size() -> None:
    many: list[tuple[Cell, ...]] = [("", k % 40, k, f"g{min(k // 6, 15)}") for k in range(100)]
    assert "4 others" in words(picture(table_of(many, ("text", "number", "number", "text")), VIEWS["scatter"]))
    sizes: list[tuple[Cell, ...]] = [("", k % 40, k, k) for k in range(60)]
    root = picture(table_of(sizes), VIEWS["scatter"])
    assert "0 … 10" in words(root)
    counts = [sum(p.attrib["fill"] == fill for p in of(root, "points")) for fill in
              {p.attrib["fill"] for p in of(root, "points")}]  # fmt: skip
    assert len(counts) == 6
    assert max(counts) <= 11


def test_cells_of_a_grid() -> None:
    rows: list[tuple[Cell, ...]] = [("r", "p", -1.0, 0), ("r", "q", 0.0, 0), ("s", "q", 4.0, 0), ("s", "p", None, 0)]
    root = picture(table_of(rows, ("text", "text", "signed", "text")), VIEWS["diverging"])
    cells = of(root, "cell")
    fills = [cell.attrib["fill"] for cell in cells]
    assert fills[1:] == ["#ffffff", "#1848ac", "url(#missing)"]
    red, blue = int(fills[0][1:3], 16), int(fills[0][5:], 16)
    assert red == 255 - round((255 - 190) / 4)
    assert red > blue
    assert [(c.attrib["x"], c.attrib["y"]) for c in cells[:1]] == [(cells[3].attrib["x"], cells[0].attrib["y"])]
    assert {"r", "s", "p", "q", "−1", "0", "+4", "–", "−4"} <= set(words(root))
    assert "no number" in words(root)


def test_signs_of_cells_without_room_for_numbers_are_hatched() -> None:
    rows: list[tuple[Cell, ...]] = [("r", f"c{k}", k - 60.0, 0) for k in range(120)]
    root = picture(table_of(rows, ("text", "text", "number", "text")), VIEWS["diverging"])
    assert "hatched: below zero" in words(root)
    grid = {cell.attrib["x"] for cell in of(root, "cell")}
    hatched = [r for r in root.iter(f"{SVG}rect") if r.attrib["fill"] == "url(#negative)" and r.attrib["x"] in grid]
    assert len(hatched) == 60


# --- what cannot be drawn, and what is much -----------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_nothing_to_draw_is_said(view: AnyView) -> None:
    for rows in ([], [("a", None, None, None)], [(None, math.nan, math.inf, "x")], [("x", "y", "z", "")]):
        assert any("There is nothing to draw: " in text for text in words(picture(table_of(rows), view)))
    none = picture(Table("other", "", (), ()), view)
    assert "There is nothing to draw: there is no table t." in words(none)
    bare = Table("t", "", (Column("z"),), (("x",),))
    assert any("has no column" in text for text in words(picture(bare, view)))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("value", [0, 1.0, -3.5, 1e-320, 1e308, -1e308, 10**400], ids=str)
def test_one_row_and_equal_values(view: AnyView, value: float) -> None:
    for count in (1, 3):
        picture(table_of([(value, value, value, value)] * count), view)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=30),
    st.tuples(*[st.sampled_from(["text", "token", "feature", "number", "signed", "count", "share"])] * 4),
    st.sampled_from(list(VIEWS)),
)
def test_any_table_is_drawn(rows: list[tuple[Cell, ...]], kinds: tuple[ColumnKind, ...], name: str) -> None:
    root = picture(table_of(rows, kinds), VIEWS[name])
    assert name in words(root)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3))] * 2), min_size=2, max_size=20
    )
)
def test_any_points_lie_where_the_ticks_say(places: list[tuple[float, float]]) -> None:
    root = picture(table_of([("", x, y, "") for x, y in places]), Scatter(title="s", table="t", x="b", y="c"))
    across, up = axis(root, "x"), axis(root, "y")
    for found, (x, y) in zip(points(root, "points"), places, strict=True):
        assert found == pytest.approx((across(x), up(y)), abs=0.6)


@pytest.mark.parametrize("text", [*NASTY, '<&>"\\', "</text><script>alert(1)</script>", "&lt;", "]]>", "\ufffe"])
def test_nasty_text(text: str) -> None:
    kinds: tuple[ColumnKind, ...] = ("token", "number", "signed")
    columns = tuple(Column(f"{text}{n}", kind) for n, kind in enumerate(kinds))
    table = Table(text, text, columns, ((text, 1.0, -2.0), (text + "x", 2.0, 3.0)))
    a, b, c = (column.name for column in columns)
    views = (
        Bars(title=text, table=text, label=a, values=(b, c)),
        Histogram(title=text, table=text, low=b, high=c, counts=(b, c)),
        Curve(title=text, table=text, x=b, y=(c,), series=a),
        Scatter(title=text, table=text, x=b, y=c, z=text, label=a, group=a, path=a),
        Heat(title=text, table=text, row=a, column=a, value=c),
        Heat(title=text, table=text + "<", row=a, column=a, value=c),
    )
    root = picture(table, *views)
    assert len(of(root, "plot")) == len(views)


def test_large_tables_stay_small() -> None:
    rows: list[tuple[Cell, ...]] = [
        (f"13-res-sc:{k}", math.sin(k) * k, math.cos(k * 1.7) * k, f"group {k % 9}") for k in range(20_000)
    ]
    for view in VIEWS.values():
        svg = study_svg(result_of(table_of(rows, ("feature", "number", "number", "text")), view))
        assert len(svg.encode()) < 2_000_000, view
    bars = picture(table_of(rows), VIEWS["bars"])
    assert "150 of 20,000 rows" in words(bars)
    assert len(of(bars, "bar")) == 300
    wide = [(f"r{k % 300}", f"c{k // 300}", k / 60_000, "") for k in range(60_000)]
    heat = picture(table_of(wide, ("text", "text", "number", "text")), VIEWS["heat"])
    assert "the first 200 of 300 rows · the first 150 of 200 columns" in words(heat)
    assert len(ElementTree.tostring(heat)) < 4_000_000


# --- exporting ----------------------------------------------------------------------------------------------------


def study() -> StudyResult:
    table = table_of([("x", 1.0, 2.0, 3.0), ("y", 2.0, 3.0, 4.0)])
    return result_of(table, VIEWS["bars"], VIEWS["curve"], msgspec.structs.replace(VIEWS["heat"], title="2"))


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in of(ElementTree.fromstring(svg), "title")]


def test_plots_are_named_by_number_or_title() -> None:
    assert titles(export_study(study(), "svg")) == ["bars", "curve", "2"]
    assert titles(export_study(study(), "svg", plot="1")) == ["bars"]
    assert titles(export_study(study(), "svg", plot="CURVE")) == ["curve"]
    assert titles(export_study(study(), "svg", plot="2")) == ["2"]
    for plot in ("0", "4", "9" * 5000, "²", "", "x"):
        with pytest.raises(SessionError, match="has no plot") as refused:
            export_study(study(), "svg", plot=plot)
        assert "1 bars; 2 curve; 3 2" in refused.value.remedy
    twice = msgspec.structs.replace(study(), views=(VIEWS["bars"], VIEWS["bars"]))
    with pytest.raises(SessionError, match="more than one plot"):
        export_study(twice, "svg", plot="bars")
    with pytest.raises(SessionError, match="without plots cannot be exported as svg"):
        export_study(msgspec.structs.replace(study(), views=()), "svg")
    with pytest.raises(SessionError, match="cannot be exported as dot"):
        export_study(study(), "dot")


def test_the_command(tmp_path: Path) -> None:
    file, session, out = tmp_path / "study.json", tmp_path / "session.json", tmp_path / "study.svg"
    file.write_text(to_json(study()))
    records = (StudyRecord("2026-01-01", study()), StudyRecord("2026-01-02", result_of(table_of([]))))
    write_session(session, msgspec.structs.replace(samples.session("x"), studies=records))

    def run(*words: object) -> Any:
        return CliRunner().invoke(main.app, ["export", *map(str, words)])

    assert run(file, "--to", "svg", "--out", out).exit_code == 0
    assert titles(out.read_text()) == ["bars", "curve", "2"]
    assert titles(run(session, "--study", 1, "--to", "svg", "--plot", "curve").stdout) == ["curve"]
    for refused, cause in (
        ([session, "--study", 2, "--to", "svg"], "without plots"),
        ([session, "--study", 3, "--to", "svg"], "no study 3"),
        ([file, "--to", "svg", "--plot", "7"], "no plot '7'"),
        ([file, "--to", "csv", "--plot", "1"], "exported as svg, not as csv"),
    ):
        answer = run(*refused)
        assert answer.exit_code != 0
        assert cause in " ".join(answer.output.split())
