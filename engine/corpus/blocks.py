"""A stream of documents in blocks: what is read, kept and shared out as one.

A block is a few dozen consecutive documents, and which batches the model sees depends on the block alone. So a run that
goes on after a kill, and workers that share the blocks, compute exactly what one run without a stop would.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from engine.corpus import dataset
from engine.corpus.text import LeftOut, Stretch, contexts_of, first_ids
from engine.job import Job
from engine.opening import OpenSet
from engine.training.corpus import Document

DOCUMENTS = 64
CHARACTERS = 1 << 18
"""A block ends when it has so many documents or characters."""

CONTEXTS_AHEAD = 64
"""Contexts that may wait where they come one by one."""
_PATIENCE = 0.05
"""Seconds between two looks at whether the work was cancelled."""

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Consecutive documents, cut into contexts: those of like length together, so that little is padding.

    Attributes:
        number: of the block, from 0.
        documents: how many documents it is.
        end: the number of the document after it.
        passed: tokens of it and all blocks before it, BOS apart; 0 where they are not limited.
        left_out: what of it is in no context.
    """

    number: int
    documents: int
    end: int
    passed: int
    contexts: list[Stretch]
    left_out: LeftOut


def blocks_of(
    opened: OpenSet,
    documents: Iterable[Document],
    length: int,
    tokens: int | None,
    *,
    share: tuple[int, int] = (0, 1),
    number: int = 0,
    document: int = 0,
    passed: int = 0,
) -> Iterator[Block]:
    """Every n-th block (`share`: which, of n), in order, of about `tokens` tokens of the whole stream.

    `documents` begin with document `document`, which begins block `number`; `passed` tokens lie before it. Where
    `tokens` is given, blocks of others are tokenised too: only so is it known where the stream ends.
    """
    bos = len(first_ids(opened))
    for group in _groups(documents):
        mine = number % share[1] == share[0]
        contexts: list[Stretch] = []
        left_out = LeftOut()
        if mine or tokens is not None:
            left = None if tokens is None else tokens - passed
            if left is not None and left <= 0:
                return
            contexts = list(contexts_of(opened, group, length, left, left_out))
            if tokens is not None:
                passed += sum(len(c.ids) - bos for c in contexts)
        if mine:
            moved = [Stretch(c.source, c.document + document, c.ids, c.start) for c in contexts]
            moved.sort(key=lambda c: -len(c.ids))
            yield Block(number, len(group), document + len(group), passed, moved, left_out)
        number += 1
        document += len(group)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if len(group) == DOCUMENTS or size >= CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def ahead(items: Iterable[T], job: Job, room: int = 2) -> Generator[T, None, None]:
    """The same items, made in a thread of their own while those before them are used; at most `room` wait.

    While the next one is awaited the job rests: text that comes slowly, or not at all, keeps nobody waiting.

    Raises:
        Cancelled: the job was cancelled; processes that were read from are ended.
    """
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(room)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                made.put(entry, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # it is raised where the items are used
            put((None, error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=make, daemon=True, name="text")
    thread.start()
    try:
        while True:
            try:
                item, error = made.get(timeout=_PATIENCE)
            except queue.Empty:
                job.rest()
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        stopped.set()
        dataset.end_those_of(thread)
