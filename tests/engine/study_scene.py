"""What tests of studies share: a tiny open set, a study carried out on it, and plain activations to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.headless import Headless
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import Cell, Event, MeasureStudy, StudyGrown, StudyResult, Table
from engine.study_settings import settings_from
from tests.engine.steering_scene import open_engine

__all__ = ["carried_out", "figure", "numbers", "open_engine", "plain_activations", "study", "write"]


def study(headless: Headless, name: str, **given: Any) -> StudyResult:
    """The finished result of a study."""
    return carried_out(headless, name, **given)[-1]


def carried_out(headless: Headless, name: str, **given: Any) -> list[StudyResult]:
    """Every result a study showed, the finished one last."""
    found: list[StudyResult] = []

    def emit(event: Event) -> None:
        if isinstance(event, StudyGrown):
            found.append(event.result)

    headless.engine.handle(MeasureStudy(id=2, settings=settings_from(name, given)), Job(2, emit))
    assert found[-1].finished
    assert not any(result.finished for result in found[:-1])
    return found


def figure(result: StudyResult, name: str) -> float:
    """A figure that is a number."""
    return _number(result.figures[name])


def numbers(table: Table, column: str) -> list[float]:
    """A column in which every cell is a number."""
    return list(map(_number, table.column(column)))


def _number(cell: Cell) -> float:
    assert isinstance(cell, int | float), cell
    return float(cell)


def plain_activations(opened: OpenSet, source: str, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Of one text by itself: [tokens, d_sae], and bool [tokens], which are neither first nor over four medians long."""
    dictionary = opened.dictionaries[source]
    caught: list[Tensor] = []
    opened.model.read(torch.tensor([ids]), {dictionary.site: lambda x: caught.append(x[0].flatten(1).float())})
    x = caught[0]
    return dictionary.encode(x), x.norm(dim=1)


def write(folder: Path, name: str, *lines: str) -> str:
    """A file of lines; its path."""
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)
