"""The user's own labels: rows of the store, and the same as JSON lines beside it, which outlive it.

Every change is appended to the file in the transaction that makes it. Where the file and the store have come apart
(the store was deleted as damaged, a process died between the two, somebody edited the file) the file is right, and
what only the store has is added to it. Lines are never taken out of it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.labels.rows import LARGEST_INDEX, stored_text

OWN_KEY = 0
BY = "you"


class OwnLabel(msgspec.Struct, frozen=True):
    """A line of the file, and of what is exported; "" as text takes the label away."""

    model: str
    source: str
    index: int
    text: str


def own_rows(lines: Iterable[bytes]) -> Iterator[OwnLabel | None]:
    """The labels in JSON lines; None for a line that is none."""
    for line in lines:
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=OwnLabel)
        except (msgspec.DecodeError, RecursionError):
            yield None
            continue
        yield row if row.model and row.source and 0 <= row.index <= LARGEST_INDEX else None


def written(rows: Iterable[OwnLabel]) -> str:
    """JSON lines."""
    return "".join(msgspec.json.encode(row).decode() + "\n" for row in rows)


def stored(connection: sqlite3.Connection) -> list[OwnLabel]:
    """All of the user's labels in the store."""
    found = connection.execute(
        "SELECT model, source, idx, text FROM labels JOIN places ON places.id = place WHERE key = ? "
        "ORDER BY model, source, idx",
        (OWN_KEY,),
    )
    return [OwnLabel(*row) for row in found]


def in_step(connection: sqlite3.Connection, file: Path) -> bool:
    """Whether the store holds what the file says, as far as the file's size tells."""
    known: int = connection.execute("SELECT bytes FROM own").fetchone()[0]
    return known == _size(file)


def settle(connection: sqlite3.Connection, file: Path) -> set[int]:
    """Bring store and file in step, inside a transaction that writes; returns the places that changed."""
    said = _last(file)
    missing = [row for row in stored(connection) if (row.model, row.source, row.index) not in said]
    changed = replay(connection, file)
    append(connection, file, missing)
    return changed


def replay(connection: sqlite3.Connection, file: Path) -> set[int]:
    """Put into the store what the file says; returns the places that changed."""
    return {keep(connection, row) for row in _last(file).values()}


def keep(connection: sqlite3.Connection, row: OwnLabel) -> int:
    """Set or take away a label in the store; returns the place."""
    place = place_id(connection, row.model, row.source)
    if text := stored_text(row.text):
        connection.execute(
            "INSERT INTO labels (place, idx, key, text, author, kind) VALUES (?, ?, ?, ?, ?, '') "
            "ON CONFLICT (place, idx, key) DO UPDATE SET text = excluded.text",
            (place, row.index, OWN_KEY, text, BY),
        )
    else:
        connection.execute("DELETE FROM labels WHERE place = ? AND idx = ? AND key = ?", (place, row.index, OWN_KEY))
    return place


def append(connection: sqlite3.Connection, file: Path, rows: Iterable[OwnLabel]) -> None:
    """Add lines to the file and note its size in the store."""
    if lines := written(rows).encode():
        with file.open("ab") as out:
            if out.tell() and not _ends_a_line(file):
                lines = b"\n" + lines
            out.write(lines)
            out.flush()
            os.fsync(out.fileno())
        file.chmod(0o600)
    connection.execute("UPDATE own SET bytes = ?", (_size(file),))


def place_id(connection: sqlite3.Connection, model: str, source: str) -> int:
    """The number of a place, made where it is new."""
    connection.execute("INSERT OR IGNORE INTO places (model, source) VALUES (?, ?)", (model, source))
    found: Any = connection.execute("SELECT id FROM places WHERE model = ? AND source = ?", (model, source)).fetchone()
    return int(found[0])


def _last(file: Path) -> dict[tuple[str, str, int], OwnLabel]:
    """For every feature the last line about it."""
    if not file.is_file():
        return {}
    with file.open("rb") as lines:
        return {(row.model, row.source, row.index): row for row in own_rows(lines) if row}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as given:
        given.seek(-1, os.SEEK_END)
        return given.read(1) == b"\n"
