"""What the modules of studies share: results with their provenance, tables, and features from what was typed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.protocol import FeatureRef, parse_feature
from engine.study_results import Cell, Column, ColumnKind, StudyResult, Table
from engine.study_settings import StudySettings, name_of


def chosen(opened: OpenSet, sources: Sequence[str]) -> list[Dictionary]:
    """The dictionaries that sources or hook names mean, in opening order; all for ().

    Raises:
        BadRequest: no open dictionary is called so or reads there.
    """
    wanted = {source for site in sources for source in opened.sources_at(site)}
    return [d for d in opened.dictionaries.values() if not wanted or d.source in wanted]


def features_of(opened: OpenSet, names: Sequence[str]) -> list[FeatureRef]:
    """Features by name, each once and each of an open dictionary.

    Raises:
        BadRequest: one is no name of a feature, is not open, or there is none at all.
    """
    refs = list(dict.fromkeys(map(parse_feature, names)))
    if not refs:
        raise BadRequest("No feature was named.", "Name one or more, e.g. 13-res-sc:3467.")
    for ref in refs:
        opened.find(ref.source, ref.index)
    return refs


def result_of(
    opened: OpenSet, dictionaries: Sequence[Dictionary], settings: StudySettings, title: str, **more: Any
) -> StudyResult:
    """A result with what produced it; `more` are its other fields."""
    plain = {key: value for key, value in msgspec.to_builtins(settings).items() if key != "study"}
    return StudyResult(
        study=name_of(settings),
        title=title,
        settings=plain,
        provenance=opened.provenance(list(dictionaries), plain),
        **more,
    )


def table(
    name: str, title: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], total: int | None = None
) -> Table:
    """A table of plain values: numbers in six digits, what is not finite as None."""
    return Table(name, title, tuple(columns), tuple(tuple(map(plain_cell, row)) for row in rows), total)


def bin_columns(what: str, kind: ColumnKind = "number") -> tuple[Column, Column]:
    """Where the bins of a histogram begin and end."""
    return Column("low", kind, f"{what}, where the bin begins."), Column("high", kind, "Where it ends.")


def plain_cell(value: Any) -> Cell:
    """A cell as it goes over the wire."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, FeatureRef):
        return str(value)
    if isinstance(value, bool | int | np.integer | np.bool_):
        return int(value)
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def pieces_of(opened: OpenSet, ids: Sequence[int]) -> list[bytes]:
    """The bytes of tokens; a special token has none."""
    tokenizer = opened.model.tokenizer
    return [b"" if tokenizer.token(i).special else tokenizer.piece(i) for i in ids]
