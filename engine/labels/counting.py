"""How many labels there are of which dictionary, and where they are from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from engine.labels.own import BY


class Origin(msgspec.Struct, frozen=True):
    """What was imported in one go."""

    name: str
    """A file, an address, or `you`."""
    labels: int
    added: str = ""
    """When, as ISO 8601 in UTC."""


class Counted(msgspec.Struct, frozen=True):
    """The labels of one dictionary."""

    model: str
    source: str
    features: int
    """How many features have a label."""
    labels: int
    embeddings: int
    """How many labels came with an embedding."""
    own: int
    """How many are the user's."""
    origins: tuple[Origin, ...]


def counted(connection: sqlite3.Connection) -> list[Counted]:
    """Every place that has labels, by name."""
    origins: dict[int, list[Origin]] = {}
    found = connection.execute(
        "SELECT place, name, count(*), added FROM labels LEFT JOIN origins ON origins.id = origin "
        "GROUP BY place, origin ORDER BY place, name IS NOT NULL, name"
    )
    for place, name, labels, added in found:
        origins.setdefault(place, []).append(Origin(name or BY, labels, added or ""))
    rows = connection.execute(
        "SELECT id, model, source, features, labels, embeddings FROM places WHERE labels ORDER BY model, source"
    )
    return [
        Counted(
            model, source, features, labels, embeddings, sum(o.labels for o in origins[place] if not o.added),
            tuple(origins[place]),
        )
        for place, model, source, features, labels, embeddings in rows
    ]  # fmt: skip


def recount(connection: sqlite3.Connection, places: Iterable[int]) -> None:
    """Note how many labels these places have now, and forget places and origins that have none."""
    for place in places:
        connection.execute(
            "UPDATE places SET features = (SELECT count(DISTINCT idx) FROM labels WHERE place = :place), "
            "labels = (SELECT count(*) FROM labels WHERE place = :place), "
            "embeddings = (SELECT count(*) FROM labels WHERE place = :place AND vector IS NOT NULL) WHERE id = :place",
            {"place": place},
        )
    connection.execute("DELETE FROM places WHERE NOT labels")
    connection.execute("DELETE FROM origins WHERE NOT EXISTS (SELECT 1 FROM labels WHERE origin = origins.id)")
