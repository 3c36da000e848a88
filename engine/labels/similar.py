"""Labels that mean something near another one, by the cosine of their embeddings."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from engine.results import Label

_CHUNK = 8_192  # embeddings at once: 12 MB where they have 256 numbers


class Found(msgspec.Struct, frozen=True):
    """A label that was found, whose it is, and how well it fits."""

    model: str
    source: str
    index: int
    label: Label
    score: float


def nearest(
    connection: sqlite3.Connection, vector: bytes, feature: tuple[int, int], places: Sequence[int], top: int
) -> tuple[list[Found], int]:
    """The features of these places whose labels are nearest to an embedding, each once, best first.

    `vector` is little-endian float16; `feature` (place and index) is whose it is and is left out. Also returns how
    many labels were compared. Memory does not grow with their number.
    """
    import numpy as np

    wanted = np.frombuffer(vector, "<f2").astype(np.float32)
    wanted /= np.linalg.norm(wanted)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    compared = 0
    for place in places:
        rows = connection.execute(
            "SELECT id, idx, vector FROM labels WHERE place = ? AND vector IS NOT NULL AND length(vector) = ?",
            (place, len(vector)),
        )
        while fetched := rows.fetchmany(_CHUNK):
            if not (chunk := [row for row in fetched if (place, row[1]) != feature]):
                continue
            ids, indices, vectors = zip(*chunk, strict=True)
            matrix = np.frombuffer(b"".join(vectors), "<f2").reshape(len(chunk), -1).astype(np.float32)
            cosines = matrix @ wanted / np.linalg.norm(matrix, axis=1)
            compared += len(chunk)
            seen: set[int] = set()
            for number in np.argsort(-cosines, kind="stable").tolist():
                key, score = (place, indices[number]), min(float(cosines[number]), 1.0)
                if len(seen) == top:
                    break
                seen.add(indices[number])
                if key not in best or score > best[key][0]:
                    best[key] = score, ids[number]
            best = dict(sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:top])
    return [_described(connection, label, score) for score, label in best.values()], compared


def _described(connection: sqlite3.Connection, label: int, score: float) -> Found:
    model, source, index, *words = connection.execute(
        "SELECT model, source, idx, text, author, labels.kind FROM labels JOIN places ON places.id = place "
        "WHERE labels.id = ?",
        (label,),
    ).fetchone()
    return Found(model, source, index, Label(*words), score)
