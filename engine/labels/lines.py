"""Lines of files that others wrote, plain or gzip, however large: read as a stream, with bounded memory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from engine.errors import BadRequest

LONGEST_LINE = 4 << 20
_GZIP = b"\x1f\x8b"
_LARGEST_RATIO = 200  # an export is four times its size when unpacked; a bomb a thousand times
_NO_BOMB = 64 << 20

Report = Callable[[str, int, int], None]


def lines(file: Path, report: Report | None = None) -> Iterator[bytes | None]:
    """The lines of a file that have something on them; None for one over 4 MiB. Whether it is gzip, its bytes say.

    Raises:
        BadRequest: it cannot be read, ends too early, or unpacks to far more than any export does.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            given: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if packed else raw
            for number, line in enumerate(_cut(given)):
                if number % 1000 == 0:
                    if packed and given.tell() > max(_NO_BOMB, _LARGEST_RATIO * size):
                        raise BadRequest(f"{file} unpacks to over {_LARGEST_RATIO} times its size.", "Is it an export?")
                    if report:
                        report(f"reading {file.name}", raw.tell(), size)
                if line is None or line.strip():
                    yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadRequest(
            f"{file} is cut off or damaged ({error}); nothing of it was kept.", "Fetch it again."
        ) from None
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.", "Check the name of the file.") from None


def read_row(line: bytes | str) -> dict[str, Any] | None:
    """The JSON object on a line, halves of characters and all; None where there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _cut(given: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | None]:
    while line := given.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := given.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None
