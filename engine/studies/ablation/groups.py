"""What is ablated together: features one by one, by layer, by kind of site, by set, and combinations of a set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias, get_args

from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.sites import Site
from engine.studies.given import features_in
from engine.study_results import FeatureSet
from engine.study_settings.ablation import Ablation

By: TypeAlias = Literal["one", "layer", "kind", "set", "combinations"]
KINDS: tuple[By, ...] = get_args(By)
_MOST = 2000
"""Combinations that are measured where they were asked for."""
_MOST_UNASKED = 100
"""And where nothing was said."""


@dataclass(frozen=True)
class Group:
    """Features that are ablated together; combinations are `of` a set."""

    by: By
    name: str
    features: tuple[FeatureRef, ...]
    of: str = ""


def groups_of(opened: OpenSet, sets: Sequence[FeatureSet], settings: Ablation) -> tuple[list[Group], list[str]]:
    """The groups in the order of `KINDS`, and sentences about what was left out.

    Raises:
        BadRequest: a word of `by` is unknown, or there would be too many combinations.
    """
    asked = _asked(settings.by)
    features = features_in(sets)
    found: list[Group] = []
    notes: list[str] = []
    if "one" in asked:
        found += [Group("one", str(ref), (ref,)) for ref in features]
    if "layer" in asked:
        found += _sharing(opened, features, "layer", _layer)
    if "kind" in asked:
        found += _sharing(opened, features, "kind", kind_of)
    if "set" in asked:
        found += [Group("set", one.name, tuple(features_in([one]))) for one in sets]
    if "combinations" in asked:
        smallest = _smallest(asked)
        count = _count([len(one.members) for one in sets], smallest, settings.largest)
        if settings.by:
            _refuse_many(count, settings.largest)
        elif count > _MOST_UNASKED:
            notes.append(f"{_in_words(count)} combinations were not ablated; --by combinations asks for them.")
        if count <= (_MOST if settings.by else _MOST_UNASKED):
            found += [group for one in sets for group in _combined(one, smallest, settings.largest)]
    return found, notes


def check_asked(settings: Ablation, features: int) -> None:
    """Refuse what `groups_of` would refuse of one set of so many features, before these have been sought.

    Raises:
        BadRequest: a word of `by` is unknown, or there would be too many combinations.
    """
    asked = _asked(settings.by)
    if settings.by and "combinations" in asked:
        _refuse_many(_count([features], _smallest(asked), settings.largest), settings.largest)


def kind_of(site: Site) -> str:
    """attn, mlp, resid or embed: what part of a block writes at a site."""
    if site.kind == "embed":
        return "embed"
    if site.kind in {"hook_z", "attn_out", "ln1_normalized"}:
        return "attn"
    return "resid" if site.kind.startswith("resid") else "mlp"


def _asked(words: Sequence[str]) -> tuple[By, ...]:
    if unknown := [word for word in words if word not in KINDS]:
        raise BadRequest(f"{unknown[0]!r} is not a value of --by.", f"Use {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in words) or KINDS


def _layer(site: Site) -> str:
    return "embed" if site.kind == "embed" else f"layer {site.layer}"


def _sharing(opened: OpenSet, features: Sequence[FeatureRef], by: By, name: Callable[[Site], str]) -> Iterator[Group]:
    """Features whose sites have one name, in the order of a forward pass."""
    sites = {ref: opened.dictionaries[ref.source].write_site for ref in features}
    members: defaultdict[str, list[FeatureRef]] = defaultdict(list)
    for ref in sorted(features, key=lambda ref: sites[ref].depth):
        members[name(sites[ref])].append(ref)
    return (Group(by, shared, tuple(refs)) for shared, refs in members.items())


def _smallest(asked: Sequence[By]) -> int:
    return 2 if "one" in asked else 1


def _count(sizes: Sequence[int], smallest: int, largest: int) -> int:
    """How many combinations sets of these sizes have; where that is beyond `_MOST`, some number beyond it."""
    count = 0
    for size in sizes:
        for n in range(smallest, min(largest, size) + 1):
            count += comb(size, n)
            if count > _MOST:  # the next may have thousands of digits
                return count
    return count


def _refuse_many(count: int, largest: int) -> None:
    if count > _MOST:
        raise BadRequest(
            f"{_in_words(count)} combinations of at most {largest} features would be ablated.",
            "Give fewer features, or a smaller --largest.",
        )


def _in_words(count: int) -> str:
    return f"{count:,}" if count <= _MOST else f"More than {_MOST:,}"


def _combined(one: FeatureSet, smallest: int, largest: int) -> Iterator[Group]:
    features = features_in([one])
    for size in range(smallest, min(largest, len(features)) + 1):
        for chosen in combinations(features, size):
            yield Group("combinations", " + ".join(map(str, chosen)), chosen, one.name)
