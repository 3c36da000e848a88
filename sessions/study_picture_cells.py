"""Cells of tables, as the numbers and the words that a picture shows."""

from __future__ import annotations

import math

from engine.study_results import Cell, Column, Table
from engine.text import visible, visible_token
from sessions.study_picture_scale import number

NUMBERS = frozenset({"number", "signed", "count", "share"})
"""Kinds of columns whose cells are numbers."""


class NothingToDraw(Exception):
    """Why a plot has nothing to show, in a few words."""


class Cells:
    """A column and its cells, as long as the table is even where rows are cut short."""

    def __init__(self, table: Table, place: int) -> None:
        self.column: Column = table.columns[place]
        self.all: list[Cell] = [row[place] if place < len(row) else None for row in table.rows]
        self.numbers: list[float | None] = [numeric(cell) for cell in self.all]
        self.name = visible(self.column.name) or "∅"

    def words(self, row: int) -> str:
        """A cell as it names a bar, a point or a group: never empty."""
        return words_of(self.all[row], self.column)

    def value(self, row: int) -> str:
        """A cell as a number in three digits, with its sign where the column says so; a dash for none."""
        value = self.numbers[row]
        return "–" if value is None else signed(value, self.column)


def cells_of(table: Table, name: str | None) -> Cells | None:
    """A column by its name; None where the table has none of this name."""
    place = next((n for n, column in enumerate(table.columns) if column.name == name), None)
    return None if place is None else Cells(table, place)


def needed(table: Table, *names: str) -> list[Cells]:
    """The columns of these names that there are.

    Raises:
        NothingToDraw: the table has no rows, or none of these columns.
    """
    if not table.rows:
        raise NothingToDraw("the table has no rows")
    found = [cells for name in dict.fromkeys(names) if (cells := cells_of(table, name)) is not None]
    if not found:
        raise NothingToDraw(f"the table has no column {' or '.join(map(visible, names)) or 'to draw'}")
    return found


def numeric(cell: Cell) -> float | None:
    """A cell as a number that has a place; None for text, for nothing, and for what is not finite."""
    if cell is None or isinstance(cell, str):
        return None
    try:
        value = float(cell)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def words_of(cell: Cell, column: Column) -> str:
    """A cell in words, safe to show: three digits of a number, `∅` for an empty text, a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return visible_token(cell) if column.kind == "token" else visible(cell) or "∅"
    if isinstance(cell, int) and abs(cell) < 10**12:
        return f"{cell:,}".replace("-", "−")
    value = numeric(cell)
    if value is None:
        return number(cell) if isinstance(cell, float) else "a number beyond all floats"
    return signed(value, column)


def signed(value: float, column: Column) -> str:
    """Three digits, and the sign of a number whose sign matters."""
    return f"+{number(value)}" if column.kind == "signed" and value > 0 else number(value)
