"""Session files: written whole or not at all, read back the same, found again after a crash."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import paths
from engine.errors import SessionError
from engine.protocol import Open
from sessions.model import SCHEMA, Owner, Session, View
from sessions.store import is_running, new_session, path_of, read_session, this_process, unfinished, write_session
from tests import samples
from tests.conftest import RunPython

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
BYTES = msgspec.json.encode(samples.session("one two"))


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process of this host that is gone."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return Owner(process.pid, socket.gethostname())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "session.json"


def kept(name: str, owner: Owner | None, updated: str = samples.AT, draft: str = "something") -> Path:
    """A session of the user's folder."""
    view = View(draft=draft)
    session = Session(id=name, created=samples.AT, updated=updated, opening=Open(id=0), owner=owner, view=view)
    write_session(path_of(session), session)
    return path_of(session)


def offered() -> list[str]:
    return [path.stem for path, _ in unfinished()]


def test_a_session_comes_back_the_same(file: Path) -> None:
    session = samples.session()
    write_session(file, session)
    assert read_session(file) == session


def test_a_new_session_is_ours_and_empty(file: Path) -> None:
    session = new_session(Open(id=0))
    write_session(file, session)
    assert read_session(file) == session
    assert session.is_empty
    assert session.owner == this_process()
    assert path_of(session).parent == paths.sessions_dir()


def test_two_new_sessions_do_not_share_a_file() -> None:
    assert path_of(new_session(Open(id=0))) != path_of(new_session(Open(id=0)))


def test_the_file_is_for_the_user_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        write_session(file, samples.session())
        write_session(file, samples.session())
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_writing_replaces_the_file_in_one_step(file: Path) -> None:
    """Who opened the old file goes on reading the old session."""
    old, new = samples.session("one two"), samples.session("three")
    write_session(file, old)
    with file.open("rb") as reader:
        write_session(file, new)
        assert msgspec.json.decode(reader.read(), type=Session) == old
    assert read_session(file) == new
    assert os.listdir(file.parent) == [file.name]


def test_a_full_disk_leaves_the_old_file(file: Path, run_python: RunPython) -> None:
    """A limit on file size stands for the disk: the write begins and fails."""
    write_session(file, samples.session("one two"))
    done = run_python(
        """
import pathlib, resource, sys
from engine.errors import SessionError
from sessions.store import write_session
from tests import samples
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_session(pathlib.Path(sys.argv[1]), samples.session())
except SessionError as error:
    print(error)
""",
        str(file),
    )
    assert f"{file} cannot be written" in done.stdout, done.stderr
    assert file.read_bytes() == BYTES
    assert os.listdir(file.parent) == [file.name]


def test_what_is_not_unicode_leaves_the_old_file(file: Path) -> None:
    write_session(file, samples.session("one two"))
    with pytest.raises(SessionError, match=re.escape(str(file))):
        write_session(file, msgspec.structs.replace(samples.session(), title="\ud800"))
    assert file.read_bytes() == BYTES
    assert os.listdir(file.parent) == [file.name]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SessionError, match="cannot be written"):
        write_session(tmp_path / "file" / "session.json", samples.session())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_is_a_folder_is_refused(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(SessionError, match="cannot be written"):
        write_session(file, samples.session())
    assert os.listdir(file.parent) == [file.name]


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "cut.json"
    for length in (*range(0, len(BYTES), 7), len(BYTES) - 1):
        file.write_bytes(BYTES[:length])
        with pytest.raises(SessionError, match=re.escape(str(file))):
            read_session(file)


@same_folder
@given(st.integers(0, len(BYTES) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_file_is_read_or_refused_and_never_worse(tmp_path: Path, place: int, damage: bytes) -> None:
    file = tmp_path / "damaged.json"
    file.write_bytes(BYTES[:place] + damage + BYTES[place + len(damage) :])
    with suppress(SessionError):
        assert isinstance(read_session(file), Session)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\x00" * 99, BYTES + b"{", b'{"zzz":' + b"[" * 99_999])
def test_what_is_no_session_is_refused(file: Path, data: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(data)
    with pytest.raises(SessionError, match="is not a saescope session"):
        read_session(file)


def test_text_that_is_not_utf8_is_refused(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(BYTES.replace("漢".encode(), b"\xff\xfe\xfd"))
    with pytest.raises(SessionError, match="is not a saescope session"):
        read_session(file)


def test_a_file_of_a_newer_saescope_says_to_upgrade(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(f'{{"schema": {SCHEMA + 1}, "what": ["nobody", "knows"]}}')
    with pytest.raises(SessionError, match="newer saescope") as caught:
        read_session(file)
    assert "Upgrade" in caught.value.remedy
    assert str(file) in caught.value.message


def test_fields_added_later_do_not_hide_a_session(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(BYTES[:-1] + b',"added":1}')
    assert read_session(file) == samples.session("one two")


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(SessionError, match="No such file") as caught:
        read_session(file)
    assert str(file) in caught.value.message


def test_no_folder_means_nothing_unfinished() -> None:
    assert not paths.sessions_dir().exists()
    assert unfinished() == []


def test_the_session_of_a_dead_process_is_offered(dead: Owner) -> None:
    path = kept("crashed", dead)
    assert unfinished() == [(path, read_session(path))]


def test_what_is_open_done_or_empty_is_not_offered(dead: Owner) -> None:
    kept("of-this-process", this_process())
    kept("of-the-parent", Owner(os.getppid(), socket.gethostname()))
    kept("of-another-host", Owner(dead.pid, "elsewhere.example"))
    kept("left-in-good-order", None)
    kept("empty", dead, draft="  \n")
    assert offered() == []


def test_the_newest_is_offered_first(dead: Owner) -> None:
    kept("a", dead, "2026-05-01T10:00:00+00:00")
    kept("b", dead, "2026-05-03T09:00:00+00:00")
    kept("c", dead, "2026-05-02T23:00:00+00:00")
    assert offered() == ["b", "c", "a"]


def test_damaged_files_do_not_hide_the_others(dead: Owner) -> None:
    kept("good", dead)
    kept("impossible-pid", Owner(1 << 62, dead.host))
    folder = paths.sessions_dir()
    (folder / "cut.json").write_bytes(BYTES[:300])
    (folder / "newer.json").write_text(f'{{"schema": {SCHEMA + 1}}}')
    (folder / "bytes.json").write_bytes(BYTES.replace("漢".encode(), b"\xff\xfe\xfd"))
    (folder / "folder.json").mkdir()
    (folder / ".session.json.1.partial").write_bytes(BYTES[:9])
    assert "good" in offered()


def test_a_dead_process_is_told_from_a_living_one(dead: Owner) -> None:
    assert is_running(this_process())
    assert not is_running(dead)
