"""The real engine, imported when the first request comes: the process says hello before torch is read from disk."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from engine.job import Job
from engine.protocol import AnyRequest, Counted

if TYPE_CHECKING:
    from engine.core import Engine


class LazyEngine:
    """Stands for `engine.core.Engine` until it is needed."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def handle(self, request: AnyRequest, job: Job) -> None:
        with self._lock:
            if self._engine is None:
                job.progress("importing torch")
                from engine.core import Engine

                self._engine = Engine()
        self._engine.handle(request, job)

    def count(self, prompt: str, chat: bool) -> Counted | None:
        return self._engine.count(prompt, chat) if self._engine is not None else None
