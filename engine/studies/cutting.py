"""Tables that may be long: cut where they would be too large to travel, and saying so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.studies.parts import table
from engine.study_results import Column, Table

MOST_ROWS = 20_000
"""Rows of any table: a result goes over a pipe, and into the session, as JSON."""


def cut_table(
    name: str, title: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], total: int | None = None
) -> Table:
    """A table of at most `MOST_ROWS`; its total is told only where rows are missing.

    Args:
        total: how many rows there are, where `rows` are but some; counted otherwise.
    """
    every = list(rows)
    shown, total = every[:MOST_ROWS], len(every) if total is None else total
    return table(name, title, columns, shown, total if total > len(shown) else None)
