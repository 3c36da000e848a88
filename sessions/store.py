"""Session files on disk: written whole or not at all, for the user alone, found again after a crash."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from engine import paths
from engine.errors import SessionError
from engine.protocol import Open
from sessions.model import SCHEMA, Owner, Session

_decoder = msgspec.json.Decoder(Session)


class _Version(msgspec.Struct):
    schema: int = 0


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_session(opening: Open) -> Session:
    """An empty session owned by this process."""
    at = now()
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Session(id=f"{stamp}-{secrets.token_hex(2)}", created=at, updated=at, opening=opening, owner=this_process())


def this_process() -> Owner:
    return Owner(os.getpid(), socket.gethostname())


def path_of(session: Session) -> Path:
    """Where a session without a path of its own is kept."""
    return paths.sessions_dir() / f"{session.id}.json"


EXAMPLES = Path(__file__).parent / "examples"


def example_or_file(path: Path) -> Path:
    """The file, or the example of that name that comes with the program."""
    example = EXAMPLES / f"{path.name}.json"
    return example if path.parent == Path() and not path.exists() and example.is_file() else path


def read_session(path: Path) -> Session:
    """The session in a file.

    Raises:
        SessionError: no such file, not a session, or one from a newer saescope.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SessionError(
            f"{path} cannot be read: {error.strerror}.", "`saescope locate` shows where sessions lie."
        ) from None
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version > SCHEMA:
            raise SessionError(f"{path} was written by a newer saescope (schema {version}).", "Upgrade saescope.")
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SessionError(f"{path} is not a saescope session: {error}.", "Give a file that saescope saved.") from None


def write_session(path: Path, session: Session) -> None:
    """Replace the file at `path` in one step.

    Raises:
        SessionError: the folder cannot be written, or a text is not Unicode; the old file is untouched.
    """
    try:
        data = msgspec.json.encode(session)
    except UnicodeEncodeError as error:
        raise SessionError(f"{path} cannot be written: a text in it is not Unicode ({error.reason}).") from None
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        paths.private_directory(path.parent)
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise SessionError(
            f"{path} cannot be written: {error.strerror}.", "Free space or use --session FILE."
        ) from None


def is_running(owner: Owner) -> bool:
    """Whether the owner still has its session open, as far as can be seen from this host."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def unfinished() -> list[tuple[Path, Session]]:
    """Sessions that were never left in good order, newest first."""
    found = []
    for path in paths.sessions_dir().glob("*.json"):
        try:
            session = read_session(path)
        except SessionError:
            continue
        if session.owner is not None and not is_running(session.owner) and not session.is_empty:
            found.append((path, session))
    return sorted(found, key=lambda pair: pair[1].updated, reverse=True)
