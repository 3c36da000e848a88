"""Interventions as visitors: what steering does to the activations of each row of a batch, at whatever tokens pass.

A `Program` is what one arm does; visitors made of several programs steer the rows of one batch. Where several
dictionaries write at one site, all amounts are computed from what the site held before any of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.job import Job
from engine.model import Visitor
from engine.opening import OpenSet
from engine.sites import Site
from engine.steering.cautions import cautions
from engine.steering.group import Group, Resolved
from engine.steering.values import corpus_mean, patch_values, random_direction, raw_strength
from engine.steering_results import Intervention, Positions


@dataclass
class Cursor:
    """Where in the text a pass is: the position of its first token. Whoever runs passes moves it."""

    start: int = 0


class Pieces(Protocol):
    """What acts where: a program, or several after one another."""

    def pieces(self, start: int, length: int) -> Iterator[tuple[slice, Program]]:
        """Slices of the pass, and what acts there."""

    @property
    def sites(self) -> frozenset[Site]: ...


@dataclass
class Program:
    """The interventions of one arm, ready to act."""

    groups: tuple[Group, ...]
    count: int
    warnings: tuple[str, ...] = ()

    def pieces(self, start: int, length: int) -> Iterator[tuple[slice, Program]]:
        yield slice(0, length), self

    @property
    def sites(self) -> frozenset[Site]:
        """Sites that are read or written."""
        written = {group.dictionary.write_site for group in self.groups}
        return frozenset(written | {g.dictionary.site for g in self.groups if g.needs_reading})

    @property
    def start(self) -> float:
        """The first position at which anything acts."""
        return min((group.start for group in self.groups), default=math.inf)

    def acted(self) -> list[int]:
        """For each intervention, at how many tokens it changed something so far."""
        counts = [0] * self.count
        for group in self.groups:
            for member, count in zip(group.members, group.counts(), strict=True):
                counts[member.place] = count
        return counts

    def take_strengths(self, other: Program) -> bool:
        """Go on with the other's strengths where nothing else differs; False where something does."""
        pairs = list(zip(self.groups, other.groups, strict=False))
        if len(self.groups) != len(other.groups) or not all(a.same_but_strengths(b) for a, b in pairs):
            return False
        for mine, its in pairs:
            mine.take_strengths(its)
        return True


@dataclass
class Arm:
    """Programs that follow one another: each acts from its position on, until the next."""

    programs: list[tuple[int, Program]] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program) -> Arm:
        return cls([(0, program)])

    def change(self, position: int, program: Program) -> None:
        """From `position` on another program acts."""
        self.programs = [(p, one) for p, one in self.programs if p < position or p == 0]
        self.programs.append((position, program))

    def pieces(self, start: int, length: int) -> Iterator[tuple[slice, Program]]:
        bounds = [position for position, _ in self.programs[1:]] + [start + length]
        for (first, program), end in zip(self.programs, bounds, strict=True):
            low, high = max(first, start), min(end, start + length)
            if low < high:
                yield slice(low - start, high - start), program

    @property
    def sites(self) -> frozenset[Site]:
        return frozenset().union(*(program.sites for _, program in self.programs))


# --- from requests to programs ------------------------------------------------------------------------------------


def compile_program(
    opened: OpenSet,
    interventions: Sequence[Intervention],
    ids: Sequence[int],
    *,
    chat: bool = False,
    tokens: int = 0,
    keep_error: bool = True,
    random_directions: int | None = None,
    job: Job | None = None,
) -> Program:
    """Interventions on a prompt `ids`, after which `tokens` are generated.

    Args:
        keep_error: False: where one acts, the dictionary's reconstruction stands for the activation.
        random_directions: a seed; every decoder row is replaced by a random direction of its norm.

    Raises:
        BadRequest: no such feature; a strength or ablation that has no meaning here; two that contradict each other.
    """
    _check_agreement(interventions, len(ids))
    members: defaultdict[str, list[Resolved]] = defaultdict(list)
    for place, intervention in enumerate(interventions):
        feature = intervention.feature
        dictionary = opened.find(feature.source, feature.index)
        members[feature.source].append(
            _resolve(opened, dictionary, place, intervention, ids, chat, random_directions, job or Job())
        )
    groups = tuple(Group(opened.dictionaries[source], found, keep_error) for source, found in members.items())
    return Program(groups, len(interventions), tuple(cautions(opened, interventions, len(ids), tokens)))


def _resolve(
    opened: OpenSet,
    dictionary: Dictionary,
    place: int,
    intervention: Intervention,
    ids: Sequence[int],
    chat: bool,
    seed: int | None,
    job: Job,
) -> Resolved:
    index = intervention.feature.index
    direction = dictionary.decoder[index].clone()  # a view would keep all of an evicted decoder alive
    if seed is not None:
        direction = random_direction(direction, seed, str(intervention.feature))
    if intervention.kind == "add" and intervention.unit_norm:
        direction = direction / direction.norm()
    strength, other, values = 0.0, None, None
    if intervention.kind != "ablate":
        strength = raw_strength(dictionary, intervention)
    elif intervention.to == "mean":
        strength = corpus_mean(dictionary, index)
    elif intervention.to == "noise":
        other = random_direction(direction, intervention.seed, f"noise {intervention.feature} {seed}")
    elif intervention.to == "patch":
        if intervention.patch is None:
            raise BadRequest(f"{intervention.feature} is to be patched from no prompt.", "Give the other prompt.")
        values = patch_values(opened, dictionary, [index], intervention.patch, chat, len(ids), job)[0]
    start, stop = span(intervention.positions, len(ids))
    token = opened.model.tokenizer.token
    on = [
        intervention.positions.holds(p, len(ids)) and (intervention.special or not token(i).special)
        for p, i in enumerate(ids)
    ]
    return Resolved(place, intervention, strength, direction, other, values, torch.tensor(on), start, stop)


def span(positions: Positions, prompt: int) -> tuple[int, float]:
    """From which position to before which, after a prompt of so many tokens."""
    match positions.kind:
        case "all":
            return 0, math.inf
        case "prompt":
            return 0, prompt
        case "generated":
            return prompt - 1, math.inf
    return positions.start, math.inf if positions.stop is None else positions.stop


def _check_agreement(interventions: Sequence[Intervention], prompt: int) -> None:
    """Two that set the value of one feature at one token contradict each other."""
    for one, other in combinations([i for i in interventions if i.kind in {"clamp", "scale", "ablate"}], 2):
        (a, b), (c, d) = span(one.positions, prompt), span(other.positions, prompt)
        if one.feature == other.feature and max(a, c) < min(b, d):
            raise BadRequest(
                f"{one.feature} is set twice at the same tokens: {one.kind} and {other.kind}.",
                "Take one of them out, or give them different positions.",
            )


# --- from programs to visitors ------------------------------------------------------------------------------------


def visitors(programs: Sequence[Pieces | None], cursor: Cursor) -> dict[Site, Visitor]:
    """Visitors for a batch [R, T, d] in which program r acts on row r; None leaves a row alone."""
    sites = frozenset[Site]().union(*(p.sites for p in programs if p is not None))
    read: dict[tuple[int, Site], Tensor] = {}
    return {site: _visitor(site, programs, cursor, read) for site in sites}


def _visitor(
    site: Site, programs: Sequence[Pieces | None], cursor: Cursor, read: dict[tuple[int, Site], Tensor]
) -> Visitor:
    def visit(x: Tensor) -> Tensor | None:
        new: Tensor | None = None
        for row, pieces in enumerate(programs):
            if pieces is None:
                continue
            held = x[row].reshape(x.shape[1], -1)
            for part, program in pieces.pieces(cursor.start, x.shape[1]):
                for group in program.groups:
                    if group.dictionary.write_site != site:
                        continue
                    own = group.dictionary.site == site or not group.needs_reading
                    source = held if own else read[row, group.dictionary.site]
                    delta = group.delta(held[part], source[part], cursor.start + part.start)
                    if delta is not None:
                        new = _added(x, new, row, part, delta)
            if any(_reads_only(group, site) for _, p in pieces.pieces(cursor.start, x.shape[1]) for group in p.groups):
                read[row, site] = held if new is None else new[row].reshape(x.shape[1], -1)
        return new

    return visit


def _added(x: Tensor, new: Tensor | None, row: int, part: slice, delta: Tensor) -> Tensor:
    """`new`, or x where nothing was added yet, with `delta` [t, d] added to a part of a row."""
    change = delta.to(x.dtype).reshape(delta.shape[0], *x.shape[2:])
    if len(x) == 1 and len(change) == x.shape[1]:
        return (x if new is None else new) + change
    new = x.clone() if new is None else new
    new[row, part] += change
    return new


def _reads_only(group: Group, site: Site) -> bool:
    """Whether it reads here what it needs where it writes."""
    return group.needs_reading and group.dictionary.site == site != group.dictionary.write_site
