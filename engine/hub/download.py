"""Downloading, in a process of its own: `python -m engine.hub` reads wishes and answers in JSON lines.

The engine's process is kept off the network for good (`engine.quiet`), a setting that huggingface_hub reads once; and
a process can be ended at any moment. A file appears in the cache when it is whole, never before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec
from huggingface_hub import get_session, hf_hub_download

from engine.errors import DownloadFailed
from engine.hub.asked import Answer, Fetched, Progressed, Refused, Wish
from engine.hub.local import cache_folder
from engine.hub.preflight import TIMEOUT, Ready, check, size
from engine.hub.refusals import explain

_Tqdm: Any = import_module("tqdm.std").tqdm
_TELL_EVERY = 0.1
_MUCH = 1 << 20
"""So many bytes at once are told in any case: nothing more may come for a while."""
Tell = Callable[[Answer], None]


def download(wishes: list[Wish], tell: Tell) -> None:
    """Check everything, then fetch what is not here; ends with `Fetched` or `Refused`."""
    try:
        tell(Progressed("asking the hub"))
        files = check(wishes)
        missing = [file for file in files if file.bytes]
        total = sum(file.bytes for file in missing)
        done = _Done(total, tell)
        for number, file in enumerate(files, 1):
            done.begin(f"downloading {size(total)}, file {number} of {len(files)}")
            _fetch(file, done)
        tell(Fetched(len(files), total))
    except DownloadFailed as error:
        tell(Refused(error.message, error.remedy, error.detail))


def _fetch(file: Ready, done: _Done) -> None:
    """One file into the cache; huggingface_hub resumes within a connection that was cut."""
    before = done.bytes
    try:
        hf_hub_download(file.repo, file.name, revision=file.revision, cache_dir=cache_folder(), tqdm_class=_bar(done))
    except Exception as error:  # whatever a hub, a proxy or a broken line leads to
        raise explain(error, file.repo, file.name) from None
    done.bytes = before + file.bytes


class _Done:
    """How far all files together are."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.text = ""
        self.bytes = 0
        self._total = total
        self._tell = tell
        self._told = 0.0
        self._lock = threading.Lock()

    def begin(self, text: str) -> None:
        self.text = text
        self._say()

    def add(self, count: float) -> None:
        with self._lock:
            self.bytes += int(count)
            if count >= _MUCH or time.monotonic() - self._told >= _TELL_EVERY:
                self._say()

    def _say(self) -> None:
        self._told = time.monotonic()
        self._tell(Progressed(self.text, min(self.bytes, self._total), self._total))


def _bar(done: _Done) -> type[Any]:
    """What huggingface_hub takes for a progress bar."""

    class Bar(_Tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            settings.pop("name", None)
            super().__init__(*arguments, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            done.add(n or 0)
            return None

        def update_transfer(self, n: float) -> None:
            """What came over the line of a file that is put together from parts; `update` counts the parts."""

    return Bar


def main() -> None:
    """Read one line of wishes, answer until all is here."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception, so that half a file is taken away
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    lock = threading.Lock()
    encoder = msgspec.json.Encoder()

    def tell(answer: Answer) -> None:
        with lock:
            private.write(encoder.encode(answer) + b"\n")
            private.flush()

    get_session().timeout = TIMEOUT  # for questions; downloads have their own
    download(msgspec.json.decode(sys.stdin.buffer.readline(), type=list[Wish]), tell)
