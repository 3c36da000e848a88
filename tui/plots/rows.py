"""Which row of a table that has grown is the row one looked at: results are ranked anew, and rows come in above."""

from __future__ import annotations

from collections.abc import Sequence

from engine.protocol import Table

_WORDS = frozenset({"text", "token", "feature", "source"})
"""Kinds of columns that say what a row is about; numbers change as a result grows."""


def same_row(before: Table, row: int, table: Table, name: str | None) -> int | None:
    """Where a row of an older form of a table stands now; None where it is gone.

    A row is told by its cell in the column `name`; where there is no such column, by its words, or else by its first
    cell. Of several the one with most cells alike is meant, and of those alike the one that has as many before it.
    """
    if not 0 <= row < len(before.rows):
        return None
    old = before.rows[row]
    if row < len(table.rows) and table.rows[row] == old:
        return row
    places = {column.name: n for n, column in enumerate(table.columns)}
    pairs = [(n, places[column.name]) for n, column in enumerate(before.columns) if column.name in places]
    words = [(n, m) for n, m in pairs if before.columns[n].kind in _WORDS]
    named = [(n, m) for n, m in pairs if before.columns[n].name == name]
    for keys in [named] if named else [words, pairs[:1]]:
        found = [k for k, cells in enumerate(table.rows) if all(cells[m] == old[n] for n, m in keys)] if keys else []
        if found:
            return _likest(before, row, table, found, keys, [words, pairs])
    return None


def _likest(
    before: Table,
    row: int,
    table: Table,
    found: Sequence[int],
    keys: Sequence[tuple[int, int]],
    told_by: Sequence[Sequence[tuple[int, int]]],
) -> int:
    """The one of several rows with the same name that has most words alike, then most cells, then the same turn."""
    if len(found) == 1:
        return found[0]
    old = before.rows[row]
    likeness = {
        k: tuple(sum(table.rows[k][m] == old[n] for n, m in pairs) for pairs in told_by) for k in found
    }  # fmt: skip
    most = max(likeness.values())
    turn = sum(all(cells[n] == old[n] for n, _ in keys) for cells in before.rows[:row])
    likest = [k for k in found if likeness[k] == most]
    if len(likest) == len(found):
        return found[min(turn, len(found) - 1)]
    return likest[min(sum(before.rows[k] == old for k in range(row)), len(likest) - 1)]
