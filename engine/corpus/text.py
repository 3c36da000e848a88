"""Text as a stream of contexts: documents of files and data sets, tokenised and cut as they come, never all in memory.

A plain file that is longer than a few pages comes in pieces, each a document of its own.
"""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from engine.checkup.sample import SAMPLE, read_text
from engine.corpus import dataset
from engine.errors import BadRequest
from engine.hashes import sha256_of
from engine.opening import OpenSet
from engine.training.corpus import Context, Document, read_documents

SHORTEST = 16
"""Shorter stretches are left out: the beginnings of contexts are read without what came before."""
PIECE = 1 << 14
"""Characters of a plain file that count as one document: some thirty contexts."""
_AT_ONCE = 64
_PACKED = {".gz", ".xz"}


class Stretch(Context, frozen=True):
    """A context that knows where it stands: `start` is the place of its first token in its document, -1 for BOS."""

    start: int = 0


@dataclass
class LeftOut:
    """What was too short to be read: tokens in short stretches, and documents of which nothing is left."""

    tokens: int = 0
    documents: int = 0

    def note(self) -> str | None:
        """The same in one sentence; None where nothing was left out."""
        if not self.tokens:
            return None
        whole = f", {self.documents:,} whole documents among them" if self.documents else ""
        return f"Stretches of fewer than {SHORTEST} tokens are not read: {self.tokens:,} tokens were left out{whole}."


def start_of(context: Context) -> int:
    """Where a context begins in its document; 0 where it does not know."""
    return context.start if isinstance(context, Stretch) else 0


def documents_of(text: tuple[str, ...], skip: int = 0) -> Iterator[Document]:
    """The documents of files, folders and data sets, one after another; those of the sample of saescope for ().

    Without the first `skip`. Plain files come in pieces of about 16,000 characters, cut between paragraphs.

    Raises:
        BadRequest: something is missing or is no text.
        DownloadFailed: the hub that has a data set cannot be reached.
    """
    if not text:
        yield from islice(read_text(None).documents, skip, None)
        return
    text = placed(text)
    for name in text:
        if not _is_data_set(name) and not Path(name).is_file():
            raise BadRequest(
                f"There is no file {name}.", "Give files of text, .txt or .jsonl, a folder, or hf://OWNER/NAME."
            )
    if len(text) == 1 and _is_data_set(text[0]):  # the library skips faster
        yield from dataset.documents(dataset.data_set(text[0]), skip)
        return
    yield from islice((document for name in text for document in _documents(name)), skip, None)


def placed(text: tuple[str, ...]) -> tuple[str, ...]:
    """The same text from wherever it is read: paths are absolute, and ~ is somebody's home."""
    return tuple(map(_placed, text))


def _placed(name: str) -> str:
    if not name.strip():
        raise BadRequest("A text has no name.", "Give files of text, .txt or .jsonl, a folder, or hf://OWNER/NAME.")
    bare = name.removeprefix(dataset.SCHEME)
    where, question, query = bare.partition("?") if bare != name else (bare, "", "")
    path = os.path.abspath(os.path.expanduser(where))
    if bare == name:
        return path
    return f"{dataset.SCHEME}{path}{question}{query}" if where and os.path.isdir(path) else name


def _is_data_set(name: str) -> bool:
    return name.startswith(dataset.SCHEME) or Path(name).is_dir()


def _documents(name: str) -> Iterator[Document]:
    if _is_data_set(name):
        yield from dataset.documents(dataset.data_set(name))
        return
    path = Path(name)
    kind = path.with_suffix("") if path.suffix in _PACKED else path
    try:
        if kind.suffix == ".jsonl":
            for document in read_documents([path]):
                if document.text is None:  # it keeps its number
                    yield Document(document.source, "")
                elif isinstance(document.text, str):
                    yield document
                else:
                    raise BadRequest(f"A `text` in {path} is no text.", 'Each line is {"text": "…", "source": "…"}.')
        else:
            for piece in _pieces(path):
                yield Document(kind.stem, piece)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        raise BadRequest(f"{path} is cut off or damaged.", "Fetch it again.") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is not UTF-8 text.", "Convert it, e.g. with iconv.") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror or error}.", "Check who may read it.") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig")
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")


def _pieces(path: Path) -> Iterator[str]:
    """A plain file in pieces, cut after a paragraph, a line or a word where there is one."""
    rest = ""
    with _open(path) as file:
        while read := file.read(PIECE):
            if "\0" in read:
                raise BadRequest(f"{path} is no text: it holds NUL bytes.", "Give a text file.")
            rest += read
            while len(rest) > PIECE:
                ends = (rest.rfind(mark, PIECE // 2, PIECE) + len(mark) for mark in ("\n\n", "\n", " "))
                cut = next((end for end in ends if end > PIECE // 2), PIECE)
                yield rest[:cut]
                rest = rest[cut:]
    if rest:
        yield rest


def name_of_text(text: tuple[str, ...]) -> str:
    """What a text is called in results."""
    if not text:
        return "the sample that ships with saescope"
    names = [dataset.data_set(name).title if _is_data_set(name) else Path(name).name for name in placed(text)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def identity_of(text: tuple[str, ...]) -> tuple[str, ...]:
    """What tells a text from another, cheaply: of files their size and time, of a data set its revision.

    Raises:
        BadRequest, DownloadFailed: as `documents_of`.
    """
    if not text:
        return (f"sample {sha256_of(SAMPLE)}",)
    found: list[str] = []
    for name in placed(text):
        if not _is_data_set(name):
            found.append(_stamp(Path(name)))
            continue
        chosen = dataset.data_set(name)
        if chosen.is_local:
            what = f"split={chosen.split} field={chosen.field} config={chosen.config}"
            files = sorted(p for p in Path(chosen.name).rglob("*") if p.is_file())
            found += [f"{Path(chosen.name).resolve()} {what}", *map(_stamp, files)]
        else:
            found.append(f"{identity_before_revision(chosen)}{dataset.revision_of(chosen)}")
    return tuple(found)


def identity_before_revision(chosen: dataset.DataSet) -> str:
    """What tells a data set of the hub from another, but for the commit, which ends it."""
    return f"hf://{chosen.name} split={chosen.split} field={chosen.field} config={chosen.config} revision="


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        raise BadRequest(
            f"There is no file {path}.", "Give files of text, .txt or .jsonl, a folder, or hf://OWNER/NAME."
        ) from None
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def first_ids(opened: OpenSet) -> np.ndarray:
    """BOS where prompts begin with it, else nothing."""
    tokenizer = opened.model.tokenizer
    with_bos = tokenizer.bos_id is not None and tokenizer.encode("a", bos=opened.bos)[:1] == [tokenizer.bos_id]
    return np.array([tokenizer.bos_id] if with_bos else [], dtype=np.int32)


def contexts_of(
    opened: OpenSet,
    documents: Iterable[Document],
    length: int,
    tokens: int | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[Stretch]:
    """Contexts of at most `length` tokens in reading order, each with BOS where prompts have it; in all about `tokens`.

    The documents' numbers count from 0 in the order they come, documents without a context included. `left_out` counts
    what is shorter than 16 tokens, or than there is room for, and so is in no context.
    """
    missed = LeftOut() if left_out is None else left_out
    first = first_ids(opened)
    room = min(length, opened.model.context) - len(first)
    left = tokens
    for number, (document, ids) in enumerate(tokenised(opened, documents)):
        for start in range(0, len(ids), room):
            if left is not None and left <= 0:
                return
            piece = ids[start : start + room]
            if len(piece) < min(SHORTEST, room):
                missed.tokens += len(piece)
                missed.documents += len(piece) == len(ids)
                continue
            if left is not None:
                left -= len(piece)
            yield Stretch(document.source, number, np.concatenate([first, piece]), start - len(first))


def tokenised(opened: OpenSet, documents: Iterable[Document]) -> Iterator[tuple[Document, np.ndarray]]:
    """Documents with their token ids, a few dozen at a time; what no tokenizer takes is replaced."""
    stream = iter(documents)
    while batch := list(islice(stream, _AT_ONCE)):
        texts = [d.text.encode("utf-8", "replace").decode() for d in batch]
        for document, ids in zip(batch, opened.model.tokenizer.encode_many(texts), strict=True):
            yield document, np.asarray(ids, dtype=np.int32)
