"""Effects on a circuit's metric as entries of published lists: which are features, and what their sites are called.

Which are the strongest, and in what order they are listed, is said in `engine.selection`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from engine.errors import BadRequest
from engine.selection import Effect, top
from sessions.links import Entry

__all__ = ["WIDTHS", "Effect", "features_of", "source_of", "strongest"]

WIDTHS: Mapping[tuple[str, str], int] = {
    ("pythia-70m-deduped", "att-sm"): 32_768,
    ("pythia-70m-deduped", "mlp-sm"): 32_768,
    ("pythia-70m-deduped", "res-sm"): 32_768,
    ("gpt2-small", "res-jb"): 24_576,
}
"""How many features the dictionaries of the published lists have."""

_SITE = re.compile(r"(?P<kind>[a-z]+(?:_[a-z]+)*)(?:_(?P<layer>\d+))?\Z")
_ERRORS = {"ε", "error", "err"}


def source_of(site: str, sets: Mapping[str, str]) -> str:
    """Neuronpedia's source for a circuit site: `resid_5` with {"resid": "res-sm"} is `5-res-sm`.

    Raises:
        BadRequest: the site's kind has no set, or the site no layer.
    """
    match = _SITE.match(site)
    name = _set_of(site, sets)
    if match is None or name is None or (match["layer"] is None) != (match["kind"] == "embed"):
        raise BadRequest(f"{site!r} has no Neuronpedia source.", f"Known kinds: {', '.join(sets)}.")
    return f"{match['layer'] or 'e'}-{name}"


def features_of(
    effects: Iterable[Effect], model: str, sets: Mapping[str, str], widths: Mapping[tuple[str, str], int] = WIDTHS
) -> list[Effect]:
    """The effects of features, without error nodes; `widths` says by model and set which index is theirs."""

    def is_error(effect: Effect) -> bool:
        if isinstance(effect.index, str):
            return effect.index.lower() in _ERRORS
        return effect.index < 0 or effect.index == widths.get((model, _set_of(effect.site, sets) or ""))

    return [effect for effect in effects if not is_error(effect)]


def strongest(
    effects: Iterable[Effect],
    count: int,
    model: str,
    sets: Mapping[str, str],
    widths: Mapping[tuple[str, str], int] = WIDTHS,
) -> list[Entry]:
    """The `count` strongest features by |effect|, grouped by site in the order sites are first met; no error nodes."""
    chosen = top(features_of(effects, model, sets, widths), count)
    return [Entry(model, source_of(e.site, sets), str(e.index)) for e in chosen]


def _set_of(site: str, sets: Mapping[str, str]) -> str | None:
    """The set of a site's kind; the embedding is in that of the residual stream unless it has its own."""
    match = _SITE.match(site)
    kind = match["kind"] if match else site
    return sets.get(kind) or (sets.get("resid") if kind == "embed" else None)
