"""Text for training and for feature cards: documents from files, cut into contexts of token ids."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BadRequest
from engine.job import Job
from engine.tokenizer import TextTokenizer

_BATCH = 256
_MIN_TOKENS = 16


class Document(msgspec.Struct, frozen=True):
    """A text and where it came from."""

    source: str
    text: str


class Context(msgspec.Struct, frozen=True):
    """Consecutive tokens of one document, and the document's number in reading order."""

    source: str
    document: int
    ids: NDArray[np.int32]


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Documents of `.jsonl` files (`text`, and `source` where given) and of plain text files, also `.xz` and `.gz`.

    Raises:
        BadRequest: a file is missing, not UTF-8, or a line of JSONL has no `text`.
    """
    for path in paths:
        kind = path.with_suffix("") if path.suffix in {".xz", ".gz"} else path
        try:
            with _open_text(path) as file:
                if kind.suffix == ".jsonl":
                    for number, line in enumerate(file, 1):
                        yield _document(path, number, line)
                else:
                    yield Document(kind.stem, file.read())
        except OSError as error:
            raise BadRequest(f"{path} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise BadRequest(f"{path} is not UTF-8 text.", "Convert it, e.g. with iconv.") from None


def _document(path: Path, number: int, line: str) -> Document:
    try:
        record = json.loads(line)
        return Document(str(record.get("source", path.stem)), record["text"])
    except (ValueError, KeyError, AttributeError):
        raise BadRequest(
            f"{path}, line {number}: not a JSON object with a text.",
            'Each line is {"text": "…", "source": "…"}.',
        ) from None


def cut_contexts(
    documents: Iterable[Document],
    tokenizer: TextTokenizer,
    length: int,
    *,
    limit: int | None = None,
    seed: int | None = None,
    sources: frozenset[str] | None = None,
    job: Job | None = None,
) -> list[Context]:
    """Contexts of at most `length` tokens, in reading order or, with a `seed`, shuffled.

    `limit` bounds the number of tokens and takes contexts evenly from the whole text; stretches shorter than
    16 tokens are left out.
    """
    contexts: list[Context] = []
    batch: list[Document] = []
    seen = 0

    def flush() -> None:
        nonlocal seen
        for document, ids in zip(batch, tokenizer.encode_many([d.text for d in batch]), strict=True):
            array = np.asarray(ids, dtype=np.int32)
            for start in range(0, len(array), length):
                if len(piece := array[start : start + length]) >= _MIN_TOKENS:
                    contexts.append(Context(document.source, seen, piece))
            seen += 1
        batch.clear()
        if job is not None:
            job.progress("reading text", seen)

    for document in documents:
        if sources is None or document.source in sources:
            batch.append(document)
        if len(batch) == _BATCH:
            flush()
    flush()
    if not contexts:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")
    if seed is not None:
        random.Random(seed).shuffle(contexts)
    return _evenly(contexts, limit) if limit is not None else contexts


def _evenly(contexts: list[Context], limit: int) -> list[Context]:
    total = sum(len(c.ids) for c in contexts)
    if total <= limit:
        return contexts
    stride = total / limit
    kept, taken, passed = [], 0.0, 0
    for context in contexts:
        passed += len(context.ids)
        if taken * stride <= passed - len(context.ids):
            kept.append(context)
            taken += len(context.ids)
    return kept


def cap_sources(contexts: list[Context], caps: dict[str, int], limit: int | None) -> list[Context]:
    """At most `caps[source]` tokens of each source (`*` stands for the others), then at most `limit` in all.

    Contexts are taken in the order they come, so shuffle first.
    """
    taken: dict[str, int] = {}
    kept, total = [], 0
    for context in contexts:
        cap = caps.get(context.source, caps.get("*"))
        so_far = taken.get(context.source, 0)
        if cap is not None and so_far >= cap:
            continue
        if limit is not None and total >= limit:
            break
        taken[context.source] = so_far + len(context.ids)
        total += len(context.ids)
        kept.append(context)
    return kept


def batches(contexts: list[Context], rows: int) -> Iterator[tuple[NDArray[np.int32], list[Context]]]:
    """Right-padded ids [rows, longest] with their contexts; a causal model never sees the padding."""
    for start in range(0, len(contexts), rows):
        group = contexts[start : start + rows]
        ids = np.zeros((len(group), max(len(c.ids) for c in group)), dtype=np.int32)
        for row, context in zip(ids, group, strict=True):
            row[: len(context.ids)] = context.ids
        yield ids, group
