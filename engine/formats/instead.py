"""What lies where weights should be: a pointer of Git LFS, or the web page about a file. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_START = 512


@dataclass(frozen=True)
class Instead:
    """What a file is in place of what it is called, and how to get the right one."""

    is_: str
    """What follows the file's name in a sentence."""
    remedy: str


def instead(file: Path) -> Instead | None:
    """What a file is if it is not the content itself; None where it may well be, or cannot be read."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_START)
    except OSError:
        return None
    if start.startswith(_POINTER):
        return Instead(
            "is a pointer of Git LFS, not the file itself",
            "Run `git lfs pull` in that folder, or download the file itself.",
        )
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return Instead(
            "is a web page, not the file itself", "Download the file itself: its link of download, not its page."
        )
    return None
