"""From a study's settings to the module that computes it."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any, Protocol, cast

import msgspec

from engine.events import StudyGrown
from engine.job import Job
from engine.opening import OpenSet
from engine.study_results import StudyResult
from engine.study_settings import AnyStudy, name_of

_APART = 0.5
"""Seconds between two unfinished results."""


class Growing:
    """What a study is handed to report with: its job, and a place for what is there so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._started = time.perf_counter()
        self._said = self._started

    def rest(self) -> None:
        """Nothing is hooked or half done: short requests may be answered now. Raises Cancelled."""
        self.job.rest()

    def progress(self, text: str, done: int = 0, total: int = 0) -> None:
        self.job.progress(text, done, total)

    @property
    def is_due(self) -> bool:
        """Whether the last unfinished result was a while ago; ask before making one."""
        return time.perf_counter() - self._said > _APART

    def grown(self, result: StudyResult) -> None:
        """Show an unfinished result; what was shown last is kept where the study is stopped."""
        self._said = time.perf_counter()
        self._emit(result, finished=False)

    def done(self, result: StudyResult) -> None:
        """Show the whole result."""
        self._emit(result, finished=True)

    def _emit(self, result: StudyResult, *, finished: bool) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        whole = msgspec.structs.replace(result, finished=finished, seconds=seconds)
        self.job.emit(StudyGrown(id=self.job.id, result=whole))


class _Study(Protocol):
    """The module of a study."""

    def measure(self, opened: OpenSet, settings: Any, growing: Growing) -> StudyResult:
        """Compute it; in between, `growing` is told what is there. `seconds` and `finished` are filled in later."""


def module_of(settings: AnyStudy | type[AnyStudy]) -> str:
    """The module that computes a study."""
    return f"engine.studies.{name_of(settings).replace('-', '_')}"


def measure_study(opened: OpenSet, settings: AnyStudy, job: Job) -> None:
    """Compute a study and report it.

    Raises:
        SaescopeError: a setting does not fit what is open, with a remedy.
        Cancelled: the job was cancelled; what was reported last is what there is.
    """
    study = cast(_Study, import_module(module_of(settings)))
    growing = Growing(job)
    growing.done(study.measure(opened, settings, growing))
