"""What tests of plots share: a small table, and the colours to draw it in."""

from __future__ import annotations

from typing import cast

from engine.protocol import Cell, Column, Table
from engine.study_results import ColumnKind
from tui.plots.paint import paint

PAINT = paint()


def table(columns: str, *rows: tuple[Cell, ...], total: int | None = None) -> Table:
    """`name:kind name:kind …` and rows; what has no kind is text."""
    return Table("t", "A table", tuple(map(_column, columns.split())), rows, total)


def _column(said: str) -> Column:
    name, _, kind = said.partition(":")
    return Column(name, cast(ColumnKind, kind)) if kind else Column(name)
