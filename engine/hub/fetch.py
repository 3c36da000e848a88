"""Asking the process that downloads, and passing on what it says."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from engine import paths
from engine.errors import DownloadFailed
from engine.hub.asked import Answer, Fetched, Progressed, Refused, Report, Wish

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_POLL = 0.1
"""Seconds after which `report` is called again though nothing is new, so that it can stop the work."""

_GRACE = 1.0
"""Seconds a process that is to end has to clear up."""


def fetch(wishes: Sequence[Wish], report: Report) -> Fetched:
    """Download what is wished for, after a check of all of it; `report` may raise to stop.

    Raises:
        DownloadFailed: what the check found, or what went wrong on the way. What is whole stays.
    """
    with _log().open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.hub"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            process.stdin.write(msgspec.json.encode(list(wishes)) + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            raise _died(process) from None
        return _listen(process, process.stdout, report)
    finally:
        _end(process)
        process.stdout.close()


def _listen(process: subprocess.Popen[bytes], stream: IO[bytes], report: Report) -> Fetched:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(stream, lines), daemon=True).start()
    last = Progressed("asking the hub")
    while True:
        try:
            line = lines.get(timeout=_POLL)
        except queue.Empty:
            report(last.text, last.done, last.total)
            continue
        if not line:
            raise _died(process)
        match msgspec.json.decode(line, type=Answer):
            case Progressed() as last:
                report(last.text, last.done, last.total)
            case Refused(message, remedy, detail):
                raise DownloadFailed(message, remedy, detail)
            case Fetched() as fetched:
                return fetched


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asked first, so that it takes away what it has begun."""
    process.terminate()
    try:
        process.wait(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pump(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Lines as they come, then an empty one."""
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed by the one who reads
        pass
    lines.put(b"")


def _died(process: subprocess.Popen[bytes]) -> DownloadFailed:
    return DownloadFailed(
        f"The process that downloads ended early ({process.wait()}).", f"The log has more: {paths.log_file()}."
    )


def environment() -> dict[str, str]:
    """As ours, but with the network, and with our own package found first."""
    kept = {name: value for name, value in os.environ.items() if name not in _OFFLINE}
    home = str(Path(__file__).resolve().parent.parent.parent)
    inherited = kept.get("PYTHONPATH")
    return {**kept, "PYTHONPATH": f"{home}{os.pathsep}{inherited}" if inherited else home}


def _log() -> Path:
    log = paths.log_file()
    paths.private_directory(log.parent)
    return log
