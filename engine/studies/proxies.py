"""Log-likelihood proxies: how much likelier a stretch of text is as text of a kind than as any text.

After Towards Monosemanticity: log P(s|c)/P(s), s the string of tokens that ends at the current one, at its largest over
where s begins, with P(s) the product of the tokens' frequencies. Kinds with a model of their characters (base64, DNA)
give P(s|c) directly; for the others P(c|s) is 1 or 1e-10 and Bayes' rule gives the same quotient as P(c|s)/P(c).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadRequest

_NEVER = math.log(1e-10)
"""log P of a character that the kind does not have, and of a string that is not of the kind."""
_LIKELY = 5.0
"""Nats: 150 times as likely."""

SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "armenian": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "bengali": ((0x980, 0x9FF),),
    "tamil": ((0xB80, 0xBFF),),
    "thai": ((0xE00, 0xE7F),),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "han": ((0x2E80, 0x2FDF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
}
"""Unicode blocks by script, both ends included."""
_ALPHABETS = {
    "base64": frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
    "dna": frozenset("ACGT"),
}


class Kind(Protocol):
    """A kind of text."""

    name: str

    @property
    def groups(self) -> tuple[str, ...]:
        """What tokens are sorted into, the most of the kind last."""

    def learn(self, contexts: Sequence[Sequence[bytes]]) -> None:
        """See all of the text once, each context as the bytes of its tokens, b"" for special ones."""

    def proxy(self, pieces: Sequence[bytes]) -> NDArray[np.float64]:
        """[tokens] of one context, in nats."""

    def group(self, proxy: NDArray[np.float64]) -> NDArray[np.int64]:
        """[tokens], the place in `groups`."""


@dataclass
class Members:
    """A kind that a character belongs to or not: a script, a pattern, words.

    `mask` says of a text which of its characters belong; white space beside them does no harm. Characters that are
    several tokens belong to all of them.
    """

    name: str
    mask: Callable[[str], NDArray[np.bool_]]
    share: float = 0.0
    """P(c): the share of tokens that are of the kind."""

    @property
    def groups(self) -> tuple[str, ...]:
        return ("other", self.name)

    def learn(self, contexts: Sequence[Sequence[bytes]]) -> None:
        found = [self.members(pieces) for pieces in contexts]
        texts = sum(len(piece) > 0 for pieces in contexts for piece in pieces)
        self.share = sum(int(f.sum()) for f in found) / max(texts, 1)

    def members(self, pieces: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which tokens are of the kind."""
        text, starts, ends = characters(pieces)
        inside = self.mask(text)
        blank = np.fromiter((c.isspace() for c in text), np.bool_, len(text))
        belongs = np.concatenate([[0], np.cumsum(inside & ~blank)])
        foreign = np.concatenate([[0], np.cumsum(~inside & ~blank)])
        found: NDArray[np.bool_] = (belongs[ends] > belongs[starts]) & (foreign[ends] == foreign[starts])
        return found

    def proxy(self, pieces: Sequence[bytes]) -> NDArray[np.float64]:
        prior = math.log(self.share) if self.share else 0.0
        return np.where(self.members(pieces), -prior, _NEVER - prior)

    def group(self, proxy: NDArray[np.float64]) -> NDArray[np.int64]:
        return (proxy > _NEVER / 2).astype(np.int64)


@dataclass
class Characters:
    """A kind whose characters are drawn from an alphabet, each alike."""

    name: str
    alphabet: frozenset[str]
    _logs: dict[bytes, float] | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        return ("≤ 0", f"0 to {_LIKELY:g}", f"> {_LIKELY:g}")

    def learn(self, contexts: Sequence[Sequence[bytes]]) -> None:
        counts = Counter(piece for pieces in contexts for piece in pieces if piece)
        total = counts.total()
        inside = -math.log(len(self.alphabet))
        self._logs = {
            piece: sum(inside if c in self.alphabet else _NEVER for c in _decoded(piece)) - math.log(count / total)
            for piece, count in counts.items()
        }

    def proxy(self, pieces: Sequence[bytes]) -> NDArray[np.float64]:
        assert self._logs is not None
        best = 0.0
        found = []
        for piece in pieces:
            # A special token has no characters: no string goes on through it.
            best = self._logs[piece] + max(best, 0.0) if piece else _NEVER
            found.append(best)
        return np.array(found)

    def group(self, proxy: NDArray[np.float64]) -> NDArray[np.int64]:
        return (proxy > 0).astype(np.int64) + (proxy > _LIKELY)


def kind_of(name: str) -> Kind:
    """A kind by what was typed.

    Raises:
        BadRequest: there is no such kind, or its pattern or its words cannot be used.
    """
    word, colon, rest = name.partition(":")
    key = word.strip().lower()
    if key in SCRIPTS and not colon:
        return Members(key, _in_blocks(SCRIPTS[key]))
    if key in _ALPHABETS and not colon:
        return Characters(key, _ALPHABETS[key])
    if key == "regex" and rest:
        try:
            return Members(name, _matches(re.compile(rest)))
        except re.error as error:
            raise BadRequest(f"{rest!r} is not a regular expression: {error}.", "See Python's re module.") from None
    if key == "words" and rest:
        return Members(name, _matches(_any_of(words_in(Path(rest)))))
    known = ", ".join([*SCRIPTS, *_ALPHABETS])
    raise BadRequest(f"{name!r} is not a kind of text.", f"Use {known}, regex:PATTERN or words:FILE.")


def words_in(file: Path) -> list[str]:
    """The lines of a file that are not empty, each once.

    Raises:
        BadRequest: it cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is not UTF-8.", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    if not (words := list(dict.fromkeys(line.strip() for line in lines if line.strip()))):
        raise BadRequest(f"{file} is empty.", "Write one on each line.")
    return words


def characters(pieces: Sequence[bytes]) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """Tokens as one text, and for each the first character it has a part of and the one after its last."""
    text = _decoded(b"".join(pieces))
    sizes = [len(c.encode("utf-8", "surrogateescape")) for c in text]
    of_byte = np.repeat(np.arange(len(text), dtype=np.int64), sizes)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    padded = np.concatenate([of_byte, [len(text)]])
    last = np.where(ends > starts, padded[np.maximum(ends - 1, 0)] + 1, padded[starts])
    return text, padded[starts], last


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _in_blocks(blocks: tuple[tuple[int, int], ...]) -> Callable[[str], NDArray[np.bool_]]:
    def mask(text: str) -> NDArray[np.bool_]:
        points = np.fromiter(map(ord, text), np.int64, len(text))
        inside: NDArray[np.bool_] = np.logical_or.reduce([(points >= low) & (points <= high) for low, high in blocks])
        return inside

    return mask


def _matches(pattern: re.Pattern[str]) -> Callable[[str], NDArray[np.bool_]]:
    def mask(text: str) -> NDArray[np.bool_]:
        found = np.zeros(len(text), np.bool_)
        for match in pattern.finditer(text):
            found[match.start() : match.end()] = True
        return found

    return mask


def _any_of(words: list[str]) -> re.Pattern[str]:
    """Any of the words, whole and in any case, the longer first."""
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
