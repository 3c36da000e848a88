"""The store of labels: one SQLite file with full-text search, shared by all saescope processes of a user.

A place is a dictionary by the names its labels are kept under: Neuronpedia's model and source, or the model's own name
and the source's where there are no pages. Every call opens the file anew, so that a store may be used from any thread
and follows what other processes write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from engine import paths
from engine.errors import BadRequest
from engine.labels import database, own
from engine.labels.counting import Counted, counted, recount
from engine.labels.database import LabelsUnusable
from engine.labels.filling import Filling
from engine.labels.own import OWN_KEY, OwnLabel
from engine.labels.rows import LARGEST_INDEX
from engine.labels.similar import Found, nearest
from engine.labels.words import match_expression
from engine.results import Label

Place = tuple[str, str]
"""Model and source."""

_ORDER = "labels.key != 0, labels.kind = 'notes', labels.author, labels.kind, labels.text"
"""The user's own first; the rest in an order that does not depend on when it was imported."""
_AT_ONCE = 500


class LabelStore:
    """Labels of features, and the user's own beside them."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or paths.data_dir() / "labels.db"
        self._own = database.own_file(self.file)

    # --- looking up ---------------------------------------------------------------------------------------------

    def labels(self, model: str, source: str, index: int) -> tuple[Label, ...]:
        """All labels of a feature, the user's own first."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT text, author, labels.kind FROM labels JOIN places ON places.id = place "
                f"WHERE model = ? AND source = ? AND idx = ? ORDER BY {_ORDER}",
                (model, source, _whole(index)),
            )
            return tuple(Label(*row) for row in found)

    def best(self, model: str, source: str, indices: Iterable[int]) -> dict[int, str]:
        """The first label of every feature that has one."""
        wanted = [index for index in dict.fromkeys(indices) if 0 <= index <= LARGEST_INDEX]
        best: dict[int, str] = {}
        with self._reading() as connection:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                found = connection.execute(
                    "SELECT idx, text FROM labels WHERE place = (SELECT id FROM places WHERE model = ? AND source = ?) "
                    f"AND idx IN ({_marks(part)}) ORDER BY {_ORDER}",
                    (model, source, *part),
                )
                for index, text in found:
                    best.setdefault(index, text)
        return best

    def search(self, query: str, places: Sequence[Place] | None = None, top: int = 50) -> tuple[list[Found], int]:
        """The labels with all words of a query, best first, and how many there are; None as places means all.

        Words in quotes belong together, and the last word may be a beginning. Ranked by bm25, the user's own first
        among equals.
        """
        expression = match_expression(query)
        with self._reading() as connection:
            numbers = self._numbers(connection, places)
            if expression is None or numbers == []:
                return [], 0
            matching = (
                "FROM words JOIN labels ON labels.id = words.rowid JOIN places ON places.id = labels.place "
                "WHERE words MATCH ?" + (f" AND labels.place IN ({_marks(numbers)})" if numbers else "")
            )
            arguments = (expression, *(numbers or ()))
            found = connection.execute(
                "SELECT model, source, idx, labels.text, author, labels.kind, -words.rank "
                f"{matching} ORDER BY words.rank, {_ORDER}, model, source, idx LIMIT ?",
                (*arguments, max(top, 0)),
            )
            hits = [Found(model, source, index, Label(*label), score) for model, source, index, *label, score in found]
            total: int = connection.execute(f"SELECT count(*) {matching}", arguments).fetchone()[0]
            return hits, total

    def like(
        self, model: str, source: str, index: int, places: Sequence[Place] | None = None, top: int = 50
    ) -> tuple[str, list[Found], int]:
        """A feature's label, the features whose labels mean something near it, and how many were compared.

        Near is the cosine of the embeddings that came with the labels.

        Raises:
            BadRequest: no label of the feature came with an embedding.
        """
        with self._reading() as connection:
            given = connection.execute(
                "SELECT text, vector, place, idx FROM labels JOIN places ON places.id = place "
                f"WHERE model = ? AND source = ? AND idx = ? AND vector IS NOT NULL ORDER BY {_ORDER}",
                (model, source, _whole(index)),
            ).fetchone()
            if given is None:
                name, labelled = f"{model}@{source}:{index}", self.labels(model, source, index)
                raise BadRequest(
                    f"No label of {name} came with an embedding to compare."
                    if labelled
                    else f"{name} has no label, and so no embedding to compare.",
                    f"`saescope get labels {model}/{source}` fetches Neuronpedia's labels with theirs.",
                )
            text, vector, *feature = given
            numbers = self._numbers(connection, places)
            if numbers is None:
                numbers = [number for (number,) in connection.execute("SELECT id FROM places WHERE embeddings")]
            hits, total = nearest(connection, vector, (feature[0], feature[1]), numbers, max(top, 0))
            return text, hits, total

    def counts(self) -> list[Counted]:
        """Every place that has labels: how many, and where they are from."""
        with self._reading() as connection:
            return counted(connection)

    def labelled(self, places: Iterable[Place]) -> dict[Place, int]:
        """How many features of each place have a label; places without any are left out."""
        with self._reading() as connection:
            found: dict[Place, int] = {}
            for place in places:
                row = connection.execute(
                    "SELECT features FROM places WHERE model = ? AND source = ? AND features", place
                ).fetchone()
                if row:
                    found[place] = row[0]
            return found

    def models_with(self, source: str) -> list[str]:
        """The models that have labels under a source of this name."""
        with self._reading() as connection:
            found = connection.execute("SELECT model FROM places WHERE source = ? AND labels ORDER BY model", (source,))
            return [model for (model,) in found]

    # --- filling ------------------------------------------------------------------------------------------------

    @contextmanager
    def filling(self, origin: str) -> Iterator[Filling]:
        """Put labels of one origin in, in place of what came from it before; where anything is raised, nothing is done.

        Raises:
            LabelsUnusable: the file is damaged or busy, or cannot be written.
        """
        with self._writing() as connection:
            filling = Filling(connection, origin, datetime.now(UTC).isoformat(timespec="seconds"))
            yield filling
            filling.finish()

    def forget(self, model: str, source: str) -> int:
        """Take away the labels of a place that are not the user's own; returns how many there were."""
        with self._writing() as connection:
            gone = connection.execute(
                "DELETE FROM labels WHERE place = (SELECT id FROM places WHERE model = ? AND source = ?) AND key != ?",
                (model, source, OWN_KEY),
            ).rowcount
            recount(connection, [own.place_id(connection, model, source)])
            return gone

    # --- the user's own -----------------------------------------------------------------------------------------

    def set_user(self, model: str, source: str, index: int, text: str) -> None:
        """Keep the user's own label of a feature; "" takes it away."""
        self.set_own([OwnLabel(model, source, index, text.strip())])

    def set_own(self, rows: Iterable[OwnLabel]) -> None:
        """Keep several at once."""
        kept = list(rows)
        for row in kept:
            if not row.model or not row.source or not 0 <= row.index <= LARGEST_INDEX:
                raise BadRequest(f"{row.model}@{row.source}:{row.index} is not a feature.", "Write MODEL@SOURCE:INDEX.")
        with self._writing() as connection:
            recount(connection, {own.keep(connection, row) for row in kept})
            own.append(connection, self._own, kept)

    def own_labels(self) -> list[OwnLabel]:
        """All of the user's own labels."""
        with self._reading() as connection:
            return own.stored(connection)

    def export_user(self) -> str:
        """The user's own labels as JSON lines, which `saescope labels import` reads."""
        return own.written(self.own_labels())

    # --- the file -----------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection; an empty store in memory where there is no file."""
        with database.reading(self.file) as connection:
            if connection is not None and own.in_step(connection, self._own):
                yield connection
                return
            there = connection is not None
        if there or self._own.is_file():
            self._restore()
        with database.reading(self.file) as connection:
            if connection is not None:
                yield connection
                return
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
            database.create(memory)
            recount(memory, own.replay(memory, self._own))
            yield memory

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with database.writing(self.file) as connection:
            if not own.in_step(connection, self._own):
                recount(connection, own.settle(connection, self._own))
            yield connection

    def _restore(self) -> None:
        """Bring the user's own labels, which lie beside the store, back into it, where it can be written."""
        with suppress(LabelsUnusable, OSError), self._writing():
            pass

    @staticmethod
    def _numbers(connection: sqlite3.Connection, places: Sequence[Place] | None) -> list[int] | None:
        if places is None:
            return None
        rows = (
            connection.execute("SELECT id FROM places WHERE model = ? AND source = ?", place).fetchone()
            for place in dict.fromkeys(places)
        )
        return [row[0] for row in rows if row]


def _marks(values: Sequence[int]) -> str:
    return ",".join("?" * len(values))


def _whole(index: int) -> int:
    return index if 0 <= index <= LARGEST_INDEX else -1
