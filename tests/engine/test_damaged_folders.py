"""Folders that others made and that are not what they should be: one sentence and a remedy, never a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.errors import BadRequest, DictionaryMissing, ModelMissing, SaescopeError
from engine.formats.saelens import read_dictionary
from engine.loading import open_model
from engine.resolving import resolve
from tests import tiny

NOT_OBJECTS = [b"[1]", b'"text"', b"{", b"", b"\xff\xfe", b"[" * 100_000]


@pytest.fixture
def model(tmp_path: Path, llama_folder: Path) -> Path:
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.mark.parametrize("content", NOT_OBJECTS, ids=lambda c: repr(c[:8]))
def test_json_that_is_no_object(tmp_path: Path, model: Path, content: bytes) -> None:
    dictionary = tiny.save_dictionary(tmp_path / "1-res", "topk")
    (dictionary / "cfg.json").write_bytes(content)
    with pytest.raises(DictionaryMissing, match=r"cfg\.json"):
        read_dictionary(dictionary)
    for name in ("tokenizer_config.json", "tokenizer.json", "config.json"):
        (model / name).write_bytes(content)
        with pytest.raises(ModelMissing) as caught:
            open_model(model, "cpu")
        assert caught.value.remedy


def test_weights_of_another_shape(model: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"intermediate_size": 64', '"intermediate_size": 48'))
    with pytest.raises(ModelMissing, match="belong together"):
        open_model(model, "cpu")


@pytest.mark.parametrize(
    ("model", "dictionaries", "error", "says"),
    [
        ("", (), BadRequest, "no set called"),
        ("/nowhere/model", (), ModelMissing, "no folder /nowhere/model"),
        ("smollm2", ("/some/dictionary",), DictionaryMissing, "no folder /some/dictionary"),
    ],
)
def test_what_cannot_be_opened_together(
    model: str, dictionaries: tuple[str, ...], error: type[SaescopeError], says: str
) -> None:
    with pytest.raises(error, match=says):
        resolve(model, dictionaries)
