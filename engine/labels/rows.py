"""One label as a file brings it, made fit to be stored."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

import msgspec

LONGEST_TEXT = 4_000
LARGEST_INDEX = 2**31 - 1
_DIMENSIONS = range(2, 4097)


class Row(msgspec.Struct, frozen=True, gc=False):
    """A label on its way into the store."""

    model: str
    source: str
    index: int
    text: str
    by: str = ""
    """The explaining model, or the file it came from."""
    kind: str = ""
    key: str = ""
    """What tells it from other labels of the same feature; "" where only its own words do."""
    vector: bytes | None = None
    """Its embedding, see `packed`."""


def stored_text(text: str) -> str:
    """A label as it is kept: as it was written, but for NUL and halves of characters, which SQLite cannot keep.

    It is not yet safe for a terminal; whoever shows it calls `engine.text.visible`.
    """
    kept = text.strip().replace("\0", "␀").encode("utf-8", "replace").decode("utf-8")
    return kept if len(kept) <= LONGEST_TEXT else kept[: LONGEST_TEXT - 1] + "…"


def stored_key(row: Row) -> int:
    """A number for what tells this label from others of its feature; never 0, which is the user's own."""
    written = f"id\0{row.key}" if row.key else f"text\0{row.text}\0{row.by}\0{row.kind}"
    return int.from_bytes(hashlib.blake2b(written.encode(), digest_size=8).digest(), "big", signed=True) or 1


def packed(vector: Sequence[float]) -> bytes | None:
    """An embedding of length one as little-endian float16; None where it is none.

    Scaled because only its direction is used, and because float16 ends at 65,504.
    """
    if len(vector) not in _DIMENSIONS:
        return None
    norm = math.hypot(*vector)
    if not 0 < norm < math.inf:
        return None
    return struct.pack(f"<{len(vector)}e", *(value / norm for value in vector))
