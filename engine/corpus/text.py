"""Text as a stream of contexts: documents from files, tokenised and cut as they come, never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from engine.checkup.sample import read_text
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.training.corpus import Context, Document, read_documents

SHORTEST = 16
"""Shorter stretches are left out: the beginnings of contexts are read without what came before."""
_AT_ONCE = 64


def documents_of(text: tuple[str, ...]) -> Iterator[Document]:
    """The documents of files, one after another; those of the sample that ships with saescope for ().

    Raises:
        BadRequest: a file is missing or is no text.
    """
    if not text:
        yield from read_text(None).documents
        return
    for name in text:
        if not Path(name).is_file():
            raise BadRequest(f"There is no file {name}.", "Give files of text, .txt or .jsonl.")
    yield from read_documents(map(Path, text))


def name_of_text(text: tuple[str, ...]) -> str:
    """What a text is called in results."""
    if not text:
        return "the sample that ships with saescope"
    names = [Path(name).name for name in text]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def contexts_of(
    opened: OpenSet, documents: Iterable[Document], length: int, tokens: int | None = None
) -> Iterator[Context]:
    """Contexts of at most `length` tokens in reading order, each with BOS where prompts have it; in all about `tokens`.

    The documents' numbers count from 0 in the order they come, documents without a context included.
    """
    tokenizer = opened.model.tokenizer
    with_bos = tokenizer.bos_id is not None and tokenizer.encode("a", bos=opened.bos)[:1] == [tokenizer.bos_id]
    first = np.array([tokenizer.bos_id] if with_bos else [], dtype=np.int32)
    room = min(length, opened.model.context) - len(first)
    left = tokens
    for number, (document, ids) in enumerate(_tokenised(opened, documents)):
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            if len(piece) < SHORTEST:
                continue
            if left is not None:
                if left <= 0:
                    return
                left -= len(piece)
            yield Context(document.source, number, np.concatenate([first, piece]))


def _tokenised(opened: OpenSet, documents: Iterable[Document]) -> Iterator[tuple[Document, np.ndarray]]:
    batch: list[Document] = []

    def flush() -> Iterator[tuple[Document, np.ndarray]]:
        encoded = opened.model.tokenizer.encode_many([d.text for d in batch])
        for document, ids in zip(batch, encoded, strict=True):
            yield document, np.asarray(ids, dtype=np.int32)
        batch.clear()

    for document in documents:
        batch.append(document)
        if len(batch) == _AT_ONCE:
            yield from flush()
    yield from flush()
