"""The file of all labels: its tables, how it is opened, and what is said when it is damaged, busy or not writable."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from engine.errors import SaescopeError
from engine.paths import private_directory

VERSION = 1
PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

# `key` tells the labels of a feature apart; 0 is the user's own. `vector` is an embedding as float16.
_SCHEMA = """
CREATE TABLE places (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, source TEXT NOT NULL,
    features INTEGER NOT NULL DEFAULT 0, labels INTEGER NOT NULL DEFAULT 0, embeddings INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, source)
);
CREATE TABLE origins (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, added TEXT NOT NULL);
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, place INTEGER NOT NULL, idx INTEGER NOT NULL, key INTEGER NOT NULL,
    origin INTEGER, text TEXT NOT NULL, author TEXT NOT NULL, kind TEXT NOT NULL, vector BLOB,
    UNIQUE (place, idx, key)
);
CREATE INDEX labels_origin ON labels (origin, place);
CREATE INDEX labels_vector ON labels (place) WHERE vector IS NOT NULL;
CREATE TABLE own (bytes INTEGER NOT NULL);
INSERT INTO own VALUES (0);
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'labels', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER labels_in AFTER INSERT ON labels BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER labels_out AFTER DELETE ON labels BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE TRIGGER labels_new AFTER UPDATE OF text ON labels WHEN old.text IS NOT new.text BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
"""


class LabelsUnusable(SaescopeError):
    """The file of labels is damaged, busy, from a newer version, or cannot be written."""

    kind = "labels"


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that only reads; None where nothing was ever stored. Never creates the file.

    Raises:
        LabelsUnusable: it is damaged, busy, or from a newer version.
    """
    if not file.is_file() or not file.stat().st_size:
        yield None
        return
    with told(file), closing(_open_to_read(file)) as connection:
        yield connection if _version(connection, file) else None


@contextmanager
def writing(file: Path) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it happens, or, where anything is raised, nothing. Creates the file.

    Raises:
        LabelsUnusable: it is damaged, busy, from a newer version, or cannot be written.
    """
    with told(file), _created(file) as connection:
        _settle(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _version(connection, file):
                create(connection)
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def create(connection: sqlite3.Connection) -> None:
    """Make the tables inside the transaction that is under way."""
    for statement in _statements(_SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def told(file: Path) -> Iterator[None]:
    """SQLite's errors in words, with the way out."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such" in str(error):
            raise LabelsUnusable(
                f"{file} is damaged ({error}).",
                f"Delete it and import or get its labels again; your own are kept in {own_file(file).name} beside it "
                "and come back by themselves.",
            ) from None
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LabelsUnusable(
                f"{file} has been in use by another saescope for {PATIENCE:.0f} s.", "Try again when it has finished."
            ) from None
        if code in (
            sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
        ):  # fmt: skip
            raise LabelsUnusable(
                f"{file} cannot be used: {error}.", "Make room and check who may write there, or set SAESCOPE_DATA."
            ) from None
        raise
    except OSError as error:
        raise LabelsUnusable(
            f"{error.filename or file} cannot be used: {error.strerror}.", "Check who may write there."
        ) from None


def own_file(file: Path) -> Path:
    """Where the user's own labels are kept besides: JSON lines that only ever grow."""
    return file.with_name("own-labels.jsonl")


def _created(file: Path) -> closing[sqlite3.Connection]:
    private_directory(file.parent)
    return closing(sqlite3.connect(file, timeout=PATIENCE, isolation_level=None))


def _open_to_read(file: Path) -> sqlite3.Connection:
    """A connection that only reads; where the folder may not be written either, one that needs no files beside it."""
    address = file.absolute().as_uri()
    try:
        return _probed(f"{address}?mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        return _probed(f"{address}?immutable=1")


def _probed(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None)
    _settle(connection)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _settle(connection: sqlite3.Connection) -> None:
    connection.text_factory = lambda data: data.decode("utf-8", "replace")


def _version(connection: sqlite3.Connection, file: Path) -> int:
    """The version of the tables; 0 where there are none yet."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise LabelsUnusable(
            f"{file} was written by a newer saescope.", "Update this one, or set SAESCOPE_DATA to another folder."
        )
    return version


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
