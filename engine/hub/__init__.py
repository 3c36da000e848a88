"""Dictionaries and models of a model hub: found on this machine, or fetched when that was asked for.

What is given out here is imported when it is asked for: other modules need only to know where files lie.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.hub.finding import download_model, find_for_model, find_reference, find_release, is_here

__all__ = ["download_model", "find_for_model", "find_reference", "find_release", "is_here"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("engine.hub.finding"), name)
