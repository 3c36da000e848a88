"""What drawn views share: axes with their ticks, cells as words, colours of series."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import Color, ColorSystem

from engine.protocol import Cell, Column
from engine.study_results import ColumnKind
from themes.palettes import PALETTES, Palette
from tui.plots.scale import Axis, axis_over
from tui.plots.words import cell_words


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), st.booleans(), st.integers(1, 9)
)
def test_ticks_lie_within_and_rise(values: list[float], log: bool, most: int) -> None:
    axis = axis_over(values, log=log)
    ticks = axis.ticks(most)
    places = [place for place, _ in ticks]
    assert places == sorted(places)
    assert all(-0.01 <= place <= 1.01 for place in places)
    assert len({words for _, words in ticks}) == len(ticks)
    for value in values:
        place = axis.place(value)
        assert place is None or -1e-6 <= place <= 1 + 1e-6


def test_ticks_are_round() -> None:
    assert [words for _, words in Axis(0.0, 1.0).ticks(6)] == ["0", ".2", ".4", ".6", ".8", "1.0"]
    assert [words for _, words in axis_over([3.0, 4000.0], log=True).ticks(5)] == ["10.0", "100", "1,000"]
    assert [words for _, words in Axis(-30.0, 30.0).ticks(4)] == ["−20", "0", "20"]


@pytest.mark.parametrize(
    ("cell", "kind", "shown"),
    [
        (None, "number", "–"), (0.314, "share", "31.4 %"), (2.5, "signed", "+2.50"), (-2.5, "number", "−2.50"),
        (" Paris", "token", "·Paris"), ("\x1b[31m", "text", "␛[31m"), (12345, "count", "12,345"), (-3, "count", "−3"),
        (float("nan"), "number", "NaN"), (float("-inf"), "signed", "−∞"), (1e300, "number", "1.00e+300"),
        (10**400, "signed", "1.00e+400"), ("", "text", ""),
    ],
)  # fmt: skip
def test_cells_read_as_what_they_are(cell: Cell, kind: ColumnKind, shown: str) -> None:
    assert cell_words(cell, Column("c", kind)) == shown


# --- colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_series_differ_in_every_terminal(palette: Palette) -> None:
    for system in (ColorSystem.STANDARD, ColorSystem.EIGHT_BIT):
        seen = {Color.parse(colour).downgrade(system).number for colour in palette.series}
        assert len(seen) == len(palette.series) == 6
