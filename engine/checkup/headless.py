"""`saescope doctor --dictionary` without a screen: opens, examines, and gives plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.checkup.results import CheckUp
from engine.job import Job
from engine.protocol import Event, Open, Progress
from engine.quiet import quiet_libraries

Report = Callable[[str, int, int], None]


def check_dictionaries(
    opening: Open, text: Path | None, activations: Path | None, report: Report
) -> tuple[CheckUp, ...]:
    """Every dictionary of `opening` examined; `text` and `activations` are files. Errors as `checkup.examine`."""
    quiet_libraries()
    from engine.checkup.examine import examine

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            report(event.text, event.done, event.total)

    try:
        return examine(opening, text, activations, Job(opening.id, emit))
    finally:
        report("", 0, 0)
