"""What people wrote about features: feature-circuits' annotation files, JSON lines with all their dirt.

A row is {"Component", "Layer", "Feature", "Name": "resid_5/3036", "Annotation", "Notes"}, any of them missing. Such
files come out of spreadsheets: header rows among the rows, `notes` for `Notes`, rows twice (the last one wins), and
"0" where a cell was empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import BadRequest
from engine.labels.lines import read_row
from engine.labels.rows import Row
from engine.text import visible

Key = tuple[str, int, int]
"""Component (`attn`, `mlp`, `resid`, `embed`), layer (0 for `embed`) and index of a feature."""

_NAME = re.compile(r"(?:(attn|mlp|resid)_(\d{1,4})|embed)/(\d{1,9})\Z")
_NUMBER = re.compile(r"\d{1,9}\Z")
_EMPTY = {"", "0"}
_LARGEST_FILE = 64 << 20
KNOWN_MAPS = {"pythia-70m-deduped": {"resid": "res-sm", "attn": "att-sm", "mlp": "mlp-sm"}}
"""Neuronpedia's source sets of the models that have annotation files and one set per component."""
COMPONENTS = ("resid", "attn", "mlp", "embed")


class Annotation(msgspec.Struct, frozen=True):
    """Both made safe for a terminal."""

    text: str
    notes: str = ""


class Dirt(msgspec.Struct, frozen=True):
    """How many rows were not as they should be."""

    rows: int = 0
    """All rows that are JSON objects, the dirty ones among them."""
    headers: int = 0
    without_annotation: int = 0
    duplicates: int = 0
    """Rows whose name was there before, headers among them."""
    name_only: int = 0
    """Rows that name their feature by `Name` alone."""
    unnamed: tuple[int, ...] = ()
    """Lines that name no feature."""
    broken: tuple[int, ...] = ()
    """Lines that are no JSON object."""

    def __str__(self) -> str:
        found = [
            f"{self.headers} header {_plural('row', self.headers)}" if self.headers else "",
            f"{self.without_annotation} without annotation" if self.without_annotation else "",
            f"{self.duplicates} {_plural('duplicate', self.duplicates)} (the last counts)" if self.duplicates else "",
            f"no feature in {_lines(self.unnamed)}" if self.unnamed else "",
            f"not JSON: {_lines(self.broken)}" if self.broken else "",
        ]
        return f"{self.rows} {_plural('row', self.rows)}: " + (", ".join(filter(None, found)) or "all clean")


class Annotations(msgspec.Struct, frozen=True):
    """Labels, and what was dirty."""

    labels: dict[Key, Annotation]
    dirt: Dirt


def read_annotations(path: Path) -> Annotations:
    """The labels of a file; dirty rows are counted, not refused.

    Raises:
        BadRequest: the file cannot be read, or no row of it names a feature.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadRequest(f"{path} is too large for an annotation file.", "Such files are written by hand.")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    labels: dict[Key, Annotation] = {}
    seen: set[Key | str] = set()
    count = dict.fromkeys(("rows", "headers", "without_annotation", "duplicates", "name_only"), 0)
    unnamed, broken = [], []
    for line, row in _rows(text):
        if row is None:
            broken.append(line)
            continue
        count["rows"] += 1
        count["name_only"] += "component" not in row
        is_header = row.get("name", row.get("component")) in ("Name", "Component")
        key: Key | str | None = "header" if is_header else _key(row)
        if key is None:
            unnamed.append(line)
            continue
        count["headers"] += is_header
        count["duplicates"] += key in seen
        seen.add(key)
        written = _written(row, "annotation")
        count["without_annotation"] += written in _EMPTY
        if isinstance(key, tuple) and written not in _EMPTY:
            labels[key] = Annotation(written, _written(row, "notes"))
    if not labels:
        raise BadRequest(
            f"{path} holds no annotations.", 'A row is {"Name": "resid_5/3036", "Annotation": "plural nouns"}.'
        )
    return Annotations(labels, Dirt(**count, unnamed=tuple(unnamed), broken=tuple(broken)))


def annotation_rows(
    labels: Mapping[Key, Annotation], model: str, sets: Mapping[str, str], by: str
) -> tuple[list[Row], int]:
    """Annotations as labels of a model's dictionaries, and how many are of components that `sets` does not name.

    `sets` says what a component's dictionaries are called: {"resid": "res-sm"} makes `resid_5` the source 5-res-sm and
    `embed` e-res-sm; {"resid": "resid_out_layer{}"} puts the layer elsewhere. Notes become labels of kind `notes`.
    """
    rows: list[Row] = []
    unmapped = 0
    for (component, layer, index), annotation in labels.items():
        name = sets.get(component) or (sets.get("resid", "") if component == "embed" else "")
        if not name:
            unmapped += 1
            continue
        number = "e" if component == "embed" else str(layer)
        source = name.replace("{}", number) if "{}" in name else f"{number}-{name}"
        rows.append(Row(model, source, index, annotation.text, by, "annotation", f"{by}:annotation"))
        if annotation.notes not in _EMPTY:
            rows.append(Row(model, source, index, annotation.notes, by, "notes", f"{by}:notes"))
    return rows, unmapped


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line numbers and rows, keys in lower case; None for what is no object."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = read_row(line)
        yield number, None if row is None else {key.strip().lower(): value for key, value in row.items()}


def _key(row: dict[str, Any]) -> Key | None:
    """From the name, else from component, layer and feature."""
    if match := _NAME.match(str(row.get("name", "")).strip()):
        return match[1] or "embed", int(match[2] or 0), int(match[3])
    component, layer, feature = (str(row.get(key, "")).strip() for key in ("component", "layer", "feature"))
    if component == "embed" and _NUMBER.match(feature):
        return component, 0, int(feature)
    if component in ("attn", "mlp", "resid") and _NUMBER.match(layer) and _NUMBER.match(feature):
        return component, int(layer), int(feature)
    return None


def _written(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return visible(value.strip()) if isinstance(value, str) else ""


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _lines(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
    return f"{_plural('line', len(numbers))} {shown}"
