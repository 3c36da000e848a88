"""The settings of steered texts as one line that can be typed: `tokens 40  T 0.7  stop "###"  watch " she" " he"`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.protocol import BadRequest
from tui.steering_state import Sampling

PLACEHOLDER = 'tokens 40  T 0.7  top-p 1  top-k 0  penalty 1  seed 0  error kept  stop "###"  watch " she" " he"'
_REMEDY = f"Write for example: {PLACEHOLDER}."
_MOST_TOKENS = 2048
_PIECE = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))', re.DOTALL)


def _whole(low: int, high: int) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
        return value if low <= value <= high else None

    return read


def _real(low: float, high: float, *, above: bool = False) -> Callable[[str], float | None]:
    """A number between two others; `above`: not the lower one itself."""

    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if low <= value <= high and not (above and value == low) else None

    return read


_NUMBERS: dict[str, tuple[str, Callable[[str], int | float | None], str]] = {
    "tokens": ("tokens", _whole(1, _MOST_TOKENS), f"a whole number from 1 to {_MOST_TOKENS}"),
    "t": ("temperature", _real(0, 100), "a number of at least 0 (0 is greedy)"),
    "top-p": ("top_p", _real(0, 1, above=True), "a number over 0 and at most 1"),
    "top-k": ("top_k", _whole(0, 10**9), "a whole number (0: from all tokens)"),
    "penalty": ("repetition_penalty", _real(0, 100, above=True), "a number over 0 (1: none)"),
    "seed": ("seed", _whole(0, 2**31 - 1), "a whole number from 0"),
}
_ALIASES = {"temperature": "t", "temp": "t", "top_p": "top-p", "top_k": "top-k", "repetition-penalty": "penalty"}
_LISTS = ("stop", "watch")
_NAMES = frozenset((*_NUMBERS, *_ALIASES, *_LISTS, "error", "patch"))


def parse_settings(text: str, present: Sampling = Sampling()) -> tuple[Sampling, str | None]:  # noqa: B008
    """The settings of a line, and the other prompt of an ablation to it; what is not on the line stays as it is.

    `stop` and `watch` without a value are emptied.

    Raises:
        BadRequest: an unknown name, a value out of range, or a quotation mark that is not closed.
    """
    found: dict[str, Any] = {}
    patch: str | None = None
    words = list(_pieces(text))
    while words:
        word, quoted = words.pop(0)
        name = _ALIASES.get(word.casefold(), word.casefold())
        if quoted or name not in _NAMES:
            raise BadRequest(f"{_short(word)} is no setting.", _REMEDY)
        values: list[str] = []
        while words and (words[0][1] or words[0][0].casefold() not in _NAMES) and (name in _LISTS or not values):
            values.append(words.pop(0)[0])
        if not values and name not in _LISTS:
            raise BadRequest(f"{name} has no value.", _REMEDY)
        if name in _NUMBERS:
            field, read, wanted = _NUMBERS[name]
            found[field] = read(values[0])
            if found[field] is None:
                raise BadRequest(f"{word} is {wanted}, not {_short(values[0])}.", _REMEDY)
        elif name in _LISTS:
            if not all(values):
                raise BadRequest(f"{name} names an empty text.", "Put characters between the quotation marks.")
            found[name] = tuple(values)
        elif name == "error":
            if values[0] not in {"kept", "dropped"}:
                raise BadRequest(f"error is kept or dropped, not {_short(values[0])}.", _REMEDY)
            found["keep_error"] = values[0] == "kept"
        else:
            patch = values[0]
    return msgspec.structs.replace(present, **found), patch


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Words and quoted texts, with whether they were quoted."""
    place = 0
    while text[place:].strip():
        match = _PIECE.match(text, place)
        if match is None:
            raise BadRequest("A quotation mark is not closed.", _REMEDY)
        place = match.end()
        if match[1] is None:
            yield match[2], False
            continue
        try:
            yield json.loads(f'"{match[1]}"', strict=False), True
        except ValueError:
            raise BadRequest(
                f"{_short(match[1])} has a backslash that means nothing.", 'Write \\\\, \\n or \\".'
            ) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:29]}…")


def shown_settings(sampling: Sampling, patch: str | None) -> str:
    """The line that means these settings."""
    parts = [
        f"tokens {sampling.tokens}",
        f"T {sampling.temperature:.10g}",
        f"top-p {sampling.top_p:.10g}",
        f"top-k {sampling.top_k}",
        f"penalty {sampling.repetition_penalty:.10g}",
        f"seed {sampling.seed}",
        f"error {'kept' if sampling.keep_error else 'dropped'}",
    ]
    for name, texts in (("stop", sampling.stop), ("watch", sampling.watch)):
        if texts:
            parts.append(f"{name} {' '.join(map(_quoted, texts))}")
    if patch is not None:
        parts.append(f"patch {_quoted(patch)}")
    return "  ".join(parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())
