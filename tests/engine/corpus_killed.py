"""`python -m tests.engine.corpus_killed MODEL DICTIONARY TEXT FOLDER`: builds an index in processes that are killed.

One process opens the set; again and again a child of it builds and gets SIGKILL after it kept its state, until one
comes to the end. Says how often that was, and how far each had come.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from engine.corpus import build as building
from engine.corpus.stored import STATE, StateFile
from engine.job import Job
from engine.opening import open_set
from engine.protocol import Open


def main() -> None:
    model, dictionary, text, folder = sys.argv[1:]
    building.KEPT_EVERY, building._SHARE_OF_TIME = 0.0, 0
    opened = open_set(Open(id=1, model=model, dictionaries=(dictionary,), device="cpu"), Job())
    plan = building.plan_of(opened, list(opened.dictionaries.values()), (text,), tokens=None, context=32, contexts=4,
                            rows=3)  # fmt: skip
    kills, gone, state = 0, 0, Path(folder) / STATE
    reached: list[int] = []
    while True:
        child = os.fork()
        if child == 0:
            building.build(opened, plan, Path(folder), Job(), lambda *_: None)
            os._exit(0)
        left, last = 2 + kills % 4, stamp(state)
        while left and not (gone := os.waitpid(child, os.WNOHANG)[0]):
            if (now := stamp(state)) != last:
                left, last = left - 1, now
            time.sleep(0.001)
        if gone:
            break
        time.sleep(0.004 * (kills % 5))
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            break
        kills += 1
        reached.append(StateFile(state).progress.contexts)
    print(kills, *reached)  # noqa: T201


def stamp(file: Path) -> int:
    """When a file was put there; 0 where it is not."""
    return file.stat().st_mtime_ns if file.is_file() else 0


if __name__ == "__main__":
    main()
