"""Reading a published dictionary from its files, whichever of SAELens' loaders its release needs.

SAELens' own folders and Gemma Scope's archives are read without that package. For the others its loader runs, with
files that are on this machine in place of downloads: the rules of all releases stay in one place, and off the network.
"""

from __future__ import annotations

import hashlib
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import DictionaryMismatch, DictionaryMissing, SaescopeError
from engine.formats import configs, gemma_scope, saelens, tensors
from engine.hashes import sha256_of
from engine.interrupts import interrupts_later
from engine.memory.use import is_out_of_memory
from engine.names.registry import SAE_LENS
from engine.places import Place
from engine.quiet import quiet_libraries
from engine.text import visible

_SUMMED = "mntss_clt_layer_transcoder"
_SUMMED_NOTE = (
    "One layer of a cross-layer transcoder with its decoders summed: activations are right, reconstructions are not."
)
_GEMMA_3 = "gemma_3"
_GEMMA_SCOPE = {"gemma_2", "gemma_2_transcoder"}
_one_at_a_time = threading.Lock()


def read(place: Place) -> Dictionary:
    """The dictionary at a place that `engine.hub` found.

    Raises:
        DictionaryMissing: a file is absent or damaged.
        DictionaryMismatch: it is not what its loader expects, or asks for something that would give wrong numbers.
    """
    loader = place.extra["loader"]
    for file in place.extra["files"].values():
        if not Path(file).is_file():
            raise DictionaryMissing(f"There is no file {file}.", f"`saescope get dictionary {place.release}`.")
    if loader in _GEMMA_SCOPE:
        return gemma_scope.read(_of_gemma_scope(place))
    settings, state = _own(place) if loader == SAE_LENS else _through_sae_lens(place, loader)
    if loader == _GEMMA_3 and place.hook is not None:
        settings["hook_name"] = place.hook
    dictionary = saelens.build(place, settings, state, _hash(place))
    dictionary.form = "SAELens" if loader == SAE_LENS else f"{loader} (SAELens' loader)"
    if loader == _SUMMED:
        dictionary.notes += (_SUMMED_NOTE,)
    if dictionary.site.kind == "mlp_in" and loader == _GEMMA_3:
        dictionary.notes += (gemma_scope.AFTER_THE_NORM,)
    return dictionary


def _of_gemma_scope(place: Place) -> Place:
    """As a folder of that form, with what the registry knows: our reader checks an archive before it is unpacked."""
    writes = {}
    if place.extra["loader"] == "gemma_2_transcoder" and place.hook is not None:
        writes["hook_out"] = place.hook.replace("ln2.hook_normalized", "hook_mlp_out")
    return replace(place, form="gemma_scope", extra={**place.extra, **writes})


def _hash(place: Place) -> str:
    parts = [sha256_of(file) for file in place.weights]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


# --- SAELens' own folders -------------------------------------------------------------------------------------------


def _own(place: Place) -> tuple[dict[str, Any], dict[str, Tensor]]:
    files = {name.rpartition("/")[2]: Path(path) for name, path in place.extra["files"].items()}
    settings = configs.read(files["cfg.json"])
    settings |= place.extra["config_overrides"]
    if isinstance(settings.get("metadata"), dict):  # in new files what describes the model lies one level below
        settings["metadata"] = settings["metadata"] | place.extra["config_overrides"]
    return settings, dict(tensors.load(files["sae_weights.safetensors"]).entries)


# --- through SAELens' loaders ---------------------------------------------------------------------------------------


def _through_sae_lens(place: Place, loader: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    quiet_libraries()
    with interrupts_later():
        loaders = import_module("sae_lens.loading.pretrained_sae_loaders")
    overrides = {
        **place.extra["config_overrides"],
        "neuronpedia_id": place.neuronpedia,
        "device": "cpu",
        "dtype": "float32",
    }
    with _one_at_a_time, _on_this_machine(loaders, place), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            settings, state, _ = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader](
                repo_id=place.extra["repo"],
                folder_name=place.extra["path"],
                device="cpu",
                force_download=False,
                cfg_overrides=overrides,
            )
        except SaescopeError:
            raise
        except Exception as error:  # whatever files that are not what a loader expects lead to
            if is_out_of_memory(error):
                raise
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DictionaryMismatch(
                f"SAELens' loader cannot read {place.release} ({visible(what)[:200]}).",
                tensors.AGAIN,
                detail=traceback.format_exc(),
            ) from None
    return settings, {name: tensor.detach().contiguous() for name, tensor in state.items()}


@contextmanager
def _on_this_machine(loaders: ModuleType, place: Place) -> Iterator[None]:
    """SAELens' loaders with our files where they would download, and our check where they would unpickle."""
    files: Mapping[str, str] = place.extra["files"]
    absent: type[Exception] = loaders.EntryNotFoundError

    def local_file(repo_id: str, filename: str, subfolder: str | None = None, **_: object) -> str:
        name = f"{subfolder}/{filename}" if subfolder else filename
        if name not in files:
            raise absent(f"{repo_id} has no {name} on this machine.")
        return files[name]

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(local_file(repo_id, filename), framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    ours = {"hf_hub_download": local_file, "get_safetensors_tensor_shapes": shapes, "torch": _CheckedTorch()}
    theirs = {name: getattr(loaders, name) for name in ours}
    try:
        for name, value in ours.items():
            setattr(loaders, name, value)
        yield
    finally:
        for name, value in theirs.items():
            setattr(loaders, name, value)


class _CheckedTorch:
    """torch, but a pickle is opened by `engine.formats.tensors`, which runs nothing of it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def load(self, path: str, **_: object) -> Mapping[str, Any]:
        return tensors.load(Path(path)).entries
