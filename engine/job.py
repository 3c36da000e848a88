"""One request under way: it can be cancelled from another thread, and it reports as it goes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.errors import Cancelled
from engine.protocol import Event, Intervention, Progress


class Job:
    """Handed down through the engine; long loops call `check()`, `rest()` and `progress()`."""

    def __init__(
        self,
        request_id: int = 0,
        emit: Callable[[Event], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self.id = request_id
        self._emit = emit
        self._meanwhile = meanwhile
        self._cancelled = threading.Event()
        self._adjusted: tuple[Intervention, ...] | None = None

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> bool:
        """Ask the work to stop, from any thread; False where that was asked already."""
        if self._cancelled.is_set():
            return False
        self._cancelled.set()
        return True

    def adjust(self, interventions: tuple[Intervention, ...]) -> None:
        """Other interventions from now on, from any thread; only the newest count."""
        self._adjusted = interventions

    def adjustment(self) -> tuple[Intervention, ...] | None:
        """What was asked for by `adjust` since the last time, if anything."""
        newest, self._adjusted = self._adjusted, None
        return newest

    def check(self) -> None:
        """Raise `Cancelled` where the request was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def rest(self) -> None:
        """A moment in long work when nothing is hooked or half done: short requests that wait may be answered now."""
        self.check()
        if self._meanwhile is not None:
            self._meanwhile()
            self.check()

    def emit(self, event: Event) -> None:
        """Send an event, unless the request was cancelled: what comes late is not said."""
        self.check()
        if self._emit is not None:
            self._emit(event)

    def progress(self, text: str, done: int = 0, total: int = 0) -> None:
        self.emit(Progress(id=self.id, text=text, done=done, total=total))
