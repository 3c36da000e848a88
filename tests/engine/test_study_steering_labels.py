"""Steering over pairs of which some cannot be used: what the others are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadRequest
from engine.job import Job
from engine.studies.measure import Growing
from engine.studies.steering.study import measure
from engine.study_settings.steering import Steering
from tests.engine.steering_scene import open_engine

GOOD = {"clean": "in the end of the", "answer": " the", "patch_answer": " of"}
BAD = {**GOOD, "answer": " the end of the"}


def _file(path: Path, *rows: dict[str, str]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_prompts_have_the_numbers_of_their_pairs(
    llama_folder: Path, dictionary_folders: tuple[Path, ...], tmp_path: Path
) -> None:
    opened = open_engine(llama_folder, *dictionary_folders).engine.opened
    asked: dict[str, Any] = {
        "features": ("1-res-tiny:3",), "unit": "raw", "strongest": 2.0, "control": False, "sign": "positive",
    }  # fmt: skip
    some = _file(tmp_path / "some.jsonl", BAD, GOOD, BAD, {**GOOD, "clean": "of the inn in a"})
    result = measure(opened, Steering(pairs=(some,), **asked), Growing(Job()))
    rows = result.table("strengths").rows
    label = [column.name for column in result.table("strengths").columns].index("prompt")
    assert [(row[label]) for row in rows] == ["in the end of the", "of the inn in a"]
    assert [str(row[label - 1]).split()[-1] for row in rows] == ["2", "4"]
    none = _file(tmp_path / "none.jsonl", BAD)
    with pytest.raises(BadRequest, match="none: None of the 1 pairs can be used") as refused:
        measure(opened, Steering(pairs=(some, none), **asked), Growing(Job()))
    assert "circuit" not in refused.value.remedy
