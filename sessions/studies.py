"""Results of studies in session files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.errors import SessionError
from engine.protocol import Open, StudyResult
from sessions.model import Session, StudyRecord
from sessions.store import is_running, new_session, now, read_session, write_session


def check_free(path: Path) -> Session | None:
    """The session in a file to which something can be added; None where there is no file yet.

    Raises:
        SessionError: the file is no session, or is open in a running saescope.
    """
    if not path.exists():
        return None
    session = read_session(path)
    if session.owner is not None and is_running(session.owner):
        raise SessionError(
            f"{path} is open in saescope (process {session.owner.pid} on {session.owner.host}).",
            "Quit that first, or use another file.",
        )
    return session


def record_study(path: Path, opening: Open, result: StudyResult) -> str:
    """Add a result to a session file, made where there is none; says in a sentence what was done.

    Raises:
        SessionError: the file is no session, is open in a running saescope, or cannot be written.
    """
    session = check_free(path) or msgspec.structs.replace(new_session(opening), owner=None)
    studies = (*session.studies, StudyRecord(now(), result))
    title = session.title or result.title[:60]
    write_session(path, msgspec.structs.replace(session, studies=studies, title=title, updated=now()))
    return f"{path} holds {len(studies)} {'study' if len(studies) == 1 else 'studies'}; `saescope replay {path}`."
