"""The text that dictionaries are measured on: a bounded part of a file, cut into stretches as prompts are read."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.training.corpus import Context, Document, cut_contexts

SAMPLE = Path(__file__).parent / "data" / "sample.txt"
"""Neutral text of many kinds, written for this purpose."""
_STRETCH = 128
_TOKENS = 4096
MOST_BYTES = 1 << 20
"""Of a longer file, unpacked, only the beginning is read: it is many times what is measured on."""


@dataclass(frozen=True)
class Text:
    """What is measured on, and what to call it."""

    name: str
    documents: Sequence[Document]


def read_text(file: Path | None) -> Text:
    """A text file, or one of JSON lines with `text`, also .gz and .xz; the sample that ships with saescope for None.

    Raises:
        BadRequest: it cannot be read, or is no text.
    """
    if file is None:
        parts = SAMPLE.read_text(encoding="utf-8").split("\n\n\n")
        return Text("the sample that ships with saescope", [Document("sample", part.strip()) for part in parts])
    if not file.is_file():
        raise BadRequest(f"There is no file {file}.", "Give a text file.")
    data = _beginning(file)
    cut = len(data) > MOST_BYTES
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:MOST_BYTES], final=not cut)
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is not UTF-8 text.", "Convert it, e.g. with iconv.") from None
    if "\0" in text:
        raise BadRequest(f"{file} is no text: it holds NUL bytes.", "Give a text file.")
    kind = file.with_suffix("") if file.suffix in {".gz", ".xz"} else file
    documents = _lines(file, text, cut) if kind.suffix == ".jsonl" else [Document(kind.stem, text)]
    return Text(f"the beginning of {file.name}" if cut else file.name, documents)


def stretches(opened: OpenSet, text: Text, job: Job) -> tuple[list[Context], bool]:
    """Stretches of text as the dictionaries read prompts, and whether each begins with BOS."""
    tokenizer = opened.model.tokenizer
    bos_id = tokenizer.bos_id
    bos = bos_id is not None and tokenizer.encode("a", bos=opened.bos)[:1] == [bos_id]
    length = min(_STRETCH, opened.model.context) - bos
    contexts = cut_contexts(text.documents, tokenizer, length, limit=_TOKENS, job=job)
    if bos:
        first = np.array([bos_id], dtype=np.int32)
        contexts = [Context(c.source, c.document, np.concatenate([first, c.ids])) for c in contexts]
    return contexts, bos


def _beginning(file: Path) -> bytes:
    """As much as is used, and one byte more where there is more."""
    try:
        with _open(file) as given:
            return given.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
        raise BadRequest(f"{file} is cut off or damaged.", "Fetch it again.") from None
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror or error}.", "Check who may read it.") from None


def _open(file: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    if file.suffix == ".gz":
        return gzip.open(file)
    return lzma.open(file) if file.suffix == ".xz" else file.open("rb")


def _lines(file: Path, text: str, cut: bool) -> list[Document]:
    """The documents of JSON lines; of a file that was cut, without the last."""
    documents = []
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if not line.strip() or (cut and not line.endswith("\n")):
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            document = None
        if not isinstance(document, str):
            raise BadRequest(f"{file}, line {number} is no JSON object with a text.", 'Each line is {"text": "…"}.')
        documents.append(Document(file.stem, document))
    return documents
