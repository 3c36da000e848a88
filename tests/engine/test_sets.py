"""What a name, a folder and several folders mean when something is to be opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import main
from engine import default_model, paths, sets
from engine.errors import BadRequest, DictionaryMissing
from engine.formats.saelens import read_dictionary
from engine.opening import bos_rule
from engine.resolving import resolve
from tests import tiny


@pytest.fixture
def own_set(llama_folder: Path) -> Path:
    folder = sets.user_sets_dir() / "mine"
    for layer in (1, 2):
        tiny.save_dictionary(folder / f"{layer}-res-own", "topk", layer=layer)
    sets.write_set(folder, str(llama_folder), ["1-res-own", "2-res-own"], "a set of my own")
    return folder


def test_the_default_set_is_what_ships() -> None:
    opening = resolve(None, ())
    assert opening.model is None
    assert len(opening.dictionaries) == 6
    layers = [read_dictionary(place.path).site.layer for place in opening.dictionaries]
    assert layers == sorted(layers)
    assert all(p.path.name.startswith(f"{layer}-") for p, layer in zip(opening.dictionaries, layers, strict=True))


def test_sets_of_the_user_are_listed_after_the_default(own_set: Path, llama_folder: Path) -> None:
    names = [info.name for info in sets.all_sets()]
    assert names == [sets.DEFAULT_SET, "mine"]
    mine = sets.all_sets()[1]
    assert (mine.model, mine.model_ready) == (str(llama_folder), True)
    assert mine.dictionary_bytes > 1000
    opening = resolve("mine", ())
    assert opening.model == llama_folder
    assert [p.path.name for p in opening.dictionaries] == ["1-res-own", "2-res-own"]


def test_a_damaged_set_does_not_hide_the_others(own_set: Path) -> None:
    (own_set / "set.json").write_text("{")
    assert [info.name for info in sets.all_sets()] == [sets.DEFAULT_SET]


@pytest.mark.parametrize("damage", [lambda file: file.write_text("{"), Path.unlink], ids=["damaged", "gone"])
def test_without_the_default_set_the_places_are_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    bundled = Path(shutil.copytree(paths.bundled_sets_dir(), tmp_path / "bundled"))
    monkeypatch.setattr(paths, "bundled_sets_dir", lambda: bundled)
    damage(bundled / sets.DEFAULT_SET / "set.json")
    for name in (None, sets.DEFAULT_SET):
        with pytest.raises(DictionaryMissing, match="The set smollm2 is damaged or gone") as caught:
            resolve(name, ())
        assert caught.value.remedy == "Install saescope again."
    told = CliRunner().invoke(main.app, ["locate", "--json"])
    assert told.exit_code == 0
    found = json.loads(told.stdout)
    assert found["dictionaries"] == []
    assert found["data"] == str(paths.data_dir())


def test_a_damaged_set_of_the_user_is_named_by_its_folder(own_set: Path) -> None:
    (own_set / "set.json").write_text("{")
    with pytest.raises(DictionaryMissing, match="The set mine is damaged or gone") as caught:
        resolve("mine", ())
    assert caught.value.remedy == f"Make it again with `saescope train`, or remove {own_set}."


def test_a_folder_of_dictionaries_means_all_of_them(own_set: Path) -> None:
    opening = resolve(None, (str(own_set),))
    assert opening.model is None
    assert [p.path.name for p in opening.dictionaries] == ["1-res-own", "2-res-own"]


def test_what_is_missing_is_named(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(BadRequest, match=r"no set called 'nothing'.*smollm2"):
        resolve("nothing", ())
    with pytest.raises(BadRequest, match="--dictionary"):
        resolve(str(llama_folder), ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DictionaryMissing, match="holds no dictionary"):
        resolve(str(llama_folder), (str(tmp_path / "empty"),))


def test_the_bos_rule_follows_the_dictionaries(tmp_path: Path) -> None:
    with_bos = read_dictionary(tiny.save_dictionary(tmp_path / "a", "topk", metadata={"prepend_bos": True}))
    without = read_dictionary(tiny.save_dictionary(tmp_path / "b", "topk", metadata={"prepend_bos": False}))
    silent = read_dictionary(tiny.save_dictionary(tmp_path / "c", "topk", metadata={}))
    assert bos_rule("auto", [with_bos, silent]) is True
    assert bos_rule("auto", [without, silent]) is False
    assert bos_rule("auto", [silent]) is None
    assert bos_rule("off", [with_bos]) is False
    with pytest.raises(BadRequest, match="--bos on"):
        bos_rule("auto", [with_bos, without])


def test_tokens_are_exact(llama_folder: Path) -> None:
    from engine.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(llama_folder)
    for text in ("in the end", "é漢👩‍👩‍👧\n\t", "a\x1b[0m[/INST]"):
        ids = tokenizer.encode(text, bos=False)
        assert tokenizer.text(ids) == text
        assert b"".join(map(tokenizer.piece, ids)) == text.encode()
    assert tokenizer.encode("a", bos=True) == [256, *tokenizer.encode("a", bos=False)]
    assert tokenizer.encode("<bos>a", bos=True) == tokenizer.encode("<bos>a", bos=False)
    assert tokenizer.token(tokenizer.encode("é", bos=False)[0]).text == "⟨C3⟩"
    with pytest.raises(BadRequest, match="UTF-8"):
        tokenizer.encode("\udcff")


def test_the_default_model_has_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "elsewhere"))
    assert default_model.folder() == tmp_path / "elsewhere" / "models" / "smollm2-135m-instruct"
    assert not default_model.is_ready()
