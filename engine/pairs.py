"""Files of prompts as pairs: feature-circuits' data sets, cluster contexts, and our own keys.

A file is JSON lines, a JSON list, or one JSON object of contexts: {id: {"context": [token, …], "answer": token}} or
{answer: [token, …]}. Whether a prompt fits a model (equal lengths, answers of one token) only a tokenizer can say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import BadRequest
from engine.protocol import Pair
from engine.text import has_lone_surrogate, visible
from engine.tokenizer import byte_level_alphabet

SEED = 12
"""feature-circuits shuffles its data sets with `random.Random(12)`."""

_FIELDS = {
    "clean": ("clean", "clean_prefix", "context", "prompt"),
    "answer": ("answer", "clean_answer"),
    "patch": ("patch", "patch_prefix"),
    "patch_answer": ("patch_answer",),
    "case": ("case",),
}
_NAMES = {name: field for field, names in _FIELDS.items() for name in names}
_FORMS = "A row is {clean, answer, patch, patch_answer, case}, {clean_prefix, clean_answer, …} or {context, answer}."


_GLYPHS = byte_level_alphabet()


def read_pairs(path: Path, limit: int | None = None, seed: int | None = None) -> tuple[Pair, ...]:
    """The pairs of a file, at most `limit`; with a seed shuffled first, `SEED` as feature-circuits does.

    Raises:
        BadRequest: the file cannot be read, or a row is broken; names the row and what is wrong with it.
    """
    if limit is not None and limit < 1:
        raise BadRequest(f"{limit} is not a number of examples.", "Give a positive number, or none for all.")
    pairs = [_pair(row, f"{path}, {where}") for where, row in _rows(_text(path), path)]
    if not pairs:
        raise BadRequest(f"{path} holds no examples.", _FORMS)
    with_patch = [pair.patch is not None for pair in pairs]
    if len(set(with_patch)) > 1:
        raise BadRequest(
            f"{path} mixes rows with a patch prompt ({sum(with_patch)}) and without ({len(pairs) - sum(with_patch)}).",
            "They have different baselines; put them in files of their own.",
        )
    if seed is not None:
        random.Random(seed).shuffle(pairs)
    return tuple(pairs[:limit])


def pair_of(row: dict[str, Any], where: str) -> Pair:
    """One row of a data set; `where` names it in errors.

    Raises:
        BadRequest: a key is unknown or missing, or a value is no text.
    """
    return _pair(row, where)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Every row with its place in the file."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    document: Any = None
    if text.lstrip().startswith("[") or (lines and not any(_is_object(line) for _, line in lines[:2])):
        document = _loaded(text, str(path))  # a list, or an object over several lines
    elif len(lines) == 1:
        document = json.loads(text)
    if isinstance(document, list):
        yield from ((f"row {n}", row) for n, row in enumerate(document, 1))
    elif isinstance(document, dict) and not _NAMES.keys() & document.keys():
        yield from ((f"row {visible(key)[:40]!r}", _context_row(key, row)) for key, row in document.items())
    elif isinstance(document, dict):
        yield f"line {lines[0][0]}", document
    elif document is not None:
        raise BadRequest(f"{path} is JSON but neither rows nor an object.", _FORMS)
    else:
        yield from ((f"line {n}", _loaded(line, str(path), n)) for n, line in lines)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _loaded(text: str, name: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        why = error.msg[:1].lower() + error.msg[1:]
        raise BadRequest(
            f"{name}, line {line} is not JSON: {why} at column {error.colno}.", "Write one object on each line."
        ) from None
    except (ValueError, RecursionError):
        raise BadRequest(
            f"{name}, line {first_line} is not JSON that can be read: a number is too long or it is nested too deep.",
            "Write one object on each line.",
        ) from None


def _context_row(key: str, row: Any) -> Any:
    """An entry of a cluster file; a bare list of tokens has its answer as the key."""
    if isinstance(row, list):
        return {"context": row, "answer": key}
    if isinstance(row, dict) and "context" in row:
        return {"case": key, **row}
    return row


def _pair(row: Any, where: str) -> Pair:
    if not isinstance(row, dict):
        raise BadRequest(f"{where} is no object but {type(row).__name__}.", _FORMS)
    is_context = "context" in row  # cluster files carry figures of their own beside it
    found: dict[str, str] = {}
    for key, value in row.items():
        field = _NAMES.get(key)
        if field is None and is_context:
            continue
        if field is None:
            raise BadRequest(f"{where} has the unknown key {visible(key)[:40]!r}.", f"Known keys: {', '.join(_NAMES)}.")
        if value is None and field in {"patch", "patch_answer", "case"}:
            continue
        if field in found:
            raise BadRequest(f"{where} has {field!r} twice, the second time as {key!r}.", _FORMS)
        found[field] = _string(value, f"{where}: {key!r}", tokens=isinstance(row.get("context"), list))
    for field in ("clean", "answer"):
        if not found.get(field):
            state = "an empty" if field in found else "no"
            raise BadRequest(f"{where} has {state} {field!r}.", _FORMS)
    if found.get("patch") == "":
        raise BadRequest(f"{where} has an empty 'patch'.", "Leave the key out where there is no patch prompt.")
    return Pair(**found)


def _string(value: Any, where: str, *, tokens: bool) -> str:
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        text = _joined(value, where)
    elif isinstance(value, str):
        text = _joined([value], where) if tokens else value
    else:
        raise BadRequest(f"{where} is no text but {type(value).__name__}.", _FORMS)
    if has_lone_surrogate(text):
        raise BadRequest(f"{where} holds half of a surrogate pair.", "Write the character whole.")
    return text


def _joined(tokens: list[str], where: str) -> str:
    """Tokens as text: those of the byte-level alphabet (`Ġ`, `Ċ`, …) stand for bytes, added ones for themselves.

    Bytes that are not UTF-8 have no text that a tokenizer would read back as the same tokens, so they are refused.
    """
    in_bytes = [token for token in tokens if _GLYPHS.keys() >= set(token)]
    parts = [bytes(map(_GLYPHS.__getitem__, t)) if _GLYPHS.keys() >= set(t) else _encoded(t) for t in tokens]
    try:
        return b"".join(parts).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        if all(ord(character) < 0x100 for token in in_bytes for character in token):
            return "".join(tokens)  # nothing that only stands for a byte: it was plain text with accents
        raise BadRequest(
            f"{where} is byte-level tokens whose bytes are not UTF-8 (byte {error.start}).",
            "Leave the row out, or start it at a whole character.",
        ) from None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
