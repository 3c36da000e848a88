"""Whether a feature that a label is to be kept for can exist, as far as this machine knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from engine import default_model, sets
from engine.errors import BadRequest, SaescopeError
from engine.jsonfile import read_object
from engine.labels.store import LabelStore, Place

_MOST_FEATURES = 1 << 24
"""More than any published dictionary has."""
_FORCE = "--force keeps it all the same."


def check_known(store: LabelStore, model: str, source: str, index: int) -> None:
    """Refuse a feature of a dictionary that nothing here knows, or beyond the end of one.

    Known is what has labels, what a set on this machine holds, and what is in SAELens' registry.

    Raises:
        BadRequest: it is not known; names the nearest that is.
    """
    widths = dict(_in_sets())
    labelled = {(each.model, each.source) for each in store.counts()}
    place = model, source
    if place not in labelled and place not in widths and not _is_published(place):
        raise BadRequest(
            f"No dictionary is known as {model}@{source}.", f"{_near(place, {*labelled, *widths})}{_FORCE}"
        )
    if index >= widths.get(place, _MOST_FEATURES):
        last = f"its last is {widths[place] - 1}" if place in widths else "no dictionary has so many"
        raise BadRequest(f"{model}@{source} has no feature {index}; {last}.", _FORCE)


def _in_sets() -> Iterator[tuple[Place, int]]:
    """The dictionaries of the sets on this machine, by the names that labels are kept under, and how many features."""
    for each in sets.all_sets():
        for name in each.dictionaries:
            try:
                config = read_object(Path(each.folder) / name / "cfg.json")
            except (OSError, ValueError):
                continue
            metadata = config.get("metadata")
            said = metadata if isinstance(metadata, dict) else {}
            width = config.get("d_sae")
            count = width if isinstance(width, int) else _MOST_FEATURES
            identity = said.get("neuronpedia_id") or config.get("neuronpedia_id")
            if isinstance(identity, str) and identity.count("/") == 1:
                model, _, source = identity.partition("/")
                yield (model, source), count
                continue
            folder = Path(each.model)
            default = default_model.NAME if folder == default_model.folder() else folder.name
            models = {default, said.get("model_name") or config.get("model_name")}
            yield from (((model, Path(name).name), count) for model in models if isinstance(model, str))


def _is_published(place: Place) -> bool:
    from engine.names.neuronpedia import entries_for_source

    try:
        return bool(entries_for_source(*place))
    except SaescopeError:  # without sae_lens there is no registry to ask
        return False


def _near(place: Place, here: set[Place]) -> str:
    """`Did you mean gpt2-small@7-res-jb? `, or "" where nothing is near."""
    from engine.names.neuronpedia import models_with

    model, source = place
    try:
        published = models_with(source)
    except SaescopeError:
        published = []
    there = sorted({*(f"{known}@{source}" for known in published), *("@".join(known) for known in here)})
    near = difflib.get_close_matches(f"{model}@{source}", there, n=1)
    return f"Did you mean {near[0]}? " if near else ""
