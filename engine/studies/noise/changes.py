"""Changes to one feature of a prompt, as what they add where its dictionary writes: zero, noise, a random direction."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.results import FeatureRef
from engine.steering.values import random_direction


@dataclass(frozen=True)
class Read:
    """One dictionary on the prompt, T tokens.

    Attributes:
        x, written: what it reads and what is where it writes, [T, d_in] and [T, d_out].
        features: [T, d_sae].
        counted: bool [T], tokens that are neither the first nor an attention sink.
        reference: what the changes are compared with where it writes: `written`, or reconstructions at counted tokens.
    """

    dictionary: Dictionary
    x: Tensor
    written: Tensor
    features: Tensor
    counted: Tensor
    reference: Tensor

    def fires(self, index: int) -> Tensor:
        """bool [T]: the counted tokens on which a feature fires."""
        return (self.features[:, index] != 0) & self.counted


@dataclass(frozen=True)
class Change:
    """One row of a batch: `added` [T, d_out] to what the dictionary's site holds.

    `kind` is zero, noise or random; `size` of noise its standard deviation as a share of the activation.
    """

    feature: FeatureRef
    kind: str
    size: float | None
    added: Tensor

    @property
    def name(self) -> str:
        return self.kind if self.size is None else f"{self.kind} {self.size:g}"


@torch.inference_mode()
def changes_of(read: Read, feature: FeatureRef, sizes: Sequence[float], draws: int, seed: int) -> list[Change]:
    """Clamping a feature f to zero, a random direction of the same norm instead, and f + size·|f|·ε, ε ~ N(0, 1).

    Noise is drawn anew for every token and draw; where activations cannot be negative it ends at zero.
    """
    dictionary, index = read.dictionary, feature.index
    f = read.features[:, index] * read.counted
    direction = dictionary.decoder[index].clone()
    other = random_direction(direction, seed, str(feature))
    found = [
        Change(feature, "zero", None, _written(read, index, -f, direction)),
        Change(feature, "random", None, _written(read, index, -f, other)),
    ]
    for size in sizes:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}|{feature}|{size}".encode()))
        for _ in range(draws):
            drawn = torch.randn(f.shape, generator=generator, dtype=torch.float64).to(f)
            noisy = f + size * f.abs() * drawn
            noisy = noisy if dictionary.signed else noisy.relu()
            found.append(Change(feature, "noise", size, _written(read, index, noisy - f, direction)))
    return found


def _written(read: Read, index: int, amounts: Tensor, direction: Tensor) -> Tensor:
    """What activations [T] of a feature write along `direction` [d_out], with the dictionary's norms: [T, d_out]."""
    dictionary = read.dictionary
    if dictionary.rescale_by_decoder_norm:
        amounts = amounts / dictionary.decoder_norm[index]
    if dictionary.normalisation != "none" and not dictionary.is_transcoder:
        amounts = amounts * dictionary.gain(read.x)[:, 0]
    return amounts[:, None] * direction
