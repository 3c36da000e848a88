"""Ctrl-C in commands that load libraries: some swallow it where it happens to be raised, and go on without what
failed; others abort the process when it is raised while their compiled parts are being set up.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType


@contextmanager
def _watching(*, at_once: bool) -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the end if one came meanwhile, and `at_once` too.

    Does nothing outside the main thread, or where somebody else handles the signal.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler or getattr(before, "__module__", "") == __name__
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def remember(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        if at_once:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:  # whatever else went wrong, as where half an import was left
            raise KeyboardInterrupt


def interrupts_kept() -> AbstractContextManager[None]:
    """What is done here can be interrupted, and an interrupt that is swallowed comes again at the end."""
    return _watching(at_once=True)


def interrupts_later() -> AbstractContextManager[None]:
    """What is imported here is imported whole: an interrupt waits for the end of it."""
    return _watching(at_once=False)
