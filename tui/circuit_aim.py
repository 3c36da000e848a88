"""What a trace is to explain, as the user types it: `·Paris, ·London / ·Rome | another prompt`.

A leading space is part of a token and decides which one it is; `·` stands for it, so that it can be seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tui.text import visible, visible_token

PLACEHOLDER = "·Paris / ·Rome | other prompt  (· or a space: part of it)"


@dataclass(frozen=True)
class Aim:
    """Targets, what they are compared with, and a prompt that takes the place of zero as the baseline."""

    target: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    patch: str | None = None


def parse_aim(text: str) -> Aim:
    """The parts of what was typed; a backslash takes the meaning of `, / |` away."""
    head, *patch = _split(text, "|", 1)
    targets, *against = _split(head, "/", 1)
    other = _plain(patch[0]).strip() if patch else ""
    return Aim(_tokens(targets), _tokens(against[0]) if against else (), other or None)


def _split(text: str, mark: str, times: int = 0) -> list[str]:
    return re.split(rf"(?<!\\){re.escape(mark)}", text, maxsplit=times)


def _plain(text: str) -> str:
    return re.sub(r"\\([,/|\\])", r"\1", text)


def _tokens(text: str) -> tuple[str, ...]:
    """Spaces after a token only separate; those before it are one space that belongs to it."""
    found = []
    for part in _split(text, ","):
        word = _plain(part).rstrip()
        bare = word.lstrip(" ·")
        if word:
            found.append(f" {bare}" if len(bare) < len(word) else bare)
    return tuple(found)


def reading(aim: Aim) -> str:
    """How what was typed is understood."""
    if not aim.target:
        head = "explains the likeliest next token"
        if aim.against:
            head = "what is compared with needs a target before the /"
    else:
        head = f"explains {_names(aim.target)}"
        if aim.against:
            head += f" against {_names(aim.against)}"
    return head + (f", where the baseline is “{visible(aim.patch)}”" if aim.patch else ", baseline zero")


def doubt(aim: Aim, prompt: str) -> str:
    """What is probably not meant: a word without its space continues the word before."""
    if not prompt or prompt[-1].isspace():
        return ""
    glued = [t for t in (*aim.target, *aim.against) if t[0].isalnum()]
    if not glued:
        return ""
    return f"“{visible(glued[0])}” would continue the last word; a word of its own is ·{visible(glued[0])}"


def _names(tokens: tuple[str, ...]) -> str:
    return ", ".join(visible_token(t) for t in tokens)
