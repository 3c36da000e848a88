"""What the tests of circuit commands share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command import opening

ROWS: tuple[dict[str, str], ...] = (
    {"clean": "in the end", "answer": " of", "patch": "of the bag", "patch_answer": " in"},
    {"clean": "the end of the", "answer": " a", "patch": "the bag in the", "patch_answer": " of"},
    {"clean": "in the bit", "answer": " in", "patch": "of the bag", "patch_answer": " the"},
)


@pytest.fixture(scope="module")
def opened(llama_folder: Path, dictionary_folders: tuple[Path, ...]) -> list[str]:
    return opening(llama_folder, dictionary_folders)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return file
