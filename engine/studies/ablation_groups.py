"""What is ablated together: features one by one, by layer, by kind of site, by set, and combinations of a set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias, cast, get_args

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
        smallest = 2 if "one" in asked else 1
        count = sum(_count(len(one.members), smallest, settings.largest) for one in sets)
        if count > (_MOST if settings.by else _MOST_UNASKED):
            if settings.by:
                raise BadRequest(
                    f"{count:,} combinations of at most {settings.largest} features would be ablated; at most "
                    f"{_MOST:,} are.",
                    "Give fewer features, or a smaller --largest.",
                )
            notes.append(f"{count:,} combinations were not ablated; --by combinations asks for them.")
        else:
            found += [group for one in sets for group in _combined(one, smallest, settings.largest)]
    return found, notes


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
    return cast(tuple[By, ...], tuple(words)) or KINDS


def _layer(site: Site) -> str:
    return "embed" if site.kind == "embed" else f"layer {site.layer}"


def _sharing(opened: OpenSet, features: Sequence[FeatureRef], by: By, name: Callable[[Site], str]) -> Iterator[Group]:
    """Features whose sites have one name, in the order of a forward pass."""
    sites = {ref: opened.dictionaries[ref.source].write_site for ref in features}
    members: defaultdict[str, list[FeatureRef]] = defaultdict(list)
    for ref in sorted(features, key=lambda ref: sites[ref].depth):
        members[name(sites[ref])].append(ref)
    return (Group(by, shared, tuple(refs)) for shared, refs in members.items())


def _count(size: int, smallest: int, largest: int) -> int:
    return sum(comb(size, n) for n in range(smallest, min(largest, size) + 1))


def _combined(one: FeatureSet, smallest: int, largest: int) -> Iterator[Group]:
    features = features_in([one])
    for size in range(smallest, min(largest, len(features)) + 1):
        for chosen in combinations(features, size):
            yield Group("combinations", " + ".join(map(str, chosen)), chosen, one.name)
