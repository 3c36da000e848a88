"""Before anything is loaded: what a model and its dictionaries need, what is free, and where they will therefore lie.

Sizes come from file headers (`engine.memory.footprint`), so that what cannot fit is refused in a second, with the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import BadRequest, OutOfMemory
from engine.formats.neurons import sites_for
from engine.loading import choose_dtype, read_config
from engine.memory.footprint import BYTES, dictionaries_footprint, model_footprint
from engine.places import Place
from engine.results import MemoryPlan, Residency

_TOKENS = 256
"""A prompt for which there is always to be room."""
_GRADIENT_TOKENS = 128
_BLOCK_ELEMENTS = 1 << 25
"""The largest [tokens, d_sae] block, as in `engine.reading`."""
_LOWER = "bfloat16"
_RESERVE = 256 << 20
"""What CUDA's libraries take for themselves, and what is lost between blocks."""
_HOST_RESERVE = 1 << 30
"""Main memory left to everything else when dictionaries are kept there."""


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration decides how much a pass takes."""

    layers: int = 0
    width: int = 0
    inner: int = 0
    heads: int = 0
    vocabulary: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From `config.json`, whichever names the architecture uses; what it does not say counts as nothing."""
        inside = config.get("text_config")
        known = {**inside, **config} if isinstance(inside, Mapping) else config

        def first(*names: str) -> int:
            found = (known.get(name) for name in names)
            return next((n for n in found if type(n) is int and n > 0), 0)

        width = first("hidden_size", "n_embd", "d_model")
        return cls(
            layers=first("num_hidden_layers", "n_layer", "n_layers"),
            width=width,
            inner=first("intermediate_size", "n_inner", "d_mlp") or 4 * width,
            heads=first("num_attention_heads", "n_head", "n_heads"),
            vocabulary=first("vocab_size", "d_vocab"),
        )

    def working(self, dtype: str, widest: int) -> int:
        """Bytes that a prompt of 256 tokens takes for a while, beside dictionaries of up to `widest` bytes.

        The largest of: its logits, in the model's precision and in float32; one dictionary's block of activations; a
        gradient pass over 128 tokens in float32, measured at 14 to 24 numbers per token, block and unit of width.
        """
        logits = _TOKENS * self.vocabulary * (4 + BYTES[dtype])
        features = widest // (2 * 4 * max(self.width, 1))  # an encoder and a decoder of float32
        block = 3 * 4 * min(_TOKENS * features, _BLOCK_ELEMENTS)
        forward = _TOKENS * 4 * (8 * self.width + 3 * self.inner + 2 * self.heads * _TOKENS)
        gradient = self.layers * _GRADIENT_TOKENS * 4 * (10 * self.width + 4 * self.inner)
        return forward + max(logits, block, gradient)


@dataclass(frozen=True)
class Needs:
    """Bytes, all of them for one dtype of the model."""

    dtype: str
    model: int
    sizes: tuple[int, ...]
    """Of each dictionary on the device."""
    working: int
    stored: tuple[int, ...] = ()
    """Of each dictionary in main memory, without the encoder it screens with."""

    @property
    def dictionaries(self) -> int:
        return sum(self.sizes)

    @property
    def widest(self) -> int:
        return max(self.sizes, default=0)

    @property
    def whole(self) -> int:
        """With everything on the device."""
        return self.model + self.working + self.dictionaries

    @property
    def least(self) -> int:
        """With one dictionary on the device at a time."""
        return self.model + self.working + self.widest

    @property
    def host(self) -> int:
        """In main memory, while the last dictionary is read."""
        return sum(self.stored) + max(self.stored, default=0) + _HOST_RESERVE


def neuron_places(model_folder: Path, wanted: Sequence[str]) -> list[Place]:
    """Raw neurons as the model's configuration lets expect them, so that they are counted before the model is loaded.

    Raises:
        BadRequest: no such kind of place or hook.
    """
    shape = Shape.of(read_config(model_folder)) if wanted else Shape()
    sites = [site for each in wanted for site in sites_for(shape.layers, each)]
    widths = [shape.inner if site.kind == "mlp_post" else shape.width for site in sites]
    return [Place("neurons", model_folder, extra={"width": width}) for width in widths if width]


def plan(
    model_folder: Path,
    places: Sequence[Place],
    device: str,
    dtype_wanted: str,
    residency_wanted: str,
    available: int,
    host_available: int,
) -> MemoryPlan:
    """What to open the model in and where its dictionaries will lie, from headers alone.

    Args:
        device: `cpu` or `cuda:N`, chosen already.
        dtype_wanted: auto, or a name of `engine.loading.DTYPES`.
        residency_wanted: auto, device, host or disk.
        available: bytes that are free on the device; `host_available`: in main memory.

    Raises:
        OutOfMemory: nothing that was allowed fits; says what is needed, and what would fit.
        BadRequest: what was asked for does not exist on this device.
        ModelMissing, DictionaryMissing: weights are absent or damaged.
    """
    config = read_config(model_folder)
    stored = config.get("dtype") or config.get("torch_dtype")
    first = str(choose_dtype(dtype_wanted, torch.device(device), stored)).removeprefix("torch.")
    shape = Shape.of(config)

    def needs(dtype: str) -> Needs:
        sizes = dictionaries_footprint(places, dtype)
        precise = dictionaries_footprint(places, "float32")
        widest = max(precise, default=0)
        beside = widest if device == "cpu" else _RESERVE  # on a CPU, the file's own numbers while they are converted
        working = shape.working(dtype, widest) + beside
        return Needs(dtype, model_footprint(model_folder, dtype), sizes, working, precise)

    may_lower = dtype_wanted == "auto"
    return choose(needs(first), needs(_LOWER), device, residency_wanted, available, host_available, may_lower=may_lower)


def choose(
    wanted: Needs,
    lower: Needs,
    device: str,
    residency: str,
    available: int,
    host_available: int,
    *,
    may_lower: bool,
) -> MemoryPlan:
    """The first that fits of: all on the device; dictionaries in main memory; on disk; and the same in `lower`.

    Main memory is another place only beside a GPU, and a lower precision is chosen only there and where `may_lower`.
    Never more than `available` is planned for; with more of it, the precision never falls, nor, at one precision, does
    the residency.

    Raises:
        OutOfMemory, BadRequest: as `plan`.
    """
    gpu = device != "cpu"
    if residency == "host" and not gpu:
        raise BadRequest("On a CPU dictionaries are in main memory anyway.", "Use --keep device or disk.")
    if residency not in {"auto", "device", "host", "disk"}:
        raise BadRequest(f"{residency!r} is no residency.", "Use auto, device, host or disk.")
    narrower = BYTES[lower.dtype] < BYTES[wanted.dtype]
    for needs in (wanted, lower) if may_lower and gpu and narrower else (wanted,):
        for where in _order(residency, gpu):
            if _fits(needs, where, available, host_available):
                return _plan(needs, where, wanted, device, residency, available, host_available)
    raise _refusal(wanted, lower if narrower else None, device, residency, available, host_available)


def _order(residency: str, gpu: bool) -> tuple[Residency, ...]:
    """Where dictionaries may lie, the fastest first."""
    every: tuple[Residency, ...] = ("device", "host", "disk") if gpu else ("device", "disk")
    return every if residency == "auto" else tuple(where for where in every if where == residency)


def _fits(needs: Needs, where: Residency, available: int, host_available: int) -> bool:
    if where == "device":
        return needs.whole <= available
    return needs.least <= available and (where == "disk" or needs.host <= host_available)


def _plan(
    needs: Needs, where: Residency, wanted: Needs, device: str, asked: str, available: int, host_available: int
) -> MemoryPlan:
    resident = min(needs.dictionaries, available - needs.model - needs.working)
    return MemoryPlan(
        model=needs.model,
        dictionaries=needs.dictionaries,
        working=needs.working,
        available=available,
        host=host_available,
        device=device,
        dtype=needs.dtype,
        residency=where,
        resident=resident,
        reason=_reason(needs, where, wanted, device, asked, available, host_available, resident),
    )


def _reason(
    needs: Needs,
    where: Residency,
    wanted: Needs,
    device: str,
    asked: str,
    available: int,
    host_available: int,
    resident: int,
) -> str:
    lowered = ""
    if needs.dtype != wanted.dtype:
        lowered = f"; the model is in {needs.dtype}, since {wanted.dtype} would need {size(wanted.least)}"
    parts = _parts(needs)
    if where == "device":
        return f"All fits into the {size(available)} that are free on {device}: {parts}{lowered}."
    one = len(needs.sizes) == 1
    fit = sum(1 for number in range(1, len(needs.sizes) + 1) if needs.widest * number <= resident)
    room = "it" if one else "all of them" if fit == len(needs.sizes) else f"{fit} of them at a time"
    together = "the model and it" if one else "the model and all of them"
    short = f"{together} would need {size(needs.whole)}, and {size(available)} are free on {device}"
    why = f"--keep {where} was given" if asked == where else short
    if where == "host":
        place = f"stay in main memory ({size(host_available)} free) and are copied to {device} when used"
    else:
        place = "stay on disk and are read when used"
    if one:
        place = place.replace("stay ", "stays ").replace(" are ", " is ")
    many = f"{_counted(needs)} ({size(needs.dictionaries)})"
    return f"{many} {place}, because {why}; there is room for {room}{lowered}."


def _parts(needs: Needs) -> str:
    dictionaries = f", {_counted(needs)} {size(needs.dictionaries)}" if needs.sizes else ""
    return f"model {size(needs.model)}{dictionaries}, {size(needs.working)} to work in"


def _counted(needs: Needs) -> str:
    return "1 dictionary" if len(needs.sizes) == 1 else f"{len(needs.sizes)} dictionaries"


def _refusal(
    wanted: Needs, lower: Needs | None, device: str, residency: str, available: int, host_available: int
) -> OutOfMemory:
    """What is needed and what there is, and of the ways out those that would fit."""
    several = len(wanted.sizes) > 1
    ways = []
    if residency in {"device", "host"} and wanted.least <= available:
        ways.append(f"--keep disk would need {size(wanted.least)}")
    if residency == "host" and wanted.least <= available:
        host = f"{size(wanted.host)} of main memory, where {size(host_available)} are free"
        message = f"To keep {_counted(wanted)} there needs {host}."
    else:
        whole = residency == "device" or not several
        needed = wanted.whole if whole else wanted.least
        paged = f"model {size(wanted.model)}, one dictionary at a time {size(wanted.widest)}"
        parts = _parts(wanted) if whole else f"{paged}, {size(wanted.working)} to work in"
        message = f"This needs {size(needed)} on {device} ({parts}), and {size(available)} are free."
        if lower is not None and (less := lower.whole if whole else lower.least) <= available:
            ways.append(f"--dtype {lower.dtype} would need {size(less)}")
    if several and residency in {"device", "host"}:
        ways.append("open fewer dictionaries")
    if device != "cpu" and wanted.least <= host_available:
        ways.append("use --device cpu")
    remedy = ", or ".join(ways) or "close other programs, or open a smaller model or dictionary"
    return OutOfMemory(message, f"{remedy[0].upper()}{remedy[1:]}.")


def size(number: int) -> str:
    """Bytes for people: 31 GB, 1.3 GB, 540 MB."""
    if number >= 10**12:
        return f"{number / 10**12:.1f} TB"
    if number >= 10**9:
        return f"{number / 10**9:.{1 if number < 10**10 else 0}f} GB"
    return f"{max(number, 0) / 10**6:.0f} MB" if number >= 10**6 else f"{max(number, 0) / 10**3:.0f} kB"
