"""Dictionaries that are fetched when they are used: the same numbers, within a budget, from two threads, and clear
words when the files have changed. A budget stands in for a GPU that is too small; the code is the same for both."""

from __future__ import annotations

import json
import random
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.dictionary import WEIGHTS, Dictionary
from engine.encoding.identity import neurons
from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.read import read
from engine.memory.residency import Fetch, PagedDictionary, Shelf, keep, tensors_of
from engine.results import Residency
from engine.sites import Site
from tests import tiny
from tests.engine.residency_scene import CPU, SIZE, paged, place, planned, save_four


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return save_four(tmp_path_factory.mktemp("four"))


# --- the same numbers ---------------------------------------------------------------------------------------------


KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "topk": {"rescale_acts_by_decoder_norm": True},
    "gated": {},
    "jumprelu": {},
    "skip_transcoder": {},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_computes_the_same(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    folder = tiny.save_dictionary(tmp_path / "one", kind, **KINDS[kind])
    resident = read(place(folder)).to(CPU, dtype)
    x = torch.randn(5, tiny.D_MODEL)
    for residency in ("host", "disk"):
        shelf = Shelf(0)
        found = paged(folder, shelf, residency, dtype)
        for screen in (False, True):
            assert torch.equal(found.encode(x, screen=screen), resident.encode(x, screen=screen))
        activations = resident.encode(x)
        assert torch.equal(found.decode(activations, x), resident.decode(activations, x))
        assert torch.equal(found.decoder_norm, resident.decoder_norm)
        names = [name for name in WEIGHTS if getattr(found, name) is not None]
        assert names == [name for name in WEIGHTS if getattr(resident, name) is not None]
        held = tensors_of(resident) + ([] if resident._screen is None else [resident._screen])
        assert found._paging.size == sum(t.numel() * t.element_size() for t in held)


def test_raw_neurons_stay_tied(tmp_path: Path) -> None:
    made = neurons(Site("resid_post", 1), 16, source="1-neurons", folder=tmp_path)
    shelf = Shelf(10**6)
    found = keep(made, planned("disk", shelf.budget), shelf, CPU, torch.bfloat16)
    x = torch.randn(3, 16)
    assert torch.equal(found.encode(x), x)
    assert found.encoder is found.decoder
    assert found._screen is None
    assert shelf.used == 4 * (16 * 16 + 2 * 16)


def test_a_copy_has_the_weights_and_needs_no_shelf(folders: tuple[Path, ...]) -> None:
    found = paged(folders[3], Shelf(0))
    copy = replace(found, source="other")
    assert type(copy) is Dictionary
    assert (copy.source, found.source) == ("other", "3-res-tiny")
    assert torch.equal(copy.encoder, found.encoder)
    assert torch.allclose(found.folded().decoder.norm(dim=1), torch.ones(tiny.D_SAE))


def test_moving_a_paged_one_fetches_it_anew(folders: tuple[Path, ...]) -> None:
    found = paged(folders[3], Shelf(10 * SIZE))
    assert found.encoder.dtype == torch.float32
    assert found.to(CPU, torch.float64) is found
    assert found.precision == found.encoder.dtype == torch.float64
    assert found._paging.shelf.used == 2 * SIZE


def test_weights_fetched_while_a_prompt_is_read_can_be_part_of_a_gradient(tmp_path: Path) -> None:
    folder = tiny.save_dictionary(tmp_path / "one", "topk", rescale_acts_by_decoder_norm=True)
    found = paged(folder, Shelf(10 * SIZE), "disk", torch.float64)
    with torch.inference_mode():
        found.encode(torch.randn(4, tiny.D_MODEL))
    x = torch.randn(4, tiny.D_MODEL, requires_grad=True)
    (gradient,) = torch.autograd.grad(found.decode(found.encode(x), x).sum(), x)
    assert gradient.abs().sum() > 0


# --- the shelf ----------------------------------------------------------------------------------------------------


def test_cheap_facts_fetch_nothing(folders: tuple[Path, ...]) -> None:
    shelf = Shelf(0)
    for folder in folders:
        resident, found = read(place(folder)), paged(folder, shelf)
        for name in ("source", "site", "write_site", "kind", "formula", "sha256", "k", "folder", "metadata", "place",
                     "d_in", "d_sae", "d_out", "precision", "notes", "form", "is_transcoder", "signed", "selects",
                     "whole_prompt", "skip", "r_mag", "prediction"):  # fmt: skip
            assert getattr(found, name) == getattr(resident, name), name
        assert found.device == CPU
        assert found.source in repr(found)
        found.in_precision(torch.float64)
    assert shelf.loads == 0
    assert found.encoder.shape == (tiny.D_SAE, tiny.D_MODEL)
    assert shelf.loads == 1


def test_the_least_recently_used_makes_room(folders: tuple[Path, ...]) -> None:
    shelf = Shelf(2 * SIZE + 3 * tiny.D_SAE * 4)
    a, b, c, d = (paged(folder, shelf) for folder in folders)
    assert shelf.loads == 2  # what had been read already was kept, as far as there was room

    def loads(*used: PagedDictionary) -> list[int]:
        counted = []
        for one in used:
            before = shelf.loads
            _ = one.encoder, one.decoder
            counted.append(shelf.loads - before)
        return counted

    assert loads(a, b, a, b) == [0, 0, 0, 0]
    assert loads(c, b, a) == [1, 0, 1]  # c took a's place, a then c's
    assert loads(b, a, d, a, b) == [0, 0, 1, 0, 1]
    assert shelf.used <= shelf.budget


def test_the_budget_is_kept_whatever_is_used(folders: tuple[Path, ...]) -> None:
    """Counted in encoders that exist, not in what the shelf believes: never more than fit and the one in use."""
    for at_once in (1, 2, 3):
        shelf = Shelf(at_once * (SIZE + 4 * tiny.D_SAE))
        alive = weakref.WeakSet[Dictionary]()
        found = [paged(folder, shelf) for folder in folders]
        for one in found:
            one._paging = replace(one._paging, fetch=_counting(one._paging.fetch, alive))
        chooser, highest = random.Random(at_once), 0
        for _ in range(60):
            chooser.choice(found).encode(torch.zeros(2, tiny.D_MODEL))
            assert shelf.used <= shelf.budget
            highest = max(highest, len(alive))
        assert highest == at_once


class _Counted(Dictionary):
    """A dictionary that can be counted: an ordinary one has no hash."""

    __hash__ = object.__hash__


def _counting(fetch: Fetch, alive: weakref.WeakSet[Dictionary]) -> Fetch:
    def counted(device: torch.device, dtype: torch.dtype) -> Dictionary:
        found = fetch(device, dtype)
        found.__class__ = _Counted
        alive.add(found)
        return found

    return counted


def test_one_larger_than_the_budget_is_used_alone(folders: tuple[Path, ...]) -> None:
    shelf = Shelf(SIZE // 2)
    a, b = paged(folders[0], shelf), paged(folders[2], shelf)
    for _ in range(2):
        assert torch.equal(a.encoder, read(place(folders[0])).encoder)
        assert torch.equal(b.encoder, read(place(folders[2])).encoder)
        assert len(shelf._held) == 1
    assert shelf.loads == 4


def test_weights_in_use_outlive_their_place(folders: tuple[Path, ...]) -> None:
    shelf = Shelf(SIZE)
    a, b = paged(folders[0], shelf), paged(folders[2], shelf)
    kept = a.encoder
    expected = kept.clone()
    _ = b.encoder
    assert a._paging.key not in shelf._held
    assert torch.equal(kept, expected)


def test_out_of_memory_lets_all_others_go_once(folders: tuple[Path, ...]) -> None:
    """As when another program took GPU memory that had been planned with."""
    shelf = Shelf(10 * SIZE)
    a, b = paged(folders[0], shelf), paged(folders[2], Shelf(0))
    held: list[int] = []

    def fetch(device: torch.device, dtype: torch.dtype) -> Dictionary:
        held.append(len(shelf._held))
        if a._paging.key in shelf._held:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(place(folders[2])).to(device, dtype)

    b._paging = replace(b._paging, shelf=shelf, fetch=fetch)
    assert torch.equal(b.encoder, read(place(folders[2])).encoder)
    assert held == [1, 0]

    def full() -> Dictionary:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        shelf.get("more", SIZE, full)


# --- two threads --------------------------------------------------------------------------------------------------


def test_two_threads_get_the_right_weights(folders: tuple[Path, ...]) -> None:
    shelf = Shelf(int(1.5 * SIZE))
    found = [paged(folder, shelf) for folder in folders]
    resident = [read(place(folder)) for folder in folders]
    x = torch.randn(3, tiny.D_MODEL)
    expected = [one.encode(x) for one in resident]
    wrong: list[object] = []

    def work(seed: int) -> None:
        chooser = random.Random(seed)
        try:
            for _ in range(40):
                n = chooser.randrange(len(found))
                if not torch.equal(found[n].encode(x), expected[n]) or shelf.used > shelf.budget:
                    wrong.append(n)
        except Exception as error:  # told by the main thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_what_is_held_does_not_wait_for_what_is_read(folders: tuple[Path, ...]) -> None:
    """A card that is looked up while another dictionary comes from disk; and both want the same one only once."""
    shelf = Shelf(10 * SIZE)
    reading, go_on = threading.Event(), threading.Event()

    def slowly() -> Dictionary:
        reading.set()
        assert go_on.wait(30)
        return read(place(folders[1]))

    held = paged(folders[0], shelf)
    slow = paged(folders[1], Shelf(0), again=slowly)
    slow._paging = replace(slow._paging, shelf=shelf)
    shapes: list[Any] = []
    threads = [threading.Thread(target=lambda: shapes.append(slow.encoder.shape)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert reading.wait(30)
    before = shelf.loads
    assert held.encoder.shape == (tiny.D_SAE, tiny.D_MODEL)  # would never return if it waited
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert shapes == [(tiny.D_SAE, tiny.D_MODEL)] * 2
    assert shelf.loads == before + 1


# --- files that change --------------------------------------------------------------------------------------------


@pytest.fixture
def own(folders: tuple[Path, ...], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[0], tmp_path / "own"))


def test_a_file_that_changed_is_not_used(own: Path) -> None:
    found = paged(own, Shelf(0))
    weights = load_file(own / "sae_weights.safetensors")
    save_file(weights | {"b_enc": weights["b_enc"] + 1}, own / "sae_weights.safetensors")
    with pytest.raises(DictionaryMismatch, match=r"own has changed since it was opened: it holds other weights"):
        found.encode(torch.zeros(1, tiny.D_MODEL))


def test_settings_that_changed_are_not_used(own: Path) -> None:
    found = paged(own, Shelf(0))
    settings = json.loads((own / "cfg.json").read_text())
    (own / "cfg.json").write_text(json.dumps(settings | {"k": 3}))
    with pytest.raises(DictionaryMismatch, match=r"it holds another k\. Open the set again"):
        found.encode(torch.zeros(1, tiny.D_MODEL))
    (own / "cfg.json").write_text(json.dumps(settings))
    assert found.encode(torch.zeros(1, tiny.D_MODEL)).shape == (1, tiny.D_SAE)


def test_a_file_that_vanished_is_named(own: Path, folders: tuple[Path, ...]) -> None:
    found = paged(own, Shelf(0))
    (own / "sae_weights.safetensors").unlink()
    with pytest.raises(DictionaryMissing, match="own"):
        found.encode(torch.zeros(1, tiny.D_MODEL))

    def unreadable() -> Dictionary:
        raise PermissionError(13, "Permission denied")

    other = paged(folders[1], Shelf(0), again=unreadable)
    with pytest.raises(DictionaryMissing, match=r"1-res-tiny cannot be read any more: Permission denied"):
        other.encode(torch.zeros(1, tiny.D_MODEL))


def test_weights_on_the_shelf_do_not_follow_the_file(own: Path) -> None:
    """A file written in place: what was read from it on a CPU could be its very pages."""
    file = own / "sae_weights.safetensors"
    found = paged(own, Shelf(10 * SIZE))
    before = {name: getattr(found, name).clone() for name in ("encoder", "decoder", "b_enc", "b_dec")}
    with file.open("r+b") as opened:
        opened.seek(-3000, 2)
        opened.write(bytes(3000))
    for name, value in before.items():
        assert torch.equal(getattr(found, name), value), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residency", ["host", "disk"])
def test_on_a_gpu(folders: tuple[Path, ...], residency: Residency, dtype: torch.dtype) -> None:
    device = torch.device("cuda:0")
    shelf = Shelf(2 * SIZE)
    found = [keep(read(place(f)), planned(residency, 0), shelf, device, dtype) for f in folders]
    x = torch.randn(5, tiny.D_MODEL, device=device)
    for _ in range(3):
        for one, folder in zip(found, folders, strict=True):
            resident = read(place(folder)).to(device, dtype)
            assert one.encoder.device == device
            assert torch.equal(one.encode(x, screen=True), resident.encode(x, screen=True))
            assert shelf.used <= max(shelf.budget, one._paging.size)  # type: ignore[attr-defined]
