"""Results as JSON documents that are safe to print."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.text import terminal_safe_json


def to_json(value: Any) -> str:
    """JSON that is safe to print: nothing in it acts on a terminal."""
    try:
        encoded = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a path that is not UTF-8
        encoded = json.dumps(msgspec.to_builtins(value))
    return terminal_safe_json(encoded)
