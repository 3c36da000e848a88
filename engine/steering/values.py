"""What strengths and ablations mean in numbers: a feature's maximum, its corpus mean, its value on another prompt."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.cards import has_cards, read_card
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.job import Job
from engine.opening import OpenSet
from engine.steering_results import Intervention

STRONGEST = 1e30
"""Not far beyond it float32 ends, and with it the text."""


def raw_strength(dictionary: Dictionary, intervention: Intervention) -> float:
    """The strength in activation units (of `scale`, `rescale` and `cap` as it is).

    Raises:
        BadRequest: it is no number, or in multiples of a maximum that is not known.
    """
    strength = intervention.strength
    if not math.isfinite(strength) or abs(strength) >= STRONGEST:
        raise BadRequest(f"{strength} is not a strength for {intervention.feature}.", "Use a number such as 8 or -3.5.")
    if intervention.unit == "raw":
        return strength
    if intervention.kind not in {"add", "clamp"}:
        raise BadRequest(
            f"{intervention.feature}: {intervention.kind} is not measured in multiples of the maximum.",
            "Give a plain number.",
        )
    return strength * largest_activation(dictionary, intervention.feature.index)


def largest_activation(dictionary: Dictionary, index: int) -> float:
    """The feature's largest activation in held-out text.

    Raises:
        BadRequest: its dictionary has no cards, or it fires nowhere in them.
    """
    maximum = read_card(dictionary.folder, index).maximum if has_cards(dictionary.folder) else 0.0
    if maximum <= 0:
        why = "fires nowhere in its cards" if has_cards(dictionary.folder) else "has no cards"
        raise BadRequest(
            f"The maximum of {dictionary.source}:{index} is not known: it {why}.",
            "Give the strength as a plain number.",
        )
    return maximum


def corpus_mean(dictionary: Dictionary, index: int) -> float:
    """The feature's mean activation over held-out text, from the sixteen bins of its card's histogram.

    Raises:
        BadRequest: its dictionary has no cards.
    """
    if not has_cards(dictionary.folder):
        raise BadRequest(
            f"The corpus mean of {dictionary.source}:{index} is not known: its dictionary has no cards.",
            "Ablate to zero, or give a mean of your own with clamp.",
        )
    card = read_card(dictionary.folder, index)
    step = card.maximum / len(card.histogram)
    total = sum(count * (place + 0.5) * step for place, count in enumerate(card.histogram))
    return total / card.corpus_tokens


def patch_values(
    opened: OpenSet, dictionary: Dictionary, indices: Sequence[int], prompt: str, chat: bool, length: int, job: Job
) -> Tensor:
    """Activations of features on another prompt of the same length → [m, length].

    Raises:
        BadRequest: the prompts differ in length, so that their tokens do not correspond.
    """
    ids = opened.checked_ids(prompt, chat)
    if len(ids) != length:
        raise BadRequest(
            f"The prompt to patch from has {len(ids)} tokens, the steered one {length}.",
            "Use one of the same length, or clamp to a value.",
        )
    batch = torch.tensor([ids], device=opened.model.device)
    x = opened.model.capture(batch, [dictionary.site], job)[dictionary.site]
    chosen = torch.tensor(indices, device=opened.model.device)
    return dictionary.feature_rows(x[0].reshape(length, -1), chosen)


def random_direction(direction: Tensor, seed: int, name: str) -> Tensor:
    """A random direction of the norm of `direction` [d], the same for the same seed and name on any device."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}|{name}".encode()))
    drawn = torch.randn(direction.shape[0], generator=generator).to(direction)
    scaled: Tensor = drawn * (direction.norm() / drawn.norm())
    return scaled
