"""Neuronpedia's names: which source is which dictionary.

The table is built from the registry's `neuronpedia` field. Both halves, model and source, are taken from it and never
computed: the number before the dash means after the block for `sm` and before it for `jb`, and 536 of the models have
another name there than in SAELens. Entries known to be wrong are corrected here; a test audits them all.
"""

from __future__ import annotations

from functools import cache, lru_cache

from engine.names import models as model_names
from engine.names.registry import Entry, all_entries

CORRECTED = {
    # The dictionary of the embedding; its path is e-res-sm, and attention has no e-… at all.
    ("pythia-70m-deduped-res-sm", "blocks.0.hook_resid_pre"): "pythia-70m-deduped/e-res-sm",
    # The registry names a source of layer 20, width 131k; the other 121 of the release are named by this rule.
    ("gemma-scope-9b-pt-res", "layer_2/width_16k/average_l0_8"): "gemma-2-9b/2-gemmascope-res-16k__l0-8",
}
"""By release and id: what the registry should say."""


def page_in(said: object) -> str | None:
    """`model/source` in what a dictionary's files say of its page; None where that is nothing of this form."""
    return said if isinstance(said, str) and all(said.split("/")) and said.count("/") == 1 else None


def corrected(entry: Entry) -> str | None:
    """What the registry says of an entry, or should say."""
    return CORRECTED.get((entry.release, entry.id), entry.neuronpedia)


def entries_for_source(model: str, source: str) -> tuple[Entry, ...]:
    """The published dictionaries that are this source of this model (Neuronpedia's names); () where there is none."""
    return tuple(_by_source().get(f"{model}/{source}", ()))


def entries_for_set(model: str, short: str) -> tuple[Entry, ...]:
    """Those of a source (`3-res-sm`) or of a whole set of sources (`res-sm`) of a model, in the registry's order.

    A set means its plain sources; where all of them have a suffix behind `__`, those that differ only in it.
    """
    if exact := entries_for_source(model, short):
        return exact
    sources = {source: found for source, found in _sources_of(model).items() if "-" in source}
    plain = [e for source, found in sources.items() if source.split("-", 1)[1] == short for e in found]
    if plain:
        return tuple(plain)
    return tuple(e for s, found in sources.items() if s.split("-", 1)[1].split("__")[0] == short for e in found)


def sets_of(model: str) -> list[str]:
    """The names of a model's sets of sources, without what follows `__`."""
    names = (source.split("-", 1)[1].split("__")[0] for source in _sources_of(model) if "-" in source)
    return list(dict.fromkeys(names))


def models_with(short: str) -> list[str]:
    """The models of which `short` is a source or a set of sources."""
    return [model for model in models() if short in _sources_of(model) or short in sets_of(model)]


# --- models ---------------------------------------------------------------------------------------------------------


def model_of(name: str) -> str | None:
    """Neuronpedia's name of a model given by any of its names; None where it has no dictionaries there."""
    return next((model for model in models() if model_names.same_model(model, name)), None)


@lru_cache(maxsize=1)
def models() -> tuple[str, ...]:
    """Neuronpedia's names of the models that have dictionaries of the registry."""
    return tuple(dict.fromkeys(identity.split("/")[0] for identity in _by_source()))


@lru_cache(maxsize=1)
def _by_source() -> dict[str, list[Entry]]:
    table: dict[str, list[Entry]] = {}
    for entry in all_entries():
        if (identity := corrected(entry)) is not None:
            table.setdefault(identity, []).append(entry)
    return table


@cache
def _sources_of(model: str) -> dict[str, list[Entry]]:
    return {
        identity.split("/", 1)[1]: found for identity, found in _by_source().items() if identity.startswith(f"{model}/")
    }
