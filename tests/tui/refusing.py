"""The fake engine where nothing opens, as a process: `python -m tests.tui.refusing`."""

from __future__ import annotations

import sys

from engine.errors import DictionaryMissing
from engine.fake import FakeEngine
from engine.job import Job
from engine.protocol import AnyRequest, Open
from engine.server import Server, protect_stdout

SENTENCE = "'res-jb' is no folder here, no release, and none of the dictionaries of pythia-70m-deduped."
REMEDY = "Did you mean res-sm? It has att-sm, mlp-sm, res-sm, and whatever else a list may go on with to be too long."


class RefusingEngine(FakeEngine):
    """Refuses what it is asked to open."""

    def handle(self, request: AnyRequest, job: Job) -> None:
        if isinstance(request, Open):
            raise DictionaryMissing(SENTENCE, REMEDY)
        super().handle(request, job)


if __name__ == "__main__":
    outgoing = protect_stdout()
    Server(RefusingEngine(), sys.stdin.buffer, outgoing).serve()
