"""What people wrote about features: feature-circuits' annotation files, JSON lines with all their dirt.

A row is {"Component", "Layer", "Feature", "Name": "resid_5/3036", "Annotation", "Notes"}, any of them missing. Such
files come out of spreadsheets: header rows among the rows, `notes` for `Notes`, rows twice (the last one wins), and
"0" where a cell was empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.circuit_results import Circuit, NodeRef
from engine.errors import BadRequest
from engine.sites import parse_hook
from engine.text import visible

Key = tuple[str, int, int]
"""Component (`attn`, `mlp`, `resid`, `embed`), layer (0 for `embed`) and index of a feature."""

_NAME = re.compile(r"(?:(attn|mlp|resid)_(\d{1,4})|embed)/(\d{1,9})\Z")
_NUMBER = re.compile(r"\d{1,9}\Z")
_EMPTY = {"", "0"}
_COMPONENTS = {"attn_out": "attn", "hook_z": "attn", "mlp_out": "mlp", "resid_post": "resid", "embed": "embed"}


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


def component_of(hook: str) -> tuple[str, int] | None:
    """Component and layer that feature-circuits calls a TransformerLens hook; None where it has no name for it.

    The stream before block 0 is `embed`, before block l it is `resid` of l − 1.
    """
    try:
        site = parse_hook(hook)
    except BadRequest:
        return None
    if site.kind == "resid_pre":
        return ("resid", site.layer - 1) if site.layer else ("embed", 0)
    component = _COMPONENTS.get(site.kind)
    return None if component is None else (component, site.layer)


def label_of(labels: Mapping[Key, Annotation], hook: str, index: int) -> Annotation | None:
    """The annotation of a dictionary's feature. That the file is about this dictionary is for the user to know."""
    component = component_of(hook)
    return None if component is None else labels.get((*component, index))


def circuit_labels(circuit: Circuit, labels: Mapping[Key, Annotation]) -> dict[NodeRef, str]:
    """The annotations of a circuit's nodes, as pictures and graphs take them."""
    hooks = {site.source: site.hook for site in circuit.sites}
    found = {
        node.ref: label_of(labels, hooks[node.ref.source], node.ref.index)
        for node in circuit.nodes
        if node.ref.source in hooks and not node.ref.is_error
    }
    return {ref: annotation.text for ref, annotation in found.items() if annotation}


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line numbers and rows, keys in lower case; None for what is no object."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, {key.strip().lower(): value for key, value in row.items()} if isinstance(row, dict) else None


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
