"""Cells of tables as words and as numbers."""

from __future__ import annotations

import math

from engine.protocol import BadRequest, Cell, Column, FeatureRef, Table, parse_feature
from tui.text import number, percent, visible, visible_token

NUMBERS = frozenset({"number", "signed", "count", "share"})
"""Kinds of columns that are aligned right."""
_LONG = 1e9
"""From this size on numbers are written with an exponent."""


def numeric(cell: Cell) -> float | None:
    """A cell as a number that can be drawn; None for text, for nothing, and for what is not finite."""
    if cell is None or isinstance(cell, str):
        return None
    try:
        value = float(cell)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def short(value: float) -> str:
    """Three significant digits in at most nine cells, whatever the size."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.2e}".replace("-", "−", 1) if abs(value) >= _LONG else number(value)


def short_signed(value: float) -> str:
    """As `short`, with its sign."""
    return f"+{short(value)}" if value > 0 else short(value)


def cell_words(cell: Cell, column: Column) -> str:
    """A cell as one reads it: signs where a sign can be, shares in percent, a dash for what does not exist."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return visible_token(cell) if column.kind == "token" else visible(cell)
    if isinstance(cell, int) and (column.kind in {"count", "text", "number", "feature", "source", "token"}):
        return f"{cell:,}".replace("-", "−") if abs(cell) < 10**12 else _huge(cell)
    try:
        value = float(cell)
    except OverflowError:
        return _huge(int(cell))
    if not math.isfinite(value):
        return short(value)
    if column.kind == "share":
        return percent(value) if abs(value) < _LONG else short(value)
    return short_signed(value) if column.kind == "signed" else short(value)


def _huge(value: int) -> str:
    digits = str(abs(value)) if abs(value) < 10**4000 else ""
    size = f"{digits[0]}.{digits[1:3]}e+{len(digits) - 1}" if digits else "more than 1e+4000"
    return f"−{size}" if value < 0 else size


def cell_name(cell: Cell, column: Column) -> str:
    """A cell where it names a point, a bar or a group: never empty."""
    return cell_words(cell, column) or "∅"


def column_of(table: Table, name: str | None) -> tuple[Column, tuple[Cell, ...]] | None:
    """A column and its cells; None where the table has none of this name."""
    place = next((n for n, column in enumerate(table.columns) if column.name == name), None)
    if place is None:
        return None
    return table.columns[place], tuple(row[place] if place < len(row) else None for row in table.rows)


def feature_in(cell: Cell) -> FeatureRef | None:
    """A cell `SOURCE:INDEX` as the feature it names."""
    if not isinstance(cell, str):
        return None
    try:
        return parse_feature(cell)
    except BadRequest:
        return None


def feature_place(table: Table, prefer: str | None = None) -> int | None:
    """Which column holds the feature a row is about: the preferred one, or the first there is."""
    places = [n for n, column in enumerate(table.columns) if column.kind == "feature"]
    named = [n for n in places if table.columns[n].name == prefer]
    return next(iter(named + places), None)
