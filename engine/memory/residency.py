"""Dictionaries whose weights are on the device only while they are used; the least recently used make room.

A `PagedDictionary` is used like any other. What is cheap to know of it (widths, site, formula, hash) is always there;
its weights are fetched from main memory or from disk when a computation asks for them, and stay until others need the
room. Tensors in use outlive their place on the shelf, since whoever computes with them holds them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.dictionary import WEIGHTS, Dictionary
from engine.errors import DictionaryMismatch, DictionaryMissing
from engine.formats.read import read
from engine.memory.use import is_out_of_memory
from engine.results import MemoryPlan
from engine.text import visible

_PAGED = (*WEIGHTS, "prediction", "_screen")
_MAY_DIFFER = {*_PAGED, "source", "folder", "metadata", "place", "form", "notes"}
"""What may have another value when the same dictionary is read again: its numbers are as before."""
Fetch = Callable[[torch.device, torch.dtype], Dictionary]
"""Gives the weights on a device, beside a model in this precision."""


class Shelf:
    """Dictionaries that are on the device now, at most `budget` bytes of them, or a single larger one.

    Two threads may use it: one that finds what it wants never waits for the other's reading.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.loads = 0
        """How often weights were fetched."""
        self._held: OrderedDict[object, tuple[Dictionary, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes of what is held."""
        with self._lock:
            return sum(size for _, size in self._held.values())

    def get(self, key: object, size: int, load: Callable[[], Dictionary]) -> Dictionary:
        """The dictionary of a key, loaded where it is not held; room is made before."""
        if (found := self._find(key)) is not None:
            return found
        with self._loading:
            if (found := self._find(key)) is not None:  # the other thread wanted it too
                return found
            self._make_room(size)
            loaded = self._load(load)
            with self._lock:
                self._held[key] = (loaded, size)
                self.loads += 1
            return loaded

    def offer(self, key: object, size: int, load: Callable[[], Dictionary]) -> None:
        """Take a dictionary that is at hand anyway, if there is room without letting another go."""
        if self.used + size <= self.budget:
            self.get(key, size, load)

    def drop(self, key: object) -> None:
        """Let one go."""
        with self._lock:
            self._held.pop(key, None)

    def _find(self, key: object) -> Dictionary | None:
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def _make_room(self, size: int) -> None:
        with self._lock:
            while self._held and size + sum(held for _, held in self._held.values()) > self.budget:
                self._held.popitem(last=False)

    def _load(self, load: Callable[[], Dictionary]) -> Dictionary:
        """Load; out of memory, once more with nothing else held: others may have taken what was planned with."""
        # A prompt is read in inference mode, and what is made there can never be part of a gradient.
        with torch.inference_mode(False), torch.no_grad():
            try:
                return _ready(load())
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            with self._lock:
                self._held.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return _ready(load())


def _ready(loaded: Dictionary) -> Dictionary:
    """With the norms that are computed once and kept: later might be in inference mode."""
    if loaded.rescale_by_decoder_norm:
        _ = loaded.decoder_norm
    return loaded


@dataclass
class _Paging:
    """How a paged dictionary comes by its weights."""

    shelf: Shelf
    fetch: Fetch
    device: torch.device
    dtype: torch.dtype
    elements: int
    screened: int
    """Of the encoder, where a lower precision is kept beside it; else 0."""
    widths: tuple[int, int, int]
    """d_in, d_sae, d_out."""
    absent: frozenset[str]
    """Fields that are None."""
    key: object = field(default_factory=object)

    @classmethod
    def of(
        cls, dictionary: Dictionary, shelf: Shelf, fetch: Fetch, device: torch.device, dtype: torch.dtype
    ) -> _Paging:
        tied = dictionary.encoder is dictionary.decoder
        return cls(
            shelf,
            fetch,
            device,
            dtype,
            elements=sum(tensor.numel() for tensor in tensors_of(dictionary)),
            screened=dictionary.encoder.numel() if dictionary.traits.own_row and not tied else 0,
            widths=(dictionary.d_in, dictionary.d_sae, dictionary.d_out),
            absent=frozenset(n for n in (*WEIGHTS, "prediction") if getattr(dictionary, n) is None),
        )

    @property
    def precision(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def size(self) -> int:
        """Bytes on the device."""
        screen = self.screened * self.dtype.itemsize if self.dtype != self.precision else 0
        return self.elements * self.precision.itemsize + screen

    def load(self) -> Dictionary:
        return self.fetch(self.device, self.dtype)


class PagedDictionary(Dictionary):
    """A dictionary whose weights are fetched when they are used. Made by `keep`.

    `dataclasses.replace`, and with it `folded`, gives an ordinary one that has the weights.
    """

    _paging: _Paging

    def __new__(cls, *args: Any, **values: Any) -> Dictionary:  # type: ignore[misc]
        return Dictionary(*args, **values)

    @property
    def d_in(self) -> int:
        return self._paging.widths[0]

    @property
    def d_sae(self) -> int:
        return self._paging.widths[1]

    @property
    def d_out(self) -> int:
        return self._paging.widths[2]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._paging.device

    @property
    def precision(self) -> torch.dtype:
        return self._paging.precision

    def to(self, device: torch.device, dtype: torch.dtype) -> Dictionary:
        """From now on compute there, beside a model in `dtype`."""
        self._paging.shelf.drop(self._paging.key)
        self._paging = replace(self._paging, device=device, dtype=dtype, key=object())
        return self

    def in_precision(self, dtype: torch.dtype) -> Dictionary:
        """This dictionary, or one in float64 where `dtype` is, which takes its turn on the same shelf."""
        if (wanted := torch.promote_types(dtype, torch.float32)) == self.precision:
            return self
        twins: dict[torch.dtype, PagedDictionary] = self.__dict__.setdefault("_twins", {})
        return twins.setdefault(wanted, _paged(self, replace(self._paging, dtype=wanted, key=object())))

    def __repr__(self) -> str:
        return f"PagedDictionary({self.source!r}, {self.site.hook!r}, {self.d_sae} features)"

    def _fetched(self, name: str) -> Any:
        paging = self._paging
        if name in paging.absent:
            return None
        return getattr(paging.shelf.get(paging.key, paging.size, paging.load), name)


for _name in (*_PAGED, "decoder_norm"):
    setattr(PagedDictionary, _name, property(partial(PagedDictionary._fetched, name=_name)))


def _paged(like: Dictionary, paging: _Paging) -> PagedDictionary:
    made: PagedDictionary = object.__new__(PagedDictionary)
    vars(made).update({f.name: getattr(like, f.name) for f in fields(like) if f.name not in _PAGED})
    made._paging = paging
    return made


def keep(
    dictionary: Dictionary,
    plan: MemoryPlan,
    shelf: Shelf,
    device: torch.device,
    dtype: torch.dtype,
    again: Callable[[], Dictionary] | None = None,
) -> Dictionary:
    """A dictionary that was just read, kept where the plan says: moved to the device, or paged.

    Args:
        shelf: one for all dictionaries of a set, `Shelf(plan.resident)`.
        dtype: of the model.
        again: reads the same dictionary from disk once more, with whatever was done to it since; by default its place
            is read.
    """
    if plan.residency == "device":
        return dictionary.to(device, dtype)
    if again is None and dictionary.place is not None:
        again = partial(read, dictionary.place)
    if plan.residency == "host" or again is None:
        fetch: Fetch = partial(_from_host, _pinned(dictionary) if device.type == "cuda" else dictionary)
        return _paged(dictionary, _Paging.of(dictionary, shelf, fetch, device, dtype))
    paging = _Paging.of(dictionary, shelf, partial(_from_disk, _facts(dictionary), again), device, dtype)
    # What has been read already need not be read again for the first prompt.
    shelf.offer(paging.key, paging.size, lambda: _on_device(dictionary, device, dtype))
    return _paged(dictionary, paging)


# --- from main memory ---------------------------------------------------------------------------------------------


def _pinned(dictionary: Dictionary) -> Dictionary:
    """The same in memory the GPU can copy from by itself; as it is where the system has none left of that kind."""
    try:
        return _mapped(dictionary, lambda tensor: tensor.pin_memory())
    except RuntimeError:
        return dictionary


def _from_host(kept: Dictionary, device: torch.device, dtype: torch.dtype) -> Dictionary:
    # Work on the same stream waits for these copies, and the originals stay where they are.
    return _mapped(kept, lambda tensor: tensor.to(device, non_blocking=True)).to(device, dtype)


# --- from disk ----------------------------------------------------------------------------------------------------


def _from_disk(
    facts: Mapping[str, Any], again: Callable[[], Dictionary], device: torch.device, dtype: torch.dtype
) -> Dictionary:
    """Read once more, and refuse what is not what was opened.

    Raises:
        DictionaryMissing: the files are gone or damaged.
        DictionaryMismatch: they hold something else by now.
    """
    remedy = "Open the set again."
    try:
        found = again()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DictionaryMissing(f"{facts['where']} cannot be read any more: {reason}.", remedy) from None
    now = _facts(found)
    if changed := [name for name in facts if facts[name] != now[name]]:
        what = "other weights" if "sha256" in changed else f"another {changed[0]}"
        raise DictionaryMismatch(f"{facts['where']} has changed since it was opened: it holds {what}.", remedy)
    return _on_device(found, device, dtype)


def _facts(dictionary: Dictionary) -> dict[str, Any]:
    """All that must be the same when a dictionary is read again."""
    known = {f.name: getattr(dictionary, f.name) for f in fields(dictionary) if f.name not in _MAY_DIFFER}
    known["shape"] = [tuple(tensor.shape) for tensor in tensors_of(dictionary)]
    return {"where": visible(str(dictionary.folder)), **known}


def _on_device(dictionary: Dictionary, device: torch.device, dtype: torch.dtype) -> Dictionary:
    """Moved there; on a CPU copied, since numbers that were read may still be pages of the file, and follow it."""
    if device.type != "cpu":
        return replace(dictionary).to(device, dtype)
    apart = _mapped(dictionary, torch.clone)
    apart.prediction = deepcopy(dictionary.prediction)
    return apart.to(device, dtype)


# --- both ---------------------------------------------------------------------------------------------------------


def tensors_of(dictionary: Dictionary) -> list[Tensor]:
    """Everything a dictionary computes with, a tied pair once, screening aside."""
    named = [getattr(dictionary, name) for name in WEIGHTS]
    found = {id(tensor): tensor for tensor in named if tensor is not None}
    more = dictionary.prediction.tensors() if dictionary.prediction is not None else []
    return [*found.values(), *more]


def _mapped(dictionary: Dictionary, change: Callable[[Tensor], Tensor]) -> Dictionary:
    """A copy with changed weights, a tied pair still tied."""
    weights = {n: tensor for n in WEIGHTS if (tensor := getattr(dictionary, n)) is not None}
    new = {id(tensor): change(tensor) for tensor in weights.values()}
    changes: dict[str, Any] = {n: new[id(tensor)] for n, tensor in weights.items()}
    return replace(dictionary, **changes)
