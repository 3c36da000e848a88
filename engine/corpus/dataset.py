"""Data sets of the `datasets` library as text: hf://OWNER/NAME?split=…&field=…&config=…, or a folder of such files.

They are streamed by a process of their own: it may reach for the network where this one never does, fetching and
unpacking go on while the model computes, and it can be ended at any moment.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

import msgspec

from engine.errors import BadRequest, DownloadFailed
from engine.hub.fetch import environment
from engine.training.corpus import Document

SCHEME = "hf://"
_COMMIT = re.compile("[0-9a-f]{40}")
_RUNNING: WeakKeyDictionary[threading.Thread, list[subprocess.Popen[bytes]]] = WeakKeyDictionary()
"""The processes that are read from, by the thread that reads."""


class DataSet(msgspec.Struct, frozen=True, kw_only=True):
    """Which data set, and what of it is the text."""

    name: str
    split: str = "train"
    field: str = "text"
    config: str | None = None
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def title(self) -> str:
        """What it is called in results."""
        name = Path(self.name).resolve().name if self.is_local else self.name
        return f"{name}{f' {self.config}' if self.config else ''} ({self.split})"


class Line(msgspec.Struct, omit_defaults=True):
    """What the process says: a document, the revision that was opened, why it cannot go on, or that this was all."""

    source: str = ""
    text: str | None = None
    revision: str | None = None
    error: str | None = None
    remedy: str = ""
    download: bool = False
    """The error is the hub's, not the user's."""
    end: bool = False


def data_set(text: str) -> DataSet:
    """What `hf://…` or the path of a folder means.

    Raises:
        BadRequest: it names nothing, or asks for something there is not.
    """
    name, _, query = text.removeprefix(SCHEME).partition("?")
    if not name:
        raise BadRequest(f"{text!r} names no data set.", "Write hf://OWNER/NAME.")
    given = dict(parse_qsl(query))
    known = ("split", "field", "config", "revision")
    if unknown := [key for key in given if key not in known]:
        raise BadRequest(f"{unknown[0]!r} is no setting of a data set.", f"There are {', '.join(known)}.")
    if len([part for part in query.split("&") if part]) != len(given):
        raise BadRequest(f"{query!r} is not understood.", "Write ?split=train&field=text&config=NAME.")
    return DataSet(name=name, **given)


def revision_of(chosen: DataSet) -> str:
    """The commit that the hub would give now; without asking where it is named.

    Raises:
        DownloadFailed: the hub cannot be reached or has no such data set.
    """
    if chosen.revision is not None and _COMMIT.fullmatch(chosen.revision):
        return chosen.revision
    with _asking(chosen, "revision") as lines:
        return next(lines).revision or ""


def documents(chosen: DataSet, skip: int = 0) -> Iterator[Document]:
    """The documents of a data set, without the first few.

    Raises:
        BadRequest: it has no such split, configuration or field, or the field is no text.
        DownloadFailed: the hub cannot be reached or gives no more.
    """
    with _asking(chosen, str(skip)) as lines:
        for line in lines:
            if line.end:
                return
            if line.text is not None:
                yield Document(line.source, line.text)


@contextlib.contextmanager
def _asking(chosen: DataSet, what: str) -> Iterator[Iterator[Line]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.corpus.dataset_process", msgspec.json.encode(chosen).decode(), what],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        own = _RUNNING.setdefault(threading.current_thread(), [])
        own.append(process)
        try:
            yield _heard(process, msgspec.json.Decoder(Line))
        finally:
            own.remove(process)
            process.kill()
            process.stdout.close()


def end_those_of(thread: threading.Thread) -> None:
    """End the processes that a thread reads from: what it waits for there comes to an end at once."""
    for process in list(_RUNNING.get(thread, ())):
        process.kill()


def _heard(process: subprocess.Popen[bytes], decoder: msgspec.json.Decoder[Line]) -> Iterator[Line]:
    assert process.stdout is not None
    for data in process.stdout:
        line = decoder.decode(data)
        if line.error is not None:
            raise (DownloadFailed if line.download else BadRequest)(line.error, line.remedy)
        yield line
        if line.end:
            return
    raise BadRequest(
        f"The process that reads the data set ended early ({process.wait()}).", "Run it again: it goes on."
    )
