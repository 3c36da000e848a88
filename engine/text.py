"""Strings from models, files and the web, made safe and legible for a terminal.

A terminal obeys control characters whoever sent them, so every such string passes `visible()` once before it
is drawn. Tokens get `visible_token()`, which also shows the leading space that tells two tokens apart.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_NAMED = {
    "\n": "⏎",
    "\r": "␍",
    "\t": "⇥",
    "\x1b": "␛",
    "\x7f": "␡",
    "\u00a0": "⍽",
    "\u2028": "⏎",
    "\u2029": "⏎",
}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@lru_cache(maxsize=8192)
def _visible_character(character: str) -> str:
    if (named := _NAMED.get(character)) is not None:
        return named
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures block
    category = unicodedata.category(character)
    if category in _HIDDEN:
        return f"⟨{code:02X}⟩"
    if category == "Zs" and character != " ":
        return "␣"
    return character


def visible(text: str) -> str:
    """`text` with every control, format, bidi, surrogate, private and unassigned character as a glyph.

    The result holds no character that a terminal would act on or that has no width, except combining marks
    that follow a base character.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(map(_visible_character, text))
    if shown and unicodedata.category(shown[0]) in {"Mn", "Me", "Mc"}:
        return "◌" + shown
    return shown


def visible_in_place(text: str) -> str:
    """As `visible`, one character for each, for fields in which a cursor counts characters."""
    if text.isascii() and text.isprintable():
        return text
    glyphs = map(_visible_character, text)
    return "".join(g if len(g) == 1 else "\ufffd" for g in glyphs)


def quoted(text: str, most: int = 60) -> str:
    """A user's text in a sentence of ours: visible, in quotes, and cut after `most` characters."""
    shown = visible(text)
    return f"“{shown if len(shown) <= most else shown[: most - 1] + '…'}”"


def visible_token(text: str) -> str:
    """One token: `visible()`, a leading space shown as `·`, and nothing ever empty."""
    if not text:
        return "∅"
    shown = visible(text)
    stripped = shown.lstrip(" ")
    return "·" * (len(shown) - len(stripped)) + stripped


def bytes_glyph(data: bytes) -> str:
    """Bytes that are no whole UTF-8 character, as `⟨E2 80⟩`."""
    return "⟨" + data.hex(" ").upper() + "⟩"


def has_lone_surrogate(text: str) -> bool:
    """True where `text` is not encodable, e.g. a command-line argument that was not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def terminal_safe_json(encoded: str) -> str:
    """JSON whose strings hold raw non-ASCII characters, with the dangerous ones as `\\uXXXX` escapes.

    JSON already escapes the C0 controls; C1, bidi and other hidden characters it lets through.
    """
    if encoded.isascii() and "\x7f" not in encoded:
        return encoded
    return "".join(_escaped(c) if c > "\x7e" and unicodedata.category(c) in _HIDDEN else c for c in encoded)


def _escaped(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
