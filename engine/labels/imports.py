"""Files of labels, recognised by what is in them, going into the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.errors import BadRequest
from engine.labels.annotations import KNOWN_MAPS, annotation_rows, read_annotations
from engine.labels.exports import Tally, explanations
from engine.labels.lines import Report, lines, read_row
from engine.labels.own import OwnLabel, own_rows
from engine.labels.store import LabelStore

Form = Literal["explanations", "annotations", "own labels", "features", "activations", "unknown"]
_LOOKED_AT = 50
_ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


class Imported(msgspec.Struct, frozen=True):
    """What became of one file."""

    file: str
    form: Form
    labels: int = 0
    places: tuple[tuple[str, str], ...] = ()
    """Model and source of what it has labels of."""
    notes: tuple[str, ...] = ()
    """What was left out."""
    refused: str = ""
    """Why nothing of it was kept."""


def import_labels(
    store: LabelStore,
    path: Path,
    model: str | None = None,
    source: str | None = None,
    sets: Mapping[str, str] | None = None,
    report: Report | None = None,
) -> list[Imported]:
    """Import a file, or all files of labels in a folder and below it; each is kept whole or not at all.

    `model` and `source` stand for what the rows say, or say what they do not; `sets` is for annotations, see
    `annotation_rows`. In a folder, files that cannot be read are told in the result, and the others are kept.

    Raises:
        BadRequest: there is nothing there, or no file has labels.
        LabelsUnusable: the store cannot be written.
    """
    if not path.is_dir():
        return [_import_file(store, path, model, source, sets, report, alone=True)]
    found = []
    for file in _files(path):
        try:
            found.append(_import_file(store, file, model, source, sets, report, alone=False))
        except BadRequest as error:
            found.append(Imported(str(file), "unknown", refused=str(error)))
    if not any(each.labels for each in found):
        refused = next((each.refused for each in found if each.refused), "")
        raise BadRequest(f"{path} has no file with labels.", refused or "Give an explanation export or annotations.")
    return found


def form_of(file: Path) -> Form:
    """What the rows of a file are, as far as its first ones tell."""
    for line in islice(lines(file), _LOOKED_AT):
        row = read_row(line) if line else None
        if row is not None and (form := _form(row)):
            return form
    return "unknown"


def _import_file(
    store: LabelStore,
    file: Path,
    model: str | None,
    source: str | None,
    sets: Mapping[str, str] | None,
    report: Report | None,
    alone: bool,
) -> Imported:
    form = form_of(file)
    match form:
        case "explanations":
            return _explanations(store, file, model, source, report)
        case "annotations":
            return _annotations(store, file, model, sets)
        case "own labels":
            return _own(store, file)
        case "features" | "activations":
            note = f"Neuronpedia's {form} were left out: only explanations are labels"
        case "unknown":
            note = "no rows of a form that is known"
    if alone:
        raise BadRequest(
            f"{file} has no labels: {note}.",
            "Give Neuronpedia's explanations/batch-N.jsonl.gz, annotations of feature-circuits, or what "
            "`saescope labels export` wrote.",
        )
    return Imported(str(file), form, notes=(note,))


def _explanations(
    store: LabelStore, file: Path, model: str | None, source: str | None, report: Report | None
) -> Imported:
    tally = Tally()
    with store.filling(str(file.resolve())) as filling:
        filling.add(explanations(file, tally, model, source, report=report))
        if not tally.rows:
            raise BadRequest(f"{file} has no explanations: {', '.join(tally.notes(0))}.", "Fetch it again.")
    notes = tuple(tally.notes(filling.labels))
    return Imported(str(file), "explanations", filling.labels, filling.places, notes)


def _annotations(store: LabelStore, file: Path, model: str | None, sets: Mapping[str, str] | None) -> Imported:
    if model is None:
        raise BadRequest(
            f"{file} does not say which model its annotations are about.",
            "Say it, e.g. --model pythia-70m-deduped --map resid=res-sm --map attn=att-sm --map mlp=mlp-sm.",
        )
    if not (sets := sets or KNOWN_MAPS.get(model)):
        raise BadRequest(
            f"{file} says resid_5 and the like, not which dictionaries of {model} it means.",
            "Say it, e.g. --map resid=res-sm --map attn=att-sm --map mlp=mlp-sm.",
        )
    read = read_annotations(file)
    rows, unmapped = annotation_rows(read.labels, model, sets, file.name)
    if not rows:
        raise BadRequest(f"No annotation of {file} is about {', '.join(sets)}.", "Map other components with --map.")
    with store.filling(str(file.resolve())) as filling:
        filling.add(rows)
    notes = [str(read.dirt)]
    if unmapped:
        notes.append(f"{unmapped} of components that --map does not name left out")
    return Imported(str(file), "annotations", filling.labels, filling.places, tuple(notes))


def _own(store: LabelStore, file: Path) -> Imported:
    found = list(own_rows(line or b"-" for line in lines(file)))
    last = {(row.model, row.source, row.index): row for row in found if row}
    rows = [row for row in last.values() if row.text.strip()]
    if not rows:
        raise BadRequest(f"{file} has no labels.", "`saescope labels export FILE` writes such files.")
    store.set_own(rows)
    damaged = found.count(None)
    notes = (f"{damaged} damaged line{'' if damaged == 1 else 's'} left out",) if damaged else ()
    return Imported(
        str(file), "own labels", len(rows), tuple(dict.fromkeys((row.model, row.source) for row in rows)), notes
    )


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.name.endswith(_ENDINGS) and file.is_file():
            yield file


def _form(row: dict[str, Any]) -> Form | None:
    keys = row.keys()
    lower = {key.strip().lower() for key in keys}
    if {"modelId", "layer", "index", "description"} <= keys:
        return "explanations"
    if {"tokens", "values"} <= keys:
        return "activations"
    if {"modelId", "layer", "index"} <= keys:
        return "features"
    if set(OwnLabel.__struct_fields__) <= keys:
        return "own labels"
    if "annotation" in lower or "name" in lower or {"component", "feature"} <= lower:
        return "annotations" if not {"modelId", "id"} & keys else None
    return None
