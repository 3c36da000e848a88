"""Labels going into the store, in batches, inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec.structs import replace

from engine.labels.counting import recount
from engine.labels.own import place_id
from engine.labels.rows import LARGEST_INDEX, Row, stored_key, stored_text

_BATCH = 1_000
# A label that another origin brought before belongs to the newest that has it.
_PUT = """
INSERT INTO labels (place, idx, key, origin, text, author, kind, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (place, idx, key) DO UPDATE SET
    origin = excluded.origin, text = excluded.text, author = excluded.author, kind = excluded.kind,
    vector = excluded.vector
"""


class Filling:
    """What `LabelStore.filling` hands out."""

    def __init__(self, connection: sqlite3.Connection, origin: str, when: str) -> None:
        self._connection = connection
        self.labels = 0
        """How many there are of this origin once all are in; one that came twice counts once."""
        self._places: dict[tuple[str, str], int] = {}
        connection.execute(
            "INSERT INTO origins (name, added) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET added = excluded.added",
            (origin, when),
        )
        self._origin: int = connection.execute("SELECT id FROM origins WHERE name = ?", (origin,)).fetchone()[0]
        emptied = connection.execute("SELECT DISTINCT place FROM labels WHERE origin = ?", (self._origin,))
        self._touched = {place for (place,) in emptied}
        connection.execute("DELETE FROM labels WHERE origin = ?", (self._origin,))

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Model and source of all labels so far."""
        return tuple(self._places)

    def add(self, rows: Iterable[Row]) -> None:
        """Add labels; where two have the same key, the last counts. Any number: they are not held in memory.

        Rows without text, or with an index that none can have, are left out.
        """
        prepared = self._prepared(rows)
        while batch := list(islice(prepared, _BATCH)):
            self._connection.executemany(_PUT, batch)

    def finish(self) -> None:
        """Bring the counts up to date."""
        found = self._connection.execute("SELECT count(*) FROM labels WHERE origin = ?", (self._origin,))
        self.labels = int(found.fetchone()[0])
        recount(self._connection, self._touched | set(self._places.values()))

    def _prepared(self, rows: Iterable[Row]) -> Iterator[tuple[object, ...]]:
        for row in rows:
            text = stored_text(row.text)
            if not text or not 0 <= row.index <= LARGEST_INDEX:
                continue
            kept = replace(row, text=text, by=stored_text(row.by), kind=stored_text(row.kind))
            place = self._place(stored_text(row.model), stored_text(row.source))
            yield place, row.index, stored_key(kept), self._origin, kept.text, kept.by, kept.kind, kept.vector

    def _place(self, model: str, source: str) -> int:
        if (found := self._places.get((model, source))) is None:
            found = self._places[model, source] = place_id(self._connection, model, source)
        return found
