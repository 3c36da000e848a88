"""The interventions in one dictionary as arithmetic: from what its sites hold to what is added where it writes.

Every kind is linear in directions: Δ [T, d] = amounts [T, n] · directions [n, d]. Amounts are computed from the
activations as the pass brings them, so several interventions in one dictionary add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.steering_results import SETS_VALUE, Intervention


@dataclass(frozen=True)
class Resolved:
    """One intervention in numbers.

    Attributes:
        place: its number among all interventions of the arm.
        strength: raw; of `ablate` the value it sets (corpus mean, else 0).
        direction: [d] what one unit of activation writes (before normalisation gain), or its random stand-in.
        other: [d] for noise, the random direction of the same norm; for the rest None.
        values: [P] for a patch, the value at every prompt token.
        on: bool [P], at which prompt tokens it acts.
        start, stop: the positions at which it acts, special tokens aside.
    """

    place: int
    intervention: Intervention
    strength: float
    direction: Tensor
    other: Tensor | None
    values: Tensor | None
    on: Tensor
    start: int
    stop: float

    @property
    def sets_value(self) -> bool:
        return self.intervention.kind in SETS_VALUE


class Group:
    """All interventions of one arm in one dictionary; strengths are buffers on the device."""

    def __init__(self, dictionary: Dictionary, members: Sequence[Resolved], keep_error: bool) -> None:
        self.dictionary = dictionary
        self.members = members
        self._keep_error = keep_error
        self._prompt = members[0].on.shape[0]
        self._on = torch.stack([m.on for m in members]).to(dictionary.device, dictionary.precision)
        self.start = min(m.start for m in members)
        kinds = [m.intervention.kind for m in members]
        self._adds = self._part([n for n, kind in enumerate(kinds) if kind == "add"])
        setters = [n for n, m in enumerate(members) if m.sets_value]
        self._sets, self._setters = self._part(setters), [members[n] for n in setters]
        self._projects = self._part([n for n, kind in enumerate(kinds) if kind in {"rescale", "cap"}])
        self._features = torch.tensor([m.intervention.feature.index for m in members], device=self._on.device)
        self._directions = torch.stack([m.direction for m in members])
        self._strengths = self._buffer([m.strength for m in members])
        self._keeps = self._buffer([m.strength if m.intervention.kind == "scale" else 0.0 for m in members])
        """What part of f stays."""
        self._sets_to = self._buffer([0.0 if m.intervention.kind == "scale" else m.strength for m in members])
        self._caps = torch.tensor([kind == "cap" for kind in kinds], device=self._on.device)
        nothing = torch.zeros_like(self._directions[0])
        self._others = torch.stack([m.other if m.other is not None else nothing for m in members])
        self._noisy = any(m.other is not None for m in members)
        self._now: Tensor | None = None
        self.acted = torch.zeros(len(members), dtype=torch.long, device=self._on.device)
        """At how many tokens each changed something, but for what `_sums` did."""
        self._sums: dict[tuple[bool, ...], Tensor] | None = None
        if self._sets is None and self._projects is None and keep_error:
            self._sums = {}
        self._summed: Counter[tuple[bool, ...]] = Counter()

    def _part(self, places: list[int]) -> Tensor | None:
        return torch.tensor(places, device=self._on.device) if places else None

    def _buffer(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self._on.device, dtype=self.dictionary.precision)

    @property
    def needs_reading(self) -> bool:
        """Whether amounts depend on what the dictionary reads."""
        return self._sets is not None or not self._keep_error

    def delta(self, written: Tensor, read: Tensor, start: int) -> Tensor | None:
        """What is added at tokens `start` to `start` + T.

        Args:
            written: what the site it writes holds, [T, d].
            read: what the site it reads holds, [T, d_in].

        Returns:
            [T, d] in the dictionary's precision, or None where nothing acts.
        """
        if self._sums is not None and self._now is None and len(written) == 1 and start >= self._prompt:
            return self._sum(self._sums, start)
        on = self._now if self._now is not None else self._mask(start, len(written))
        if on is None:
            return None
        total = torch.zeros(len(written), self._directions.shape[1], device=on.device, dtype=on.dtype)
        if self._adds is not None:
            total += self._spend(self._adds, self._strengths[self._adds, None] * on[self._adds])
        if self._sets is not None:
            total += self._set(self._sets, read, on[self._sets], start)
        if self._projects is not None:
            total += self._project(self._projects, written.to(on.dtype), on[self._projects])
        if not self._keep_error:
            here = on.amax(0)[:, None]
            rebuilt = self.dictionary.decode(self.dictionary.encode(read), read)
            total += here * (rebuilt - written.to(rebuilt.dtype))
        return total

    def _sum(self, sums: dict[tuple[bool, ...], Tensor], position: int) -> Tensor | None:
        """Where vectors are only added, a new token costs one addition: their sum [1, d] is kept."""
        acting = tuple(m.start <= position < m.stop for m in self.members)
        if not any(acting):
            return None
        if acting not in sums:
            sums[acting] = (self._strengths * torch.tensor(acting, device=self._on.device))[None] @ self._directions
        self._summed[acting] += 1
        return sums[acting]

    def counts(self) -> list[int]:
        """At how many tokens each member changed something."""
        found: list[int] = self.acted.tolist()
        for acting, tokens in self._summed.items():
            for place, (acts, member) in enumerate(zip(acting, self.members, strict=True)):
                found[place] += tokens if acts and member.strength else 0
        return found

    def _spend(self, part: Tensor, amounts: Tensor, *, others: bool = False) -> Tensor:
        """amounts [n, T] along the directions of a part → [T, d]."""
        if not others:
            self.acted[part] += (amounts != 0).sum(1)
        return amounts.T @ (self._others if others else self._directions)[part]

    def _set(self, part: Tensor, read: Tensor, on: Tensor, start: int) -> Tensor:
        """From f to the value wanted: (keep − 1) · f + value, along the decoder rows."""
        f = self.dictionary.feature_rows(read, self._features[part])
        values = self._sets_to[part, None] + self._patches(start, f.shape[1])
        change = ((self._keeps[part, None] - 1) * f + values) * on
        unit = self._unit(part, read)
        total = self._spend(part, change * unit)
        if self._noisy:
            total += self._spend(part, f * on * unit, others=True)
        return total

    def _unit(self, part: Tensor, read: Tensor) -> Tensor | float:
        """How much of the decoder row one unit of activation writes: [n, T], or 1."""
        dictionary = self.dictionary
        unit: Tensor | float = 1.0
        if dictionary.rescale_by_decoder_norm:
            unit = 1 / dictionary.decoder_norm[self._features[part], None]
        if dictionary.normalisation != "none" and not dictionary.is_transcoder:
            unit = dictionary.gain(read).T * unit
        return unit

    def _patches(self, start: int, length: int) -> Tensor | float:
        """Values of another prompt, [n, T]; after its end the last one stays."""
        if all(m.values is None for m in self._setters):
            return 0.0
        at = torch.arange(start, start + length, device=self._on.device).clamp(max=self._prompt - 1)
        zero = torch.zeros(length, device=self._on.device, dtype=self._on.dtype)
        return torch.stack([zero if m.values is None else m.values[at] for m in self._setters])

    def _project(self, part: Tensor, written: Tensor, on: Tensor) -> Tensor:
        """Neuronpedia's ORTHOGONAL_DECOMP and PROJECTION_CAP: along d̂, whatever the feature's value."""
        norm = self._directions[part].norm(dim=1, keepdim=True)
        unit = self._directions[part] / norm
        along = unit @ written.T
        strengths = self._strengths[part, None]
        change = torch.where(self._caps[part, None], along.minimum(strengths) - along, (strengths - 1) * along)
        return self._spend(part, change * on / norm)

    # --- one token at a time, without a word from Python --------------------------------------------------------

    def hold(self, position: int) -> None:
        """From now on every pass is the one token at `position`; which interventions act there is put in a buffer."""
        on = self._mask(position, 1)
        if self._now is None:
            self._now = torch.zeros(len(self.members), 1, device=self._on.device, dtype=self._on.dtype)
        self._now.zero_() if on is None else self._now.copy_(on)

    def release(self) -> None:
        """Passes are of any length again."""
        self._now = None

    def same_but_strengths(self, other: Group) -> bool:
        """Whether the other group differs in strengths only."""
        mine, others = (
            [msgspec.structs.replace(m.intervention, strength=0.0, unit="raw") for m in group.members]
            for group in (self, other)
        )
        return self.dictionary is other.dictionary and mine == others and self._keep_error == other._keep_error

    def take_strengths(self, other: Group) -> None:
        """Go on with the other's strengths, in the same buffers."""
        for mine, its in (
            (self._strengths, other._strengths), (self._keeps, other._keeps), (self._sets_to, other._sets_to),
        ):  # fmt: skip
            mine.copy_(its)
        if self._sums is not None:
            self._sums.clear()

    def _mask(self, start: int, length: int) -> Tensor | None:
        """[n, T] 1 where an intervention acts; None where none does."""
        stop = start + length
        if all(m.stop <= start or m.start >= stop for m in self.members):
            return None
        if stop <= self._prompt:
            return self._on[:, start:stop]
        new = [[float(m.start <= p < m.stop) for p in range(max(start, self._prompt), stop)] for m in self.members]
        later = torch.tensor(new, device=self._on.device, dtype=self._on.dtype)
        return torch.cat([self._on[:, start:], later], 1) if start < self._prompt else later
