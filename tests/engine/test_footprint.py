"""Sizes from headers, beside what torch, transformers and our own dictionaries really hold."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.dictionary import WEIGHTS
from engine.errors import DictionaryMissing, ModelMissing
from engine.formats import npz, tensors
from engine.formats.read import read
from engine.loading import DTYPES, open_model
from engine.memory.footprint import dictionaries_footprint, dictionary_footprint, model_footprint, numbers_in
from engine.memory.use import available_bytes, cgroup_available
from engine.places import Place
from tests import tiny
from tests.conftest import RunPython

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "qwen2"]


def _held(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())  # a tied parameter comes once


# --- files --------------------------------------------------------------------------------------------------------


def test_safetensors(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5),
        "b": torch.zeros(7, dtype=torch.bfloat16),
        "c": torch.zeros((), dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert numbers_in(tmp_path / "x.safetensors") == {"a": ((3, 5), "F32"), "b": ((7,), "BF16"), "c": ((), "I64")}


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path: Path, compressed: bool) -> None:
    write = np.savez_compressed if compressed else np.savez
    write(tmp_path / "params.npz", W_enc=np.zeros((4, 6), np.float32), threshold=np.zeros(6, np.float16), k=np.int64(3))
    found = numbers_in(tmp_path / "params.npz")
    assert found == {"W_enc": ((4, 6), "F32"), "threshold": ((6,), "F16"), "k": ((), "I64")}


def test_bfloat16_that_numpy_does_not_know_counts_two_bytes_a_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.zeros((4, 6), "V2"), names=np.array(["a", "bc"]))
    found = numbers_in(tmp_path / "params.npz")
    assert found == {"W_enc": ((4, 6), "BF16"), "names": ((0,), "U8")}


def test_an_array_of_objects_is_left_to_its_reader(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}, None], object), b_enc=np.zeros(3, [("x", "f4")]))
    assert dictionary_footprint(Place("any", tmp_path, weights=(tmp_path / "params.npz",)), "float32") == 0


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.pt"])
@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a pointer of Git LFS", "git lfs pull"),
        (b"\n\n<!DOCTYPE html>\n<html><head>", "a web page", "Download the file itself"),
    ],
)
def test_what_lies_there_in_place_of_weights(tmp_path: Path, name: str, content: bytes, what: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DictionaryMissing, match=rf"/{name} is {what}") as caught:
        dictionary_footprint(Place("any", tmp_path, weights=(tmp_path / name,)), "float32")
    assert remedy in caught.value.remedy
    reader = npz.load if name.endswith("npz") else tensors.load
    with pytest.raises(DictionaryMissing, match=rf"/{name} is {what}") as caught:
        reader(tmp_path / name)
    assert remedy in caught.value.remedy


def test_a_pointer_in_place_of_a_models_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelMissing, match=r"model\.safetensors is a pointer of Git LFS.*git lfs pull"):
        model_footprint(tmp_path, "float32")


def test_of_several_dictionaries_all_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    places = []
    for number in range(4):
        file = tmp_path / f"{number}.safetensors"
        save_file({"W_enc": torch.zeros(3, 5)}, file)
        places.append(Place("any", file, weights=(file,)))
    assert dictionaries_footprint(places, "float32") == (60,) * 4
    (tmp_path / "1.safetensors").write_bytes(b"cut")
    with pytest.raises(DictionaryMissing, match=r"1\.safetensors cannot be read.*The rest \(3\)"):
        dictionaries_footprint(places, "float32")
    (tmp_path / "3.safetensors").unlink()
    with pytest.raises(DictionaryMissing) as caught:
        dictionaries_footprint(places, "float32")
    assert caught.value.message.startswith("2 of 4 dictionaries cannot be read.")
    for name in ("1.safetensors", "3.safetensors"):
        assert name in caught.value.message


def test_storages_of_torch_save_have_their_types(tmp_path: Path) -> None:
    """Several types in one file, each named more than once, so that the pickle points back to earlier mentions."""
    shared = torch.zeros(4, 4)
    state = {
        "encoder.weight": torch.zeros(8, 5), "decoder.weight": torch.zeros(5, 8), "half": torch.zeros(6).half(),
        "half2": torch.zeros(7).half(), "brain": torch.zeros(9, dtype=torch.bfloat16), "again": torch.zeros(3),
        "one": shared, "view": shared[0], "long": torch.zeros(2, dtype=torch.int64), "k": 5,
    }  # fmt: skip
    torch.save(state, tmp_path / "ae.pt")
    found = sorted((shape[0], kind) for shape, kind in numbers_in(tmp_path / "ae.pt").values())
    assert found == [(2, "I64"), (3, "F32"), (6, "F16"), (7, "F16"), (9, "BF16"), (16, "F32"), (40, "F32"), (40, "F32")]


def test_a_blob_of_a_cache_has_no_suffix(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "0a1b")
    torch.save({"a": torch.zeros(4)}, tmp_path / "2c3d")
    assert numbers_in(tmp_path / "0a1b") == {"a": ((3,), "F32")}
    assert list(numbers_in(tmp_path / "2c3d").values()) == [((4,), "F32")]


def test_a_pickle_from_before_the_zip_form_counts_as_long_as_it_is(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (((length,), kind),) = numbers_in(tmp_path / "old.pt").values()
    assert kind == "F32"
    assert 100 <= length <= 100 + 400


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", b"cposix\nsystem\n(S'touch " + str(touched).encode() + b"'\ntR.")
        archive.writestr("bad/data/0", b"1234")
    assert numbers_in(tmp_path / "bad.pt") == {"0": ((1,), "F32")}
    assert not touched.exists()


def _header(entries: Any, more: bytes = b"") -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + more


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", b""),
        ("x.safetensors", b"\xff" * 8 + b"{}"),
        ("x.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("x.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000),
        ("x.safetensors", _header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234")),
        ("x.safetensors", _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"1234")),
        ("x.safetensors", _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234")),
        ("x.safetensors", _header({"a": {"shape": [1]}}, b"1234")),
        ("x.safetensors", _header({"a": 3})),
        ("x.npz", b"no zip at all"),
        ("x.pt", b"PK\x05\x06" + b"\0" * 18),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*(damaged|not copied whole)"):
        numbers_in(tmp_path / name)
    with pytest.raises(DictionaryMissing, match=name):
        dictionary_footprint(Place("any", tmp_path, weights=(tmp_path / name,)), "float32")


def test_a_file_cut_short_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    whole = (llama_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelMissing, match="not copied whole"):
        model_footprint(tmp_path, "float32")
    with pytest.raises(ModelMissing, match="no weights"):
        model_footprint(tmp_path / "empty", "float32")


def test_needs_neither_torch_nor_numpy(run_python: RunPython) -> None:
    code = "import sys, engine.memory.footprint; print(sorted({'torch', 'numpy', 'msgspec'} & set(sys.modules)))"
    assert run_python(code).stdout.strip() == "[]"


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_takes_what_was_predicted(tmp_path: Path, family: str) -> None:
    folder = tiny.save_model(tiny.model(family), tmp_path / family)
    for dtype in ("float32", "bfloat16", "float64"):
        assert model_footprint(folder, dtype) == _held(open_model(folder, "cpu", dtype).hf)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_count_once_even_where_both_are_stored(tmp_path: Path, tied: bool) -> None:
    built = tiny.model("llama")
    built.lm_head.weight.data.copy_(built.model.embed_tokens.weight)  # transformers ties only what is equal
    folder = tiny.save_model(built, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" in numbers_in(folder / "model.safetensors")
    assert model_footprint(folder, "float32") == _held(open_model(folder, "cpu", "float32").hf)


def test_a_model_in_several_files(tmp_path: Path) -> None:
    built = tiny.model("gpt_neox")
    built.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    (tmp_path / "sharded" / "consolidated.safetensors").write_bytes(b"not read")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    assert model_footprint(tmp_path / "sharded", "bfloat16") == _held(built) // 2


def test_masks_of_old_checkpoints_do_not_count(tmp_path: Path) -> None:
    masks = {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)}
    save_file(
        {"wte.weight": torch.ones(10, 4), "h.0.attn.c_attn.bias": torch.ones(12), **masks},
        tmp_path / "model.safetensors",
    )
    assert model_footprint(tmp_path, "float32") == 4 * (40 + 12)


def test_a_transformer_lens_checkpoint(tmp_path: Path) -> None:
    torch.save({"embed.W_E": torch.zeros(50, 8), "unembed.W_U": torch.zeros(8, 50)}, tmp_path / "model_final.pth")
    assert model_footprint(tmp_path, "float32") == 3200


# --- dictionaries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", ["standard", "topk", "gated", "jumprelu", "transcoder", "skip_transcoder"])
def test_a_dictionary_takes_what_was_predicted(tmp_path: Path, architecture: str, dtype: str) -> None:
    more: dict[str, Any] = {"d_out": 24} if "transcoder" in architecture and "skip" not in architecture else {}
    folder = tiny.save_dictionary(tmp_path / architecture, architecture, **more)
    place = Place("saelens", folder, weights=(folder / "sae_weights.safetensors",))
    dictionary = read(place).to(torch.device("cpu"), DTYPES[dtype])
    tensors = [getattr(dictionary, name) for name in (*WEIGHTS, "_screen")]
    held = sum(t.numel() * t.element_size() for t in tensors if t is not None)
    assert dictionary_footprint(place, dtype) == held
    assert dictionary_footprint(Place("saelens", folder), dtype) == held  # the files are found


def test_weights_in_half_precision_are_held_in_float32(tmp_path: Path) -> None:
    torch.save(
        {"encoder.weight": torch.zeros(64, 32).bfloat16(), "decoder.weight": torch.zeros(32, 64).bfloat16()},
        tmp_path / "ae.pt",
    )
    place = Place("dictionary_learning", tmp_path, weights=(tmp_path / "ae.pt",))
    assert dictionary_footprint(place, "float32") == 4 * 2 * 64 * 32
    assert dictionary_footprint(place, "bfloat16") == 4 * 2 * 64 * 32 + 2 * 64 * 32


def test_a_decoder_for_several_layers_is_held_summed(tmp_path: Path) -> None:
    save_file({"W_enc_3": torch.zeros(64, 32), "b_enc_3": torch.zeros(64)}, tmp_path / "W_enc_3.safetensors")
    save_file({"W_dec_3": torch.zeros(64, 5, 32)}, tmp_path / "W_dec_3.safetensors")
    files = (tmp_path / "W_enc_3.safetensors", tmp_path / "W_dec_3.safetensors")
    place = Place("circuit_tracer", files[0], weights=files)
    assert dictionary_footprint(place, "float32") == 4 * (2 * 64 * 32 + 64)
    assert dictionary_footprint(place, "bfloat16") == 4 * (2 * 64 * 32 + 64) + 2 * 64 * 32


def test_raw_neurons_are_one_identity_matrix(tmp_path: Path) -> None:
    assert dictionary_footprint(Place("neurons", tmp_path, extra={"width": 48}), "bfloat16") == 4 * (48 * 48 + 96)
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict", "activation_dim": 16}}')
    assert dictionary_footprint(Place("dictionary_learning", tmp_path), "float32") == 4 * (16 * 16 + 32)


# --- what is free -------------------------------------------------------------------------------------------------


def _group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    """Version 2, as Slurm nests it: the step has no limit of its own, the job has."""
    own, root = tmp_path / "own", tmp_path / "fs"
    own.write_text("0::/system.slice/job_7/step_0\n")
    assert cgroup_available(own, root) is None
    _group(root / "system.slice/job_7/step_0", memory__max="max", memory__current=500)
    assert cgroup_available(own, root) is None
    stat = "anon 300\ninactive_file 150"
    _group(root / "system.slice/job_7", memory__max=1000, memory__high="max", memory__current=600, memory__stat=stat)
    assert cgroup_available(own, root) == 1000 - 600 + 150
    _group(root / "system.slice", memory__max=900, memory__current=700)
    assert cgroup_available(own, root) == 200
    _group(root / "system.slice/job_7/step_0", memory__max="max", memory__high=510, memory__current=500)
    assert cgroup_available(own, root) == 10
    _group(root / "system.slice/job_7/step_0", memory__high=400)
    assert cgroup_available(own, root) == 0


def test_version_1_and_a_path_only_the_host_knows(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "fs"
    own.write_text("9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n")
    _group(root / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=5)
    assert cgroup_available(own, root) is None
    stat = "cache 9\ntotal_inactive_file 20"
    _group(root / "memory", memory__limit_in_bytes=1000, memory__usage_in_bytes=300, memory__stat=stat)
    assert cgroup_available(own, root) == 720


def test_the_limit_of_the_address_space_counts(run_python: RunPython) -> None:
    code = (
        "import resource, torch; from engine.memory.use import available_bytes\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 500_000_000, -1))\n"
        "print(available_bytes(torch.device('cpu')))"
    )
    assert 300_000_000 < int(run_python(code).stdout) <= 500_000_000
    assert available_bytes(torch.device("cpu")) > 500_000_000
