"""Files of dictionary_learning that are damaged, hostile or something else: one sentence, and nothing of them runs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import DictionaryMismatch, DictionaryMissing, SaescopeError
from engine.memory.residency import Shelf
from tests import writers
from tests.engine.test_format_dictionary_learning import configured, opened
from tests.writers import D_MODEL, D_SAE


def damaged_state(change: str) -> dict[str, Any]:
    state: dict[str, Any] = writers.dictionary_learning_state("AutoEncoder")
    changes: dict[str, Any] = {
        "absent": ("encoder.bias", None),
        "shape": ("decoder.weight", torch.zeros(D_MODEL, D_SAE + 1)),
        "nan": ("bias", torch.full((D_MODEL,), torch.nan)),
        "infinite": ("encoder.bias", torch.full((D_SAE,), torch.inf)),
        "integers": ("bias", torch.zeros(D_MODEL, dtype=torch.int64)),
        "expanded": ("encoder.bias", torch.zeros(1).expand(D_SAE)),
        "no tensor": ("bias", [0.0] * D_MODEL),
        "sparse": ("bias", torch.zeros(D_MODEL).to_sparse()),
    }
    name, value = changes[change]
    if value is None:
        del state[name]
    else:
        state[name] = value
    return dict(state)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("absent", r"lacks encoder\.bias"),
        ("shape", "12 × 41 where 12 × 40"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("integers", "no tensor of floating-point"),
        ("expanded", "more numbers than the file holds"),
        ("no tensor", "no dense tensor"),
        ("sparse", "no dense tensor"),
    ],
)
def test_weights_that_are_not_those_of_the_class(tmp_path: Path, change: str, says: str) -> None:
    folder = configured(tmp_path, "AutoEncoder")
    torch.save(damaged_state(change), folder / "ae.pt")
    with pytest.raises(DictionaryMismatch, match=says) as caught:
        opened(folder)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dict_class", "CrossCoder", "CrossCoder, a class"),
        ("dict_class", "GatedAutoEncoder", "lacks gate_bias"),
        ("activation_dim", 768, "its configuration says 768"),
        ("dict_size", 41, "its configuration says 41"),
    ],
)
def test_a_configuration_of_another_dictionary(tmp_path: Path, key: str, value: object, says: str) -> None:
    config = writers.dictionary_learning_config("AutoEncoder", "resid_post_layer_3", 3, **{key: value})
    state = writers.dictionary_learning_state("AutoEncoder")
    with pytest.raises(DictionaryMismatch, match=says):
        opened(writers.save_dictionary_learning(tmp_path / "a", state, config))


@pytest.mark.parametrize(("k", "says"), [(None, "does not say"), (0, "says 0 for"), (D_SAE + 1, "says 41 for")])
def test_a_top_k_without_its_k(tmp_path: Path, k: int | None, says: str) -> None:
    state = writers.dictionary_learning_state("AutoEncoderTopK")
    del state["k"]
    config = writers.dictionary_learning_config("AutoEncoderTopK", "resid_post_layer_3", 3, k=k)
    with pytest.raises(DictionaryMismatch, match=says):
        opened(writers.save_dictionary_learning(tmp_path / "a", state, config))


def test_a_pickle_that_would_run_something(tmp_path: Path) -> None:
    folder, trace = configured(tmp_path, "AutoEncoder"), tmp_path / "ran"
    torch.save({"bias": writers.Hostile(trace)}, folder / "ae.pt")
    with pytest.raises(DictionaryMismatch, match=r"posix\.system.*nothing was run"):
        opened(folder)
    assert not trace.exists()
    torch.load(folder / "ae.pt", weights_only=False)
    assert trace.exists(), "the file is harmless, so the test shows nothing"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def rewritten(file: Path, compression: int) -> None:
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def without_its_pickle(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ae/version", "3")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"),
    "compressed": lambda file: rewritten(file, zipfile.ZIP_DEFLATED),
    "no pickle": without_its_pickle,
    "a list": lambda file: torch.save([torch.zeros(3)], file),
    "claims": lambda file: torch.save({"bias": torch.zeros(4).as_strided((10**9,), (0,))}, file),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = configured(tmp_path, "AutoEncoder")
    DAMAGES[damage](folder / "ae.pt")
    with pytest.raises((DictionaryMissing, DictionaryMismatch), match=r"ae\.pt") as caught:
        opened(folder)
    assert caught.value.remedy
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"[1]", b"{", b"", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:8]))
def test_a_configuration_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    folder = configured(tmp_path, "AutoEncoder")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(DictionaryMissing, match=r"config\.json"):
        opened(folder)
    (folder / "config.json").write_text('{"trainer": [1], "buffer": "x"}')
    with pytest.raises(SaescopeError, match="Nothing says"):
        opened(folder)


def test_remedies_are_for_ones_own_weights_too(tmp_path: Path) -> None:
    folder = configured(tmp_path, "AutoEncoder")
    torch.save(damaged_state("nan"), folder / "ae.pt")
    with pytest.raises(DictionaryMismatch, match="if it is your own, save it again"):
        opened(folder)
    state = dict(writers.dictionary_learning_state("AutoEncoder"))
    torch.save(state | {"decoder.weight": state["decoder.weight"].T}, folder / "ae.pt")
    with pytest.raises(DictionaryMismatch, match=r"40 × 12 where 12 × 40 .*the other way round"):
        opened(folder)


OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_file_that_does_not_fit_in_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The shelf empties itself and tries again, which it does only where it is told that memory ran out."""
    folder, load, tried = configured(tmp_path, "AutoEncoder"), torch.load, []

    def once_too_full(*given: Any, **settings: Any) -> Any:
        tried.append(given)
        if len(tried) == 1:
            raise error
        return load(*given, **settings)

    monkeypatch.setattr(torch, "load", once_too_full)
    shelf = Shelf(10**9)
    assert shelf.get("a", 1, lambda: opened(folder)).d_sae == D_SAE
    assert len(tried) == 2
