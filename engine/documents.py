"""Results as JSON documents that are safe to print."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from engine.text import terminal_safe_json


def write_whole(file: Path, text: str) -> None:
    """Put a text into a file in one step: what was there stays until all of it is written. Raises OSError."""
    if file.exists() and not file.is_file():  # a pipe or a terminal
        file.write_text(text, encoding="utf-8")
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def to_json(value: Any) -> str:
    """JSON that is safe to print: nothing in it acts on a terminal."""
    try:
        encoded = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a path that is not UTF-8
        encoded = json.dumps(msgspec.to_builtins(value))
    return terminal_safe_json(encoded)
