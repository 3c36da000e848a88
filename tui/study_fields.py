"""The form of a study: its settings as lines of text, and back, checked by the struct that declares them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from engine.protocol import STUDIES, AnyStudy, settings_from

FieldKind = Literal["text", "whole", "number", "switch", "word", "list"]
_EXPECTED = {"whole": "a whole number", "number": "a number"}
_SWITCH = ("no", "yes")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_PART = re.compile(r'[ \t]*(?:"((?:[^"]|"")*)"[ \t]*(?=[,\r\n]|\Z)|([^,\r\n]+))')


class FormField(msgspec.Struct, frozen=True):
    """One setting of a study."""

    name: str
    kind: FieldKind
    help: str
    default: Any
    words: tuple[str, ...] = ()
    """What there is to choose from, where it is not free text."""

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    @property
    def is_choice(self) -> bool:
        return bool(self.words)


class Wrong(ValueError):
    """A line of a form does not fit."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        """"" where it is not known which."""
        self.reason = reason


@lru_cache(maxsize=64)
def fields_of(study: str) -> tuple[FormField, ...]:
    """The lines of a study's form, in the order of its struct; none for a study of a newer saescope."""
    kind = STUDIES.get(study)
    if kind is None:
        return ()
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_field(f.name, hints[f.name], _default(f)) for f in msgspec.structs.fields(kind))


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default is not msgspec.NODEFAULT:
        return info.default
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else None


def _field(name: str, hint: Any, default: Any) -> FormField:
    text = ""
    while True:
        if get_origin(hint) is Annotated:
            hint, *metadata = get_args(hint)
            text = text or next(filter(None, (getattr(meta, "description", None) for meta in metadata)), "")
        elif type(None) in get_args(hint):
            hint = next(part for part in get_args(hint) if part is not type(None))
        else:
            break
    if get_origin(hint) is Literal:
        return FormField(name, "word", text, default, tuple(map(str, get_args(hint))))
    if hint is bool:
        return FormField(name, "switch", text, default, _SWITCH)
    plain: dict[Any, FieldKind] = {int: "whole", float: "number", str: "text"}
    return FormField(name, plain.get(hint, "list"), text, default)


# --- values as text -----------------------------------------------------------------------------------------------


def shown(field: FormField, value: Any) -> str:
    """A value as its line of the form says it; "" for none."""
    if value is None:
        return ""
    if field.kind == "switch":
        return _SWITCH[bool(value)]
    if isinstance(value, list | tuple):
        return ", ".join(_quoted(str(part)) for part in value)
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


def _quoted(part: str) -> str:
    needed = not part or part != part.strip() or any(c in part for c in ',"\r\n')
    return '"{}"'.format(part.replace('"', '""')) if needed else part


def parts_of(text: str) -> tuple[str, ...]:
    """Parts between commas or on lines of their own; in quotes a comma, a line end and spaces at the ends stay."""
    found = ((quoted.replace('""', '"'), plain.strip()) for quoted, plain in _PART.findall(text))
    return tuple(quoted or plain for quoted, plain in found if quoted or plain)


def typed(field: FormField, text: str) -> Any:
    """The value a line means; nothing typed is the default.

    Raises:
        Wrong: it is no number.
    """
    if not text.strip():
        return field.default
    if field.kind == "switch":
        return text == _SWITCH[1]
    if field.kind == "list":
        return parts_of(text)
    if field.kind in _EXPECTED:
        return _number(field, text.strip())
    return text


def _number(field: FormField, text: str) -> int | float:
    if field.kind == "number" and text.count(",") == 1 and "." not in text:
        # 1,125 is one number to one reader and another to the next
        raise Wrong(field.name, f"{field.label}: in {text!r} the comma is not read: write {_examples(text)}.")
    plain = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    try:
        value = int(plain) if field.kind == "whole" else float(plain)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Wrong(field.name, f"{field.label}: {text!r} is not {_EXPECTED[field.kind]}.")
    return value


def _examples(text: str) -> str:
    """What a number with one comma may have meant."""
    point = text.replace(",", ".")
    return f"{point} or {text.replace(',', '')}" if _THOUSANDS.fullmatch(text) else point


# --- the whole form -----------------------------------------------------------------------------------------------


def settings_of(study: str, texts: Mapping[str, str]) -> AnyStudy:
    """The settings that the lines of a form mean.

    Raises:
        Wrong: a line does not fit; the first one that does not.
    """
    values = {field.name: typed(field, texts.get(field.name, "")) for field in fields_of(study)}
    try:
        return settings_from(study, values)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`").partition("[")[0]
        reason = reason.replace("`int`", "a whole number").replace("`float`", "a number").replace("`str`", "text")
        label = name.replace("_", " ") or "a setting"
        raise Wrong(name, f"{label}: {reason[:1].lower()}{reason[1:]}.") from None


def texts_of(study: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The lines of a form for plain settings, as results carry them; what they lack has its default."""
    return {field.name: shown(field, settings.get(field.name, field.default)) for field in fields_of(study)}


def next_word(field: FormField, text: str, step: int) -> str:
    """The word after or before one of a choice, round."""
    place = field.words.index(text) if text in field.words else 0
    return field.words[(place + step) % len(field.words)]


def word_from(field: FormField, text: str, letter: str) -> str:
    """The next word that begins with a letter; the same word where there is none."""
    place = field.words.index(text) if text in field.words else 0
    turned = (*field.words[place + 1 :], *field.words[: place + 1])
    return next((word for word in turned if word.startswith(letter)), text)
