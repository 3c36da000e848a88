"""Feature cards on disk: everything known about each feature from held-out text, compact and read a few rows at a time.

`cards.db` beside a dictionary's weights is an SQLite file: features in blocks of 64, each block one xz stream of
numpy columns. Contexts are positions in a shared `corpus.db` of token ids beside it or one folder up, so text that
many features share is stored once. Neither holds any text, so reading a card needs the model's tokenizer.
"""

from __future__ import annotations

import json
import lzma
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DictionaryMissing

CARDS = "cards.db"
CORPUS = "corpus.db"
BLOCK = 64
CONTEXTS = 10
BEFORE, AFTER = 14, 7
WINDOW = BEFORE + 1 + AFTER
PROMOTED = 10
BINS = 16
_CHUNK = 1 << 15
_LEVELS = 31
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


@dataclass
class Columns:
    """The cards of consecutive features as arrays; the first axis is the feature."""

    density: NDArray[np.float32]
    """[n] share of counted tokens on which it fires."""
    maximum: NDArray[np.float32]
    """[n] largest activation."""
    histogram: NDArray[np.uint32]
    """[n, 16] counts of positive activations in equal bins from 0 to the maximum."""
    peaks: NDArray[np.uint32]
    """[n, 10] corpus position of each context's strongest token; 0xFFFFFFFF for none."""
    strength: NDArray[np.uint8]
    """[n, 10] activation there as a share of the maximum in 255 steps."""
    window: NDArray[np.uint8]
    """[n, 10, 22] activations around the peak as a share of the maximum in 31 steps."""
    promoted: NDArray[np.uint32]
    """[n, 20] ten token ids whose logits the decoder row raises most, then ten it lowers most."""
    effect: NDArray[np.float16]
    """[n, 20] those logit changes per unit of activation."""

    NO_CONTEXT = 0xFFFFFFFF

    def encode(self) -> bytes:
        """One xz stream: columns after one another, bytes of equal weight together."""
        parts = []
        for name, dtype in _LAYOUT:
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            flat = array.view(np.uint8).reshape(-1, array.itemsize)
            parts.append(flat.T.tobytes())
        return lzma.compress(b"".join(parts), format=lzma.FORMAT_RAW, filters=_FILTERS)

    @classmethod
    def decode(cls, data: bytes, count: int) -> Columns:
        raw = lzma.decompress(data, format=lzma.FORMAT_RAW, filters=_FILTERS)
        arrays, offset = {}, 0
        for name, dtype in _LAYOUT:
            shape = (count, *_SHAPES[name])
            size = int(np.prod(shape))
            width = np.dtype(dtype).itemsize
            planes = np.frombuffer(raw, np.uint8, size * width, offset).reshape(width, size)
            arrays[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
            offset += size * width
        return cls(**arrays)


_LAYOUT = (
    ("density", "<f4"),
    ("maximum", "<f4"),
    ("histogram", "<u4"),
    ("peaks", "<u4"),
    ("strength", "u1"),
    ("window", "u1"),
    ("promoted", "<u4"),
    ("effect", "<f2"),
)
_SHAPES: dict[str, tuple[int, ...]] = {
    "density": (),
    "maximum": (),
    "histogram": (BINS,),
    "peaks": (CONTEXTS,),
    "strength": (CONTEXTS,),
    "window": (CONTEXTS, WINDOW),
    "promoted": (2 * PROMOTED,),
    "effect": (2 * PROMOTED,),
}


def quantise(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares of the maximum in [0, 1] → 31 levels, rounded up so that what fires is never shown as silent."""
    return np.ceil(np.clip(share, 0, 1) * _LEVELS).astype(np.uint8)


@dataclass(frozen=True)
class StoredContext:
    """Token ids around a peak, their activations, and the name of the text they come from."""

    origin: str
    ids: tuple[int, ...]
    values: tuple[float, ...]
    peak: int


@dataclass(frozen=True)
class StoredCard:
    """One feature's card with token ids instead of text."""

    density: float
    maximum: float
    histogram: tuple[int, ...]
    contexts: tuple[StoredContext, ...]
    promotes: tuple[tuple[int, float], ...]
    suppresses: tuple[tuple[int, float], ...]
    corpus_tokens: int


@contextmanager
def _open(file: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    mode = "rwc" if write else "ro&immutable=1"
    connection = sqlite3.connect(f"file:{file}?mode={mode}", uri=True)
    try:
        yield connection
        if write:
            connection.commit()
            connection.execute("VACUUM")
    finally:
        connection.close()


# --- writing ------------------------------------------------------------------------------------------------------


def write_cards(folder: Path, columns: Columns, peak_ids: NDArray[np.uint32], corpus_tokens: int) -> None:
    """Write `cards.db`; the file appears whole or not at all.

    `peak_ids` [n, 3] are the commonest tokens at the peaks of each feature, NO_CONTEXT for fewer.
    """
    partial = folder / (CARDS + ".partial")
    partial.unlink(missing_ok=True)
    count = len(columns.density)
    with _open(partial, write=True) as db:
        db.execute("PRAGMA page_size = 1024")
        db.execute("CREATE TABLE meta (value TEXT, peaks BLOB)")
        db.execute("CREATE TABLE blocks (start INTEGER PRIMARY KEY, data BLOB)")
        meta = json.dumps({"features": count, "corpus_tokens": corpus_tokens})
        db.execute("INSERT INTO meta VALUES (?, ?)", (meta, lzma.compress(_planes(peak_ids))))
        for start in range(0, count, BLOCK):
            part = Columns(**{name: getattr(columns, name)[start : start + BLOCK] for name, _ in _LAYOUT})
            db.execute("INSERT INTO blocks VALUES (?, ?)", (start, part.encode()))
    partial.replace(folder / CARDS)


def write_corpus(folder: Path, ids: NDArray[np.uint32], starts: list[tuple[int, str]]) -> None:
    """Write `corpus.db`: token ids in chunks, and where each context begins and what text it is from."""
    partial = folder / (CORPUS + ".partial")
    partial.unlink(missing_ok=True)
    names = sorted({name for _, name in starts})
    numbers = {name: number for number, name in enumerate(names)}
    table = np.array([(start, numbers[name]) for start, name in starts], dtype="<u4").reshape(-1, 2)
    with _open(partial, write=True) as db:
        db.execute("CREATE TABLE meta (names TEXT, starts BLOB)")
        db.execute("CREATE TABLE chunks (start INTEGER PRIMARY KEY, data BLOB)")
        db.execute("INSERT INTO meta VALUES (?, ?)", (json.dumps(names), lzma.compress(table.T.tobytes())))
        for start in range(0, len(ids), _CHUNK):
            db.execute(
                "INSERT INTO chunks VALUES (?, ?)",
                (start, lzma.compress(_planes(ids[start : start + _CHUNK]))),
            )
    partial.replace(folder / CORPUS)


def _planes(ids: NDArray[np.uint32]) -> bytes:
    """32-bit numbers with bytes of equal weight together, which compresses better."""
    return np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _from_planes(data: bytes) -> NDArray[np.uint32]:
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(4, -1).T).view("<u4").reshape(-1)


# --- reading ------------------------------------------------------------------------------------------------------


def has_cards(folder: Path) -> bool:
    return (folder / CARDS).is_file()


def read_card(folder: Path, index: int) -> StoredCard:
    """The card of one feature.

    Raises:
        DictionaryMissing: there are no cards, or their file is damaged.
    """
    file = folder / CARDS
    try:
        count, corpus_tokens = _meta(file, file.stat().st_mtime_ns)
        start = index // BLOCK * BLOCK
        with _open(file) as db:
            row = db.execute("SELECT data FROM blocks WHERE start = ?", (start,)).fetchone()
        columns = Columns.decode(row[0], min(BLOCK, count - start))
    except (OSError, sqlite3.Error, lzma.LZMAError, TypeError, ValueError) as error:
        raise DictionaryMissing(
            f"{file} cannot be read: {error}.", "Delete it: cards are optional. `saescope train` makes them."
        ) from None
    at = index - start
    maximum = float(columns.maximum[at])
    effects = [(int(i), float(v)) for i, v in zip(columns.promoted[at], columns.effect[at], strict=True)]
    return StoredCard(
        density=float(columns.density[at]),
        maximum=maximum,
        histogram=tuple(map(int, columns.histogram[at])),
        contexts=tuple(_contexts(folder, columns, at, maximum)),
        promotes=tuple(effects[:PROMOTED]),
        suppresses=tuple(effects[PROMOTED:]),
        corpus_tokens=corpus_tokens,
    )


def peak_tokens(folder: Path, index: int) -> list[int]:
    """The commonest tokens at a feature's peaks, at most three."""
    file = folder / CARDS
    try:
        row = _peak_table(file, file.stat().st_mtime_ns)[index]
    except (OSError, sqlite3.Error, lzma.LZMAError, ValueError):
        return []
    return [token for token in row.tolist() if token != Columns.NO_CONTEXT]


@lru_cache(maxsize=64)
def _peak_table(file: Path, _changed: int) -> NDArray[np.uint32]:
    with _open(file) as db:
        data = db.execute("SELECT peaks FROM meta").fetchone()[0]
    return _from_planes(lzma.decompress(data)).reshape(-1, 3)


@lru_cache(maxsize=64)
def _meta(file: Path, _changed: int) -> tuple[int, int]:
    with _open(file) as db:
        meta = json.loads(db.execute("SELECT value FROM meta").fetchone()[0])
    return meta["features"], meta["corpus_tokens"]


def _contexts(folder: Path, columns: Columns, at: int, maximum: float) -> Iterator[StoredContext]:
    corpus = next((f for f in (folder / CORPUS, folder.parent / CORPUS) if f.is_file()), None)
    if corpus is None:
        return
    changed = corpus.stat().st_mtime_ns
    starts, origins, names = _starts(corpus, changed)
    rows = zip(columns.peaks[at].tolist(), columns.strength[at].tolist(), columns.window[at], strict=True)
    for peak, strength, levels in rows:
        if peak == Columns.NO_CONTEXT:
            continue
        place = int(np.searchsorted(starts, peak, "right")) - 1
        first = max(peak - BEFORE, int(starts[place]))
        end = int(starts[place + 1]) if place + 1 < len(starts) else 1 << 62
        last = min(peak + AFTER + 1, end)
        ids = _tokens(corpus, changed, first, last)
        shares = levels[first - peak + BEFORE :][: len(ids)].astype(np.float32) / _LEVELS
        shares[peak - first] = strength / 255
        yield StoredContext(
            origin=names[int(origins[place])],
            ids=tuple(ids),
            values=tuple((shares * maximum).tolist()),
            peak=peak - first,
        )


@lru_cache(maxsize=8)
def _starts(corpus: Path, _changed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], list[str]]:
    with _open(corpus) as db:
        names, data = db.execute("SELECT names, starts FROM meta").fetchone()
    table = np.frombuffer(lzma.decompress(data), "<u4").reshape(2, -1)
    return table[0], table[1], json.loads(names)


def _tokens(corpus: Path, changed: int, first: int, last: int) -> list[int]:
    ids: list[int] = []
    while first < last:
        start = first // _CHUNK * _CHUNK
        chunk = _chunk(corpus, changed, start)
        piece = chunk[first - start : last - start]
        if not len(piece):
            break
        ids += piece.tolist()
        first += len(piece)
    return ids


@lru_cache(maxsize=32)
def _chunk(corpus: Path, _changed: int, start: int) -> NDArray[np.uint32]:
    with _open(corpus) as db:
        row = db.execute("SELECT data FROM chunks WHERE start = ?", (start,)).fetchone()
    if row is None:
        return np.zeros(0, np.uint32)
    return _from_planes(lzma.decompress(row[0]))
