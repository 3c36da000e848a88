"""Features from what was typed: names, and files that hold sets of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import msgspec

from engine.errors import BadRequest
from engine.opening import OpenSet, page_of
from engine.results import FeatureRef, parse_feature
from engine.study_results import FeatureSet, SetMember
from engine.text import visible

TYPED = "features"
"""What the set of those typed one by one is called."""
_FORMS = "Give a study's JSON, a session, or a text with SOURCE:INDEX on every line."


class _Record(msgspec.Struct):
    """A study in a session file; nothing else of it is read."""

    result: _Document


class _Document(msgspec.Struct):
    """What JSON with features in it may have: a result its sets, a session its studies and marks."""

    sets: tuple[FeatureSet, ...] | None = None
    studies: tuple[_Record, ...] | None = None
    marks: tuple[FeatureRef, ...] | None = None


def given_sets(opened: OpenSet, names: Sequence[str]) -> list[FeatureSet]:
    """Named sets of features of open dictionaries, each feature once in a set.

    SOURCE:INDEX typed one by one are one set, called `features`. A file is a study's JSON, a session (its studies'
    sets, the newest of each name, and its marks) or text with one feature a line (`#` begins a comment); FILE#NAME is
    one set of a file. Empty sets are left out where none was asked for by name.

    Raises:
        BadRequest: a name is neither a feature nor a file, a file cannot be read or holds none, a set is empty or
            unknown, or a feature is not of an open dictionary; () is refused too.
    """
    files = [(name, *_file_of(name)) for name in names]
    typed = [_feature(name) for name, path, _ in files if path is None]
    found = [set_of(opened, TYPED, typed, "As typed.")] if typed else []
    for _, path, wanted in files:
        if path is not None:
            for one in _chosen(_sets_in(path), wanted, path):
                found.append(msgspec.structs.replace(one, name=_free(one.name, path, found)))
    if not found:
        raise BadRequest("No feature was named.", "Name one or more, e.g. 13-res-sc:3467, or a file with a set.")
    for one in found:
        for member in one.members:
            opened.find(member.feature.source, member.feature.index)
    return [_each_once(one) for one in found]


def features_in(sets: Iterable[FeatureSet]) -> list[FeatureRef]:
    """The features of several sets, each once, in the order first met."""
    return list(dict.fromkeys(member.feature for one in sets for member in one.members))


def set_of(
    opened: OpenSet,
    name: str,
    features: Iterable[FeatureRef],
    rule: str,
    effects: Mapping[FeatureRef, float] | None = None,
) -> FeatureSet:
    """A named set, its members with their pages on Neuronpedia where they have some, and the number they came by."""
    members = []
    for ref in features:
        dictionary = opened.dictionaries.get(ref.source)
        page = None if dictionary is None else page_of(dictionary)
        members.append(SetMember(ref, None if effects is None else effects.get(ref), page))
    return FeatureSet(name, tuple(members), rule)


# --- reading ----------------------------------------------------------------------------------------------------------


def _file_of(name: str) -> tuple[Path | None, str | None]:
    """The file that a name means, and which of its sets; None for what is no file."""
    head, mark, wanted = name.partition("#")
    try:
        whole, file = Path(name).expanduser(), Path(head).expanduser()
        if name and whole.is_file():
            return whole, None
        if mark and head and file.is_file():
            return file, wanted
    except (OSError, ValueError, RuntimeError):  # too long for a name, a zero byte in it, or ~ of nobody
        pass
    return None, None


def _free(name: str, path: Path, others: Sequence[FeatureSet]) -> str:
    """The name of a set, with its file's and a number where another has it."""
    taken = {one.name for one in others}
    numbered = (f"{path.stem} {name} {n}" for n in count(2))
    return next(one for one in chain((name, f"{path.stem} {name}"), numbered) if one not in taken)


def _feature(name: str) -> FeatureRef:
    try:
        return parse_feature(name)
    except BadRequest:
        if "://" in name:
            raise BadRequest(
                "An address is not read here.",
                f"`saescope import` lists the features of a quicklist; {_FORMS[0].lower()}{_FORMS[1:]}",
            ) from None
        shown = visible(name)[:80]
        raise BadRequest(
            f"{shown!r} is neither a feature nor a file.", "Write SOURCE:INDEX, e.g. 13-res-sc:3467, FILE or FILE#NAME."
        ) from None


def _sets_in(path: Path) -> list[FeatureSet]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 (byte {error.start}).", _FORMS) from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    return _from_json(text, path) if text.lstrip().startswith(("{", "[")) else [_from_lines(text, path)]


def _from_json(text: str, path: Path) -> list[FeatureSet]:
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadRequest(f"{path} is not JSON with sets of features: {visible(str(error))}.", _FORMS) from None
    if document.sets is None and document.studies is None and document.marks is None:
        raise BadRequest(f"{path} holds no sets of features.", _FORMS)
    found = {one.name: one for one in document.sets or ()}
    for record in document.studies or ():
        found |= {one.name: one for one in record.result.sets or ()}
    if document.marks:
        found.setdefault("marks", FeatureSet("marks", tuple(map(SetMember, document.marks)), "Marked on the screen."))
    return list(found.values())


def _from_lines(text: str, path: Path) -> FeatureSet:
    members = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (name := line.partition("#")[0].strip()):
            continue
        try:
            members.append(SetMember(parse_feature(name)))
        except BadRequest:
            shown = visible(name)[:40]
            raise BadRequest(f"{path}, line {number}: {shown!r} is not a feature.", _FORMS) from None
    return FeatureSet(path.stem, tuple(members), f"The lines of {path.name}.")


def _chosen(sets: Sequence[FeatureSet], wanted: str | None, path: Path) -> list[FeatureSet]:
    known = ", ".join(visible(one.name) for one in sets) or "none"
    if wanted is None:
        if not (found := [one for one in sets if one.members]):
            raise BadRequest(f"{path} holds no features.", _FORMS)
        return found
    for one in sets:
        if one.name == wanted:
            if not one.members:
                raise BadRequest(f"The set {visible(wanted)!r} of {path} is empty.", f"Its sets are {known}.")
            return [one]
    raise BadRequest(f"{path} has no set called {visible(wanted)[:40]!r}.", f"Its sets are {known}.")


def _each_once(one: FeatureSet) -> FeatureSet:
    members = {member.feature: member for member in reversed(one.members)}
    ordered = dict.fromkeys(member.feature for member in one.members)
    return msgspec.structs.replace(one, members=tuple(members[ref] for ref in ordered))
