"""Presets as a document of their own: interventions under names, to take from one session into another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.errors import BadRequest, SessionError
from engine.text import terminal_safe_json
from sessions.model import Preset, Session
from sessions.store import read_session

SCHEMA = 1


class PresetDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The document; `model` names the model its features are of, "" where the session had none open."""

    schema: int = SCHEMA
    model: str = ""
    presets: tuple[Preset, ...]


class _Shape(msgspec.Struct):
    """What tells a session from a document of presets."""

    schema: int = 0
    opening: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    presets: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def export_presets(session: Session) -> str:
    """The presets of a session as JSON.

    Raises:
        SessionError: it has none, or a name is not Unicode.
    """
    if not session.presets:
        raise SessionError("No preset is saved in this session.", "Save one in the steering pane.")
    document = PresetDocument(model=session.model.name if session.model else "", presets=session.presets)
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError as error:
        raise SessionError(
            f"The presets cannot be written: a text in them is not Unicode ({error.reason}).", "Save them anew."
        ) from None
    return terminal_safe_json(msgspec.json.format(encoded, indent=2).decode()) + "\n"


def read_presets(path: Path) -> tuple[Preset, ...]:
    """The presets in a document of presets, or in a session.

    Raises:
        SessionError: no such file, neither of the two, or one from a newer saescope.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SessionError(
            f"{path} cannot be read: {error.strerror}.", "Give a file of presets or a session."
        ) from None
    try:
        shape = msgspec.json.decode(data, type=_Shape)
        if shape.opening is not msgspec.UNSET:
            return read_session(path).presets
        if shape.presets is msgspec.UNSET:
            raise SessionError(f"{path} holds no presets.", "Give a file of presets or a session.")
        if shape.schema > SCHEMA:
            raise SessionError(f"{path} was written by a newer saescope (schema {shape.schema}).", "Upgrade saescope.")
        return msgspec.json.decode(data, type=PresetDocument).presets
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SessionError(
            f"{path} is no file of presets: {error}.", "Give one that saescope exported, or a session."
        ) from None


def find_preset(presets: Sequence[Preset], name: str) -> Preset:
    """The preset of a name; of several the last saved.

    Raises:
        BadRequest: there is none of that name.
    """
    for preset in reversed(presets):
        if preset.name == name:
            return preset
    known = ", ".join(repr(preset.name) for preset in presets)
    raise BadRequest(f"There is no preset {name!r}.", f"There are: {known}." if known else "None is saved there.")
