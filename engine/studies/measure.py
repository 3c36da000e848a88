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
"""Seconds between two unfinished results, of which each is made quickly."""
_QUICK = 0.05
"""Seconds that making one may take; where it takes n times as long, n times as many pass before the next."""


class Growing:
    """What a study is handed to report with: its job, and a place for what is there so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._started = time.perf_counter()
        self._said = self._started
        self._asked: float | None = None
        self._took = 0.0

    def rest(self) -> None:
        """Nothing is hooked or half done: short requests may be answered now. Raises Cancelled."""
        self.job.rest()

    def progress(self, text: str, done: int = 0, total: int = 0) -> None:
        self.job.progress(text, done, total)

    @property
    def is_due(self) -> bool:
        """Whether the last unfinished result was a while ago; ask right before making one.

        What making one takes is counted from here to the end of `grown`: never more than about a tenth of all time.
        """
        now = time.perf_counter()
        due = now - self._said > _APART * max(1.0, self._took / _QUICK)
        if due:
            self._asked = now
        return due

    def grown(self, result: StudyResult) -> None:
        """Show an unfinished result; what was shown last is kept where the study is stopped."""
        began = time.perf_counter() if self._asked is None else self._asked
        self._emit(result, finished=False)
        self._said, self._asked = time.perf_counter(), None
        self._took = self._said - began

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
    return f"engine.studies.{name_of(settings)}.study"


def measure_study(opened: OpenSet, settings: AnyStudy, job: Job) -> None:
    """Compute a study and report it.

    Raises:
        SaescopeError: a setting does not fit what is open, with a remedy.
        Cancelled: the job was cancelled; what was reported last is what there is.
    """
    study = cast(_Study, import_module(module_of(settings)))
    growing = Growing(job)
    growing.done(study.measure(opened, settings, growing))
