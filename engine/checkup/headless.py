"""`saescope doctor --dictionary` without a screen: opens, examines, and gives plain data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.checkup.results import CheckUp
from engine.interrupts import interrupts_kept, interrupts_later
from engine.job import Job
from engine.protocol import Event, Open, Progress
from engine.quiet import quiet_libraries

NEURONPEDIA = "neuronpedia"
"""In place of a file of activations: ask the site."""
Report = Callable[[str, int, int], None]


def check_dictionaries(
    opening: Open, text: Path | None, activations: str | None, report: Report
) -> tuple[CheckUp, ...]:
    """Every dictionary of `opening` examined; `text` is a file, `activations` one or the word neuronpedia.

    Errors as `checkup.examine`.
    """
    quiet_libraries()
    with interrupts_later():
        from engine.checkup.examine import Stored, examine
    from engine.checkup.neuronpedia import Neuronpedia
    from engine.checkup.stored_file import StoredFile

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            report(event.text, event.done, event.total)

    stored: Stored | None = None
    if activations is not None:
        stored = Neuronpedia() if activations == NEURONPEDIA else StoredFile(Path(activations).expanduser())
    try:
        with interrupts_kept():
            return examine(opening, text, stored, Job(opening.id, emit))
    finally:
        report("", 0, 0)
