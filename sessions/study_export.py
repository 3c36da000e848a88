"""Studies as files other programs read: their sets as quicklists, their tables as CSV, their plots as pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from engine.documents import to_json
from engine.errors import SessionError
from engine.protocol import FeatureSet, Open, StudyResult
from engine.study_reports import table_csv
from sessions.export import Exported, export_features
from sessions.model import Session, neuronpedia_ids
from sessions.quicklist import FormChoice
from sessions.store import read_session
from sessions.study_picture import study_svg


def is_study(path: Path) -> bool:
    """Whether a file is a result that `saescope study` wrote."""
    return _written(path) is not None


def find_study(path: Path, number: int | None = None) -> StudyResult:
    """The `number`-th study of a session, from 1, the last where None; or the result that the file is.

    Raises:
        SessionError: the file is neither, or the session has no such study.
    """
    if (result := _written(path)) is not None:
        return result
    studies = read_session(path).studies
    if not studies:
        raise SessionError(f"{path} holds no study.", "Carry one out with `saescope study`, or with 7 on the screen.")
    if number is not None and not 1 <= number <= len(studies):
        raise SessionError(f"This session has no study {number}.", f"It has {len(studies)}, numbered from 1.")
    return studies[-1 if number is None else number - 1].result


def export_study(result: StudyResult, to: str, table: str | None = None, plot: str | None = None) -> str:
    """A study as JSON, one of its tables as CSV, the first where none is named, or its plots as SVG, all or one.

    Raises:
        SessionError: it cannot be had in this form, or has no such table or plot.
    """
    if to == "json":
        return to_json(result)
    if to == "svg":
        return study_svg(result, plot)
    if to != "csv":
        raise SessionError(
            f"A study cannot be exported as {to}.", "Use --to json, csv or svg, or --set for a quicklist."
        )
    names = [known.name for known in result.tables]
    if not names or (table is not None and table not in names):
        raise SessionError(f"This study has no table {table or ''}.", f"It has {', '.join(names) or 'none'}.")
    return table_csv(result.table(table or names[0]))


def export_set(
    path: Path, name: str, title: str | None = None, form: FormChoice = "auto", study: int | None = None
) -> Exported:
    """The addresses for the features of a named set, in its order; of the `study`-th study, or the last that has it.

    Raises:
        SessionError: there is no such set, or none of its features has a page.
    """
    written = _written(path)
    session = Session("", "", "", opening=Open(id=0)) if written is not None else read_session(path)
    if written is not None or study is not None:
        results = [find_study(path, study)]
    else:
        results = [record.result for record in session.studies]
    chosen = find_set(results, name)
    pages = neuronpedia_ids(session)
    pages |= {m.feature.source: m.neuronpedia for m in chosen.members if m.neuronpedia is not None}
    features = [member.feature for member in chosen.members]
    called = (f"features of {chosen.name}", f"of {chosen.name}")
    return export_features(title if title is not None else chosen.name, features, pages, form, called)


def find_set(results: Iterable[StudyResult], name: str) -> FeatureSet:
    """The set of this name, of several the last; or, for "", the only one there is.

    Raises:
        SessionError: there is none, or for "" there are several.
    """
    sets = {chosen.name: chosen for result in results for chosen in result.sets}
    names = ", ".join(map(repr, sets)) or "none"
    if name in sets:
        return sets[name]
    if not name and len(sets) == 1:
        return next(iter(sets.values()))
    if not name:
        raise SessionError(f"There are several sets: {names}." if sets else "There is no set.", "Name one with --set.")
    raise SessionError(f"There is no set called {name!r}; there are {names}.", "Name one of them with --set.")


def _written(path: Path) -> StudyResult | None:
    """The result that a file is, None where it is something else; raises SessionError for one that is damaged."""
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict) or not {"study", "provenance"} <= document.keys():
        return None
    try:
        return msgspec.convert(document, StudyResult)
    except (msgspec.ValidationError, RecursionError) as error:
        raise SessionError(
            f"{path} is a study that cannot be read: {error}.", "It may be of a newer saescope; upgrade."
        ) from None
