"""A quicklist as marks: its features, matched to open dictionaries by their Neuronpedia ids and never by their names.

What is not open is kept apart and said, with the release to open where SAELens' registry knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from engine.errors import SessionError
from engine.results import DictionaryInfo, FeatureRef
from sessions.links import Entry, has_page
from sessions.listing import read_features
from sessions.model import Session
from sessions.registered import release_names
from sessions.store import is_running, now, read_session, write_session

_SHOWN = 3
"""So many of the indices that a dictionary does not have are named."""


class Imported(msgspec.Struct, frozen=True):
    """Features of a list that can be marked, in its order, and those that cannot; each once."""

    marks: tuple[FeatureRef, ...]
    unknown: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    """Why they cannot, and what to open, a sentence for each source."""


def import_quicklist(opened: Session | Iterable[DictionaryInfo], entries: Iterable[Entry]) -> Imported:
    """The features of a list as marks of the dictionaries that are open.

    A dictionary matches where its Neuronpedia id is the entry's model and source, letter by letter; of two that do,
    the first.
    """
    by_page = _by_page(opened.dictionaries if isinstance(opened, Session) else opened)
    marks: list[FeatureRef] = []
    closed: dict[tuple[str, str], list[Entry]] = {}
    beyond: dict[tuple[str, str], list[Entry]] = {}
    distinct = list(dict.fromkeys(entries))
    for entry in distinct:
        key = entry.modelId, entry.layer
        if (info := by_page.get(key)) is None:
            closed.setdefault(key, []).append(entry)
        elif int(entry.index) >= info.d_sae:
            beyond.setdefault(key, []).append(entry)
        else:
            marks.append(FeatureRef(info.source, int(entry.index)))
    unknown = {entry for group in (*closed.values(), *beyond.values()) for entry in group}
    notes = [_closed_note(key, len(group)) for key, group in closed.items()]
    notes += [_beyond_note(by_page[key], group) for key, group in beyond.items()]
    return Imported(tuple(marks), tuple(entry for entry in distinct if entry in unknown), tuple(notes))


def import_address(text: str, opened: Session | Iterable[DictionaryInfo]) -> Imported:
    """The features of what was pasted: a quicklist's address, a feature's, or MODEL@SOURCE:INDEX, one a line.

    Raises:
        BadRequest: it is none of these.
    """
    return import_quicklist(opened, read_features(text).features)


def import_into(path: Path, entries: Iterable[Entry]) -> Imported:
    """Add the features of a list to the marks of a session file; what is marked already stays where it is.

    Raises:
        SessionError: the file is no session, is open in a running saescope, cannot be written, or none of the
            features is of its dictionaries; it is then unchanged.
    """
    session = read_session(path)
    if session.owner is not None and is_running(session.owner):
        raise SessionError(
            f"{path} is open in saescope (process {session.owner.pid} on {session.owner.host}).",
            "Quit that first, or import the list there.",
        )
    imported = import_quicklist(session, entries)
    if not imported.marks:
        raise SessionError(f"No feature of the list is of a dictionary of {path}.", " ".join(imported.notes[:3]))
    marks = tuple(dict.fromkeys((*session.marks, *imported.marks)))
    added = len(marks) - len(session.marks)
    if added:
        write_session(path, msgspec.structs.replace(session, marks=marks, updated=now()))
    if known := len(imported.marks) - added:
        note = f"{_features(known)} {'was' if known == 1 else 'were'} marked already."
        return msgspec.structs.replace(imported, notes=(*imported.notes, note))
    return imported


def _by_page(dictionaries: Iterable[DictionaryInfo]) -> Mapping[tuple[str, str], DictionaryInfo]:
    found: dict[tuple[str, str], DictionaryInfo] = {}
    for info in dictionaries:
        if info.neuronpedia and has_page(info.neuronpedia):
            model, _, source = info.neuronpedia.partition("/")
            found.setdefault((model, source), info)
    return found


def _closed_note(key: tuple[str, str], count: int) -> str:
    model, source = key
    names = release_names(model, source)
    how = f"Open {names[0]}." if names else "Open one whose cfg.json has it as neuronpedia_id."
    return f"Not marked, {_features(count)} of {model}/{source}: no open dictionary has this id. {how}"


def _beyond_note(info: DictionaryInfo, entries: list[Entry]) -> str:
    """`Not marked: 7-res-jb has no features 40, 41 and 3 more; its last is 39.`"""
    listed = [entry.index for entry in entries]
    shown = ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
    which = f"{'feature' if len(listed) == 1 else 'features'} {shown}"
    return f"Not marked: {info.source} has no {which}; its last is {info.d_sae - 1}."


def _features(count: int) -> str:
    return f"{count} {'feature' if count == 1 else 'features'}"
