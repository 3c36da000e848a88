"""JSON files that others wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it is not UTF-8, not JSON, or JSON of another kind; says which.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, not {type(found).__name__}")
    return found
