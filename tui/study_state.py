"""What the screen knows of studies beside their results: what is under way, what was typed, what was taken away."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.protocol import EngineFault, StudyResult
from sessions.model import StudyRecord


class StudyView(msgspec.Struct, frozen=True):
    """A part of the state; nothing of it is in the session file."""

    asked: str = ""
    """The study that was asked for last."""
    growing: StudyRecord | None = None
    """What the study under way has found so far; it is kept when the study ends, however it ends."""
    failed: Mapping[str, EngineFault] = {}
    """Study → why its last try came to nothing."""
    typed: Mapping[str, Mapping[str, str]] = {}
    """Study → what was typed into its form and run last, by field: only what differed from the form as it opened."""
    gone: tuple[int, StudyRecord] | None = None
    """The record that was deleted last, and where it stood."""


def ending(result: StudyResult, growing: bool) -> str:
    """`finished`, `growing` or `stopped`."""
    return "finished" if result.finished else "growing" if growing else "stopped"
