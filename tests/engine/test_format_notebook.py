"""The runs of the 1L notebook, read from `{n}.pt` and `{n}_cfg.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.find import find
from engine.formats.read import read
from engine.places import Place
from tests import writers
from tests.writers import D_MODEL

X = writers.numbers(99)(64, D_MODEL) * 2


def test_both_runs_of_a_folder_by_their_names(tmp_path: Path) -> None:
    states = {
        "run1": writers.save_notebook(tmp_path, "25", seed=1),
        "run2": writers.save_notebook(tmp_path, "47", seed=2),
    }
    torch.save(torch.zeros(D_MODEL), tmp_path / "rare_freq_dir.pt")  # lies beside them, is no run
    places = find(tmp_path)
    assert [(place.source, place.path.name) for place in places] == [("run1", "25.pt"), ("run2", "47.pt")]
    for place in places:
        s, dictionary = states[str(place.source)], read(place)
        expected = ((X - s["b_dec"]) @ s["W_enc"] + s["b_enc"]).clamp(min=0)
        assert 0.1 < float((expected > 0).float().mean()) < 0.9
        torch.testing.assert_close(dictionary.encode(X), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            dictionary.decode(expected, X), expected @ s["W_dec"] + s["b_dec"], rtol=1e-5, atol=1e-4
        )
        assert (dictionary.site.hook, dictionary.form) == ("blocks.0.mlp.hook_post", "1L notebook")
        assert dictionary.metadata["model_name"] == "gelu-1l"
        assert any("not unit norm" in note for note in dictionary.notes)


def test_one_file_and_other_runs(tmp_path: Path) -> None:
    writers.save_notebook(tmp_path, "5")
    writers.save_notebook(tmp_path, "gelu-2l_mlp_out_50", act_name="blocks.1.hook_mlp_out", model_name="gelu-2l")
    assert [place.source for place in find(tmp_path)] == ["run5", "gelu-2l_mlp_out_50"]
    (place,) = find(tmp_path / "gelu-2l_mlp_out_50.pt")
    dictionary = read(place)
    assert (dictionary.site.hook, dictionary.metadata["model_name"]) == ("blocks.1.hook_mlp_out", "gelu-2l")
    asked = read(Place("notebook", place.path, hook="blocks.0.hook_mlp_out"))
    assert (asked.site.hook, asked.source) == ("blocks.0.hook_mlp_out", "gelu-2l_mlp_out_50")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("d_mlp", 2048, "says 2048"),
        ("dict_mult", 8, "says 96"),
        ("act_name", "blocks.0.nowhere", "not known"),
    ],
)
def test_a_configuration_of_another_run(tmp_path: Path, key: str, value: object, says: str) -> None:
    writers.save_notebook(tmp_path, "25")
    config = json.loads((tmp_path / "25_cfg.json").read_text())
    (tmp_path / "25_cfg.json").write_text(json.dumps(config | {key: value}))
    (place,) = find(tmp_path)
    with pytest.raises(DictionaryMismatch, match=says) as caught:
        read(place)
    assert caught.value.remedy


def test_what_says_no_hook_is_asked_for(tmp_path: Path) -> None:
    writers.save_notebook(tmp_path, "25")
    (tmp_path / "25_cfg.json").write_text("{}")
    (place,) = find(tmp_path)
    with pytest.raises(DictionaryMismatch, match="which hook") as caught:
        read(place)
    assert "FOLDER@" in caught.value.remedy


def test_damaged_files(tmp_path: Path) -> None:
    state = writers.save_notebook(tmp_path, "25")
    (place,) = find(tmp_path)
    for name, value, says in (
        ("W_dec", state["W_dec"].T.contiguous(), "48 × 12 was expected"),
        ("b_enc", torch.full((48,), torch.nan), "not finite"),
    ):
        torch.save(dict(state) | {name: value}, place.path)
        with pytest.raises(DictionaryMismatch, match=says):
            read(place)
    torch.save({"W_enc": state["W_enc"]}, place.path)
    with pytest.raises(DictionaryMismatch, match="lacks W_dec, b_enc, b_dec"):
        read(place)
    torch.save(dict(state) | {"x": writers.Hostile(tmp_path / "ran")}, place.path)
    with pytest.raises(DictionaryMismatch, match="nothing was run"):
        read(place)
    assert not (tmp_path / "ran").exists()
    place.path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DictionaryMissing, match="damaged"):
        read(place)
    (tmp_path / "25_cfg.json").write_text("{")
    with pytest.raises(DictionaryMissing, match=r"25_cfg\.json"):
        read(place)
