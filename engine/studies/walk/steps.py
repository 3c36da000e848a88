"""Random walks by fixed steps: in the space of a dictionary's features, and in that of the activations it reads.

Many walks at once, at every walked position of a prompt by itself: W walks, P positions. A step in feature space
starts in a random direction; activations that may not be negative stop at zero, and the step is then made longer until
what it moves has exactly the wanted norm.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest

Way = Literal["plain", "sparse", "decoder", "activation"]
WAYS: tuple[Way, ...] = get_args(Way)
_TRIES = 100


@dataclass(frozen=True)
class Start:
    """Where walks begin.

    Attributes:
        x: what the dictionary reads at the walked positions, [P, d].
        features: its activations there, [P, d_sae].
    """

    dictionary: Dictionary
    x: Tensor
    features: Tensor

    def length(self, share: float, measured: str) -> Tensor:
        """Of a step at each position, [P]: a share of the norm of the activations, or of the features."""
        norms: Tensor = (self.x if measured == "activations" else self.features).norm(dim=1)
        return share * norms


class Walker(Protocol):
    """So many walks of one kind; `moved` and `walked` are zero before the first step."""

    def step(self) -> tuple[Tensor, Tensor | None]:
        """Go one step; its norm in activation space and in feature space, [W, P] each."""

    def moved(self) -> Tensor:
        """What is different from the start in activation space, [W, P, d]."""

    def walked(self) -> Tensor | None:
        """The distance from the start in feature space, [W, P]; None where features are not what is walked in."""


def possible(start: Start, ways: Sequence[Way], measured: str, *, asked: bool) -> tuple[list[Way], list[str]]:
    """The ways that can be walked from every position, and a sentence about one that was left out.

    Args:
        asked: the ways were named; otherwise what is not possible is left out.

    Raises:
        BadRequest: nothing is active at a position, and a way that was named or the length of a step needs it.
    """
    silent = int((start.features == 0).all(1).sum())
    if not silent:
        return list(ways), []
    source, count = start.dictionary.source, len(start.features)
    where = "where the walk begins" if count == 1 else f"at {silent} of the {count} tokens where walks begin"
    cause = f"No feature of {source} is active {where}"
    if measured == "features" and set(ways) - {"activation"}:
        raise BadRequest(
            f"{cause}: a share of its features' norm is no length.", "Use --measured activations, or another prompt."
        )
    if "sparse" not in ways:
        return list(ways), []
    if asked:
        raise BadRequest(f"{cause}: there is nothing to walk along.", "Walk another way: plain.")
    return [way for way in ways if way != "sparse"], [f"{cause}: there are no sparse walks."]


def walker(start: Start, way: Way, walks: int, share: float, measured: str, seed: int) -> Walker:
    """Walks of a kind, the same for the same seed on any device.

    Raises:
        BadRequest: no feature is active to walk along, or there is no direction to walk in.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}|{way}".encode()))
    if way == "activation":
        return _ActivationWalk(start.x, walks, start.length(share, "activations"), generator)
    length = start.length(share, measured)
    if way == "decoder":
        return _DecoderWalk(start, walks, length, measured, generator)
    return _DirectionWalk(start, walks, length, measured, generator, only_active=way == "sparse")


class _ActivationWalk:
    """Steps of one length in uniformly random directions."""

    def __init__(self, x: Tensor, walks: int, length: Tensor, generator: torch.Generator) -> None:
        self._moved = x.new_zeros(walks, *x.shape)
        self._length = length
        self._generator = generator

    @torch.inference_mode()
    def step(self) -> tuple[Tensor, Tensor | None]:
        drawn = _normal(self._moved, self._generator)
        taken = drawn * (self._length[:, None] / drawn.norm(dim=2, keepdim=True))
        self._moved = self._moved + taken
        return taken.norm(dim=2), None

    def moved(self) -> Tensor:
        return self._moved

    def walked(self) -> Tensor | None:
        return None


class _FeatureWalk:
    """What walks in feature space share: where they are, and what that writes."""

    def __init__(self, start: Start, columns: Tensor | slice, walks: int, length: Tensor, measured: str) -> None:
        dictionary = start.dictionary
        if isinstance(columns, Tensor) and len(columns) == dictionary.d_sae:
            columns = slice(None)  # of all there need be no copy
        self._start = start.features[:, columns]
        self._at = self._start.expand(walks, -1, -1)
        """Activations of the features `columns` [m] that may change, [W, P, m]."""
        self._length = length
        self._by_features = measured == "features"
        self._signed = dictionary.signed
        self._rows = dictionary.decoder[columns]
        if dictionary.rescale_by_decoder_norm:
            self._rows = self._rows / dictionary.decoder_norm[columns][:, None]
        self._gain = dictionary.gain(start.x) if dictionary.normalisation != "none" else None

    def _writes(self, change: Tensor) -> Tensor:
        """[W, P, m] → [W, P, d]."""
        written = change @ self._rows
        return written if self._gain is None else written * self._gain

    def _size(self, change: Tensor) -> Tensor:
        """By what a step's length is measured, [W, P]."""
        sizes: Tensor = (change if self._by_features else self._writes(change)).norm(dim=2)
        return sizes

    @torch.inference_mode()
    def _go(self, to: Tensor) -> tuple[Tensor, Tensor | None]:
        change = to - self._at
        self._at = to
        return self._writes(change).norm(dim=2), change.norm(dim=2)

    @torch.inference_mode()
    def moved(self) -> Tensor:
        return self._writes(self._at - self._start)

    @torch.inference_mode()
    def walked(self) -> Tensor | None:
        distance: Tensor = (self._at - self._start).norm(dim=2)
        return distance


class _DecoderWalk(_FeatureWalk):
    """Each step along the decoder row of one feature, up or down; up where its activation would end below zero."""

    def __init__(self, start: Start, walks: int, length: Tensor, measured: str, generator: torch.Generator) -> None:
        alive = (start.dictionary.decoder != 0).any(1).nonzero()[:, 0]
        if not len(alive):
            raise BadRequest(f"All decoder rows of {start.dictionary.source} are zero.", "Choose another dictionary.")
        super().__init__(start, alive, walks, length, measured)
        self._generator = generator
        self._norms = self._rows.norm(dim=1)

    @torch.inference_mode()
    def step(self) -> tuple[Tensor, Tensor | None]:
        shape = self._at.shape[:2]
        device = self._at.device
        feature = torch.randint(len(self._norms), shape, generator=self._generator).to(device)
        up = torch.randint(2, shape, generator=self._generator).to(device).bool()
        amount = self._length.expand(shape)
        if not self._by_features:
            amount = amount / self._norms[feature]
            if self._gain is not None:
                amount = amount / self._gain[:, 0].abs()
        here = self._at.gather(2, feature[..., None])[..., 0]
        up = up if self._signed else up | (here < amount)
        return self._go(self._at.scatter_add(2, feature[..., None], torch.where(up, amount, -amount)[..., None]))


class _DirectionWalk(_FeatureWalk):
    """Each step in a random direction over all features, or over those active at the start."""

    def __init__(
        self, start: Start, walks: int, length: Tensor, measured: str, generator: torch.Generator, *, only_active: bool
    ) -> None:
        active = start.features != 0
        source = start.dictionary.source
        if only_active and not active.any(1).all():
            raise BadRequest(f"No feature of {source} is active where the walk begins.", "Walk another way: plain.")
        columns = active.any(0).nonzero()[:, 0] if only_active else torch.arange(active.shape[1], device=active.device)
        super().__init__(start, columns, walks, length, measured)
        self._may = active[:, columns] if only_active else None
        self._generator = generator
        self._source = source

    @torch.inference_mode()
    def step(self) -> tuple[Tensor, Tensor | None]:
        direction = _normal(self._at, self._generator)
        if self._may is not None:
            direction = direction * self._may
        if not self._signed:  # where nothing would rise, all of it may end before the step does
            falls = ~(direction > 0).any(2, keepdim=True)
            direction = torch.where(falls, -direction, direction)

        def size(scale: Tensor) -> Tensor:
            return self._size(self._to(direction, scale) - self._at)

        scale = _solved(size, self._length.expand(direction.shape[:2]), direction.norm(dim=2))
        if scale is None:
            raise BadRequest(f"A step of this length cannot be made in {self._source}.", "Choose a smaller --length.")
        return self._go(self._to(direction, scale))

    def _to(self, direction: Tensor, scale: Tensor) -> Tensor:
        there = self._at + scale[..., None] * direction
        return there if self._signed else there.relu()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers drawn on the CPU, so that a seed gives the same walk everywhere."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def _solved(size: Callable[[Tensor], Tensor], wanted: Tensor, norm: Tensor) -> Tensor | None:
    """The scale at which `size` is as `wanted`, for each entry of [W, P] by itself; None where there is none.

    False position with the Illinois rule between zero and a scale that is large enough; `size` is continuous.
    """
    low, high = torch.zeros_like(wanted), wanted / norm
    for _ in range(_TRIES):
        over = size(high) - wanted
        if bool((over >= 0).all()):
            break
        high = torch.where(over < 0, 2 * high, high)
    else:
        return None
    under, was_above = -wanted, None
    tolerance = 100 * torch.finfo(wanted.dtype).eps * wanted
    for _ in range(_TRIES):
        scale = (high - over * (high - low) / (over - under)).nan_to_num(nan=0.0)
        value = size(scale) - wanted
        if bool((value.abs() <= tolerance).all()):
            break
        above = value >= 0
        again = torch.zeros_like(above) if was_above is None else above == was_above
        under = torch.where(above, torch.where(again, under / 2, under), value)
        over = torch.where(above, value, torch.where(again, over / 2, over))
        low, high = torch.where(above, low, scale), torch.where(above, scale, high)
        was_above = above
    return scale
