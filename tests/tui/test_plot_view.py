"""Plots and tables as widgets: keys do what they say, few lines are sent, nothing needs colour."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
from textual.app import ComposeResult
from textual.events import MouseScrollDown, MouseScrollUp

from engine.protocol import AnyView, Bars, Cell, Column, Curve, FeatureRef, Heat, Histogram, Scatter, Table
from tests.nasty import NASTY
from tests.tui.bench import Bench, press
from themes.palettes import LIGHT
from tui.text import cell_len
from tui.widgets.plot_view import PlotView
from tui.widgets.table_view import TableView

SIZES = [(80, 24), (200, 50), (40, 8)]
COLUMNS = (
    Column("feature", "feature"), Column("x", "signed"), Column("y", "signed"), Column("z", "signed"),
    Column("group"), Column("share", "share"), Column("token", "token"), Column("count", "count"),
)  # fmt: skip


def rows(count: int) -> tuple[tuple[Cell, ...], ...]:
    return tuple(
        (
            f"9-res:{n}",
            math.sin(n),
            math.cos(n * 1.3),
            math.sin(n / 7),
            "ab"[n % 2],
            n / count,
            NASTY[n % len(NASTY)],
            n,
        )
        for n in range(count)
    )


def points(count: int) -> Table:
    return Table("points", "Points", COLUMNS, rows(count))


FLAT = Scatter(title="Flat", table="points", x="x", y="y", label="feature", group="group")
SOLID = Scatter(title="Solid", table="points", x="x", y="y", z="z", label="feature")
VIEWS: list[AnyView] = [
    FLAT,
    SOLID,
    Bars(title="Bars", table="points", label="token", values=("x", "y")),
    Histogram(title="Histogram", table="points", low="x", high="y", counts=("count", "share")),
    Curve(title="Curve", table="points", x="count", y=("x",), series="group"),
    Heat(title="Heat", table="points", row="group", column="token", value="x", diverging=True),
]


class Plots(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[PlotView.Moved] = []

    def compose(self) -> ComposeResult:
        self.plot = PlotView()
        yield self.plot

    def on_mount(self) -> None:
        self.plot.focus()

    def on_plot_view_moved(self, message: PlotView.Moved) -> None:
        self.told.append(message)

    def on_plot_view_chosen(self, message: PlotView.Chosen) -> None:
        self.told.append(message)


class Tables(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[int] = []

    def compose(self) -> ComposeResult:
        self.table = TableView()
        yield self.table

    def on_mount(self) -> None:
        self.table.focus()

    def on_line_list_chosen(self, message: TableView.Chosen) -> None:
        self.chosen.append(message.row)


# --- plots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_every_kind_is_drawn_at_every_size(size: tuple[int, int]) -> None:
    app = Plots()
    async with app.run_test(size=size) as pilot:
        for view in VIEWS:
            app.plot.show(view, points(60))
            await pilot.pause()
            lines = app.text.split("\n")
            assert lines[0].startswith(view.title)
            assert lines[-1] == app.plot.status[: size[0]].rstrip() or lines[-1].endswith("…")
            assert all(cell_len(line) <= size[0] for line in lines)
            await press(
                pilot, "l", "down", "+", "minus", "less_than_sign", "full_stop", "L", "shift+up", "pagedown", "0"
            )
            assert app.plot.hints
            assert app.text.split("\n")[0].startswith(view.title)


async def test_keys_move_the_cursor_and_tell_the_feature() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(FLAT, points(60))
        await pilot.pause()
        assert app.plot.current == FeatureRef("9-res", 0)
        await press(pilot, "n", "n", "p")
        assert app.plot.current == FeatureRef("9-res", 1)
        assert [m.feature and m.feature.index for m in app.told][-1] == 1
        before = app.plot.row
        assert before is not None
        await press(pilot, "h")
        after = app.plot.row
        assert after is not None
        assert math.sin(after) < math.sin(before), "what is to the left has a smaller x"
        await press(pilot, "enter")
        assert isinstance(app.told[-1], PlotView.Chosen)
        assert app.told[-1].row == after
        await press(pilot, "G")
        assert app.plot.row == 59
        await press(pilot, "g")
        assert app.plot.row == 0


async def test_a_cursor_move_sends_only_the_lines_that_change() -> None:
    app = Plots()
    async with app.run_test(size=(200, 50)) as pilot:
        app.plot.show(FLAT, points(400))
        await pilot.pause()
        with patch.object(app.plot, "draw_line", wraps=app.plot.draw_line) as drawn:
            await press(pilot, "n")
            assert 0 < drawn.call_count <= 6
            drawn.reset_mock()
            await press(pilot, "0")
            drawn.assert_not_called()


async def test_zoom_and_turn_are_undone_by_zero() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(SOLID, points(60))
        await pilot.pause()
        whole = app.text
        for key in ("greater_than_sign", "comma", "+", "L"):
            before = app.text
            await press(pilot, key)
            assert app.text != before
        await press(pilot, "0")
        assert app.text == whole


async def test_the_cursor_stays_while_a_plot_grows() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(FLAT, points(20))
        await press(pilot, "n", "n", "n", "+")
        app.plot.show(FLAT, points(40))
        await pilot.pause()
        assert app.plot.row == 3
        assert "×1.35" in app.plot.plain_lines[0]
        app.plot.show(VIEWS[2], points(40))
        assert app.plot.row == 0


async def test_nothing_is_drawn_before_there_is_a_view() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.text.strip() == app.plot.hints == app.plot.status == ""
        assert app.plot.row is None
        assert app.plot.current is None
        await press(pilot, "l", "n", "+", "enter", "0")
        await pilot.click(app.plot, offset=(9, 9))
        assert app.told == []


async def test_a_click_takes_the_nearest_and_the_wheel_zooms() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(FLAT, points(9))
        await press(pilot, *["n"] * 5)
        y, x = next((y, line.index("◉")) for y, line in enumerate(app.plot.plain_lines) if "◉" in line)
        await press(pilot, "g")
        app.told.clear()
        await pilot.click(app.plot, offset=(x + 1, y))
        assert app.plot.row == 5
        assert [(m.row, m.feature) for m in app.told] == [(5, FeatureRef("9-res", 5))]
        whole = app.text
        await pilot._post_mouse_events([MouseScrollUp], app.plot, offset=(40, 12), button=0)
        assert "×1.35" in app.plot.plain_lines[0]
        assert app.plot.row == 5
        await pilot._post_mouse_events([MouseScrollDown], app.plot, offset=(40, 12), button=0)
        assert app.text == whole
        app.plot.show(VIEWS[2], points(60))
        await pilot._post_mouse_events([MouseScrollDown], app.plot, offset=(40, 12), button=0)
        assert app.plot.row == 1, "bars are gone through"
        assert app.told[-1].row == 1


async def test_the_light_theme_draws_again_in_its_colours() -> None:
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(FLAT, points(20))
        await pilot.pause()
        app.theme = LIGHT.name
        await pilot.pause()
        inks = {
            s.style.color.name for line in range(24) for s in app.plot.render_line(line) if s.style and s.style.color
        }
        assert LIGHT.series[0] in inks


async def test_without_colours_groups_still_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Plots()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plot.show(FLAT, points(60))
        await pilot.pause()
        assert app.no_color
        body = app.text.split("\n")[1:-3]
        assert sum(line.count("●") + line.count("◉") for line in body) > 10
        assert sum(line.count("▲") for line in body) > 10


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_table_has_room_and_whole_numbers(size: tuple[int, int]) -> None:
    app = Tables()
    async with app.run_test(size=size) as pilot:
        app.table.show(points(60))
        await pilot.pause()
        for _ in COLUMNS:
            lines = app.text.split("\n")
            assert all(cell_len(line) <= size[0] for line in lines)
            assert lines[1].startswith("▌ 9-res:0")
            for name in ("x", "y", "z"):
                if f" {name} " in f"{lines[0]} ":
                    place = f"{lines[0]} ".index(f" {name} ") + 2
                    number = lines[2][:place].split()[-1]
                    assert number in {"+.841", "+.267", "+.142"}
            await press(pilot, "right")


async def test_columns_too_many_are_scrolled_and_the_first_stays() -> None:
    app = Tables()
    async with app.run_test(size=(40, 12)) as pilot:
        app.table.show(points(60))
        await pilot.pause()
        first = app.text.split("\n")[0]
        assert first.rstrip().endswith("→")
        assert "count" not in first
        await press(pilot, *["right"] * 9)
        last = app.text.split("\n")[0]
        assert last.startswith("← feature")
        assert "count" in last
        assert "→" not in last
        await press(pilot, *["left"] * 9)
        assert app.text.split("\n")[0] == first


async def test_sorting_keeps_the_cursor_on_its_row_and_puts_nothing_last() -> None:
    table = Table(
        "t", "T", (Column("word"), Column("n", "number"), Column("f", "feature")),
        (("b", 2.0, "9-res:2"), ("a", None, "9-res:10"), ("c", 10.0, "9-res:1"), ("d", float("nan"), None)), total=99,
    )  # fmt: skip
    app = Tables()
    async with app.run_test(size=(80, 12)) as pilot:
        app.table.show(table)
        await press(pilot, "j", "j")
        assert app.table.current == FeatureRef("9-res", 1)
        await press(pilot, "greater_than_sign")
        assert [app.table.table_row(n) for n in range(4)] == [1, 0, 2, 3]
        assert "▲word" in app.text.split("\n")[0]
        await press(pilot, "greater_than_sign")
        assert [app.table.table_row(n) for n in range(4)] == [2, 0, 1, 3]
        assert "▼n" in app.text.split("\n")[0]
        assert (app.table.cursor, app.table.current) == (0, FeatureRef("9-res", 1))
        await press(pilot, "r")
        assert [app.table.table_row(n) for n in range(4)] == [0, 2, 1, 3]
        await press(pilot, "greater_than_sign")
        assert [app.table.table_row(n) for n in range(3)] == [2, 0, 1], "features by their index, not by its digits"
        assert app.table.feature_at(3) is None
        await press(pilot, "greater_than_sign")
        assert [app.table.table_row(n) for n in range(4)] == [0, 1, 2, 3]
        assert app.table.place == "3/4 of 99"
        await press(pilot, "enter")
        assert app.chosen == [2]


async def test_the_detail_says_the_whole_row() -> None:
    long = "a" * 300
    app = Tables()
    async with app.run_test(size=(40, 8)) as pilot:
        app.table.show(Table("t", "T", (Column("word"), Column("n", "count")), ((long, 123_456_789),)))
        await pilot.pause()
        assert "123,456,789" in app.text
        assert "…" in app.text
        assert app.table.detail == f"word {long} · n 123,456,789"


async def test_ten_thousands_of_rows_are_gone_through() -> None:
    table = points(20_000)
    app = Tables()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(table)
        await pilot.pause()
        await press(pilot, *["pagedown"] * 10)
        assert app.table.place.startswith("2")
        await press(pilot, "G")
        assert app.table.current == FeatureRef("9-res", 19_999)


async def test_an_empty_table_says_so() -> None:
    app = Tables()
    async with app.run_test(size=(80, 12)) as pilot:
        app.table.show(Table("t", "T", (Column("word"),), ()))
        await press(pilot, "j", "greater_than_sign", "r", "enter", "right", "G")
        assert "no rows" in app.text
        assert (app.table.current, app.table.detail) == (None, "")
        app.table.show(Table("t", "T", (), ()))
        await press(pilot, "greater_than_sign", "right")


async def test_a_table_that_grows_keeps_order_and_cursor() -> None:
    app = Tables()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(points(10))
        app.table.sort_by(1)
        await press(pilot, "j", "j")
        feature = app.table.current
        app.table.show(points(30))
        await pilot.pause()
        assert app.table.current == feature
        assert "▼x" in app.text.split("\n")[0]


@pytest.mark.parametrize("column", [None, 1])
async def test_the_cursor_stays_on_its_feature_when_rows_come_in_above(column: int | None) -> None:
    columns = (Column("feature", "feature"), Column("score", "number"), Column("prompt"))
    before = Table("t", "T", columns, (("9-res:1", 5.0, "p"), ("9-res:2", 4.0, "p"), ("9-res:2", 4.0, "q")))
    above = tuple((f"9-res:{n}", 100.0 - n, "p") for n in range(10, 60))
    after = Table("t", "T", columns, (*above, ("9-res:2", 9.0, "q"), ("9-res:1", 8.0, "p"), ("9-res:2", 7.0, "p")))
    app = Tables()
    async with app.run_test(size=(80, 12)) as pilot:
        app.table.show(before)
        app.table.sort_by(column)
        for steps, shown in ((0, "9-res:1 8.00 p"), (1, "9-res:2 7.00 p"), (2, "9-res:2 9.00 q")):
            app.table.show(Table("other", "O", (), ()))
            app.table.show(before)
            app.table.sort_by(column)
            await press(pilot, *["j"] * steps)
            app.table.show(after)
            await pilot.pause()
            assert [line.split()[1:4] for line in app.text.split("\n") if "▌" in line] == [shown.split()]
            app.table.show(Table("t", "T", columns, after.rows[:3]))
            await pilot.pause()
            assert app.table.current is not None, "gone: the cursor is on some line still"


async def test_help_and_place_follow_the_order() -> None:
    columns = (Column("word"), Column("n", "count", "how often it\x1b[31m was seen, in tokens"))
    app = Tables()
    async with app.run_test(size=(40, 8)) as pilot:
        assert (app.table.help_of_sorted, app.table.place, app.table.detail) == ("", "", "")
        app.table.show(Table("t", "T", columns, (("a", 1), ("b", 2)), total=16_000))
        await pilot.pause()
        assert (app.table.help_of_sorted, app.table.place) == ("", "1/2 of 16,000")
        await press(pilot, "greater_than_sign")
        assert app.table.help_of_sorted == "", "this column has none"
        await press(pilot, "greater_than_sign")
        assert app.table.help_of_sorted == "▼n: how often it␛[31m was seen, in tokens"
        assert (app.table.place, app.table.detail) == ("2/2 of 16,000", "word a · n 1")
        await press(pilot, "r")
        assert app.table.help_of_sorted.startswith("▲n: how often")
        assert app.table.place == "1/2 of 16,000"
        app.table.show(Table("t", "T", columns, (("a", 1),), total=1))
        assert app.table.place == "1/1"
