"""Neuronpedia quicklists: addresses that show a list of features on one page.

The form is the one the site has published lists in, byte for byte: see `quicklist_url`. A list holds at most 150
features; longer ones are split and numbered. Indices are strings; error nodes have no page and never appear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from engine.errors import BadRequest
from engine.text import has_lone_surrogate

LIMIT = 150
PAGE = "https://neuronpedia.org/quick-list/"
FEATURE_PAGE = "https://www.neuronpedia.org"


class Entry(msgspec.Struct, frozen=True):
    """One feature as the site names it."""

    modelId: str
    layer: str
    index: str


class Effect(msgspec.Struct, frozen=True):
    """The effect of one feature at a site of a circuit: `attn_3`, `mlp_0`, `resid_5` or `embed`."""

    site: str
    index: int
    effect: float


_SITE = re.compile(r"(?P<kind>[a-z]+)(?:_(?P<layer>\d+))?\Z")


def entry(neuronpedia_id: str, index: int) -> Entry:
    """A feature of the dictionary that Neuronpedia calls `model/source`."""
    model, _, source = neuronpedia_id.partition("/")
    if not model or not source:
        raise BadRequest(f"{neuronpedia_id!r} is not a Neuronpedia id.", "It has the form model/source.")
    return Entry(model, source, str(index))


def feature_url(neuronpedia_id: str, index: int) -> str:
    """The page of one feature."""
    item = entry(neuronpedia_id, index)
    return "/".join([FEATURE_PAGE, *(quote(part, safe="") for part in (item.modelId, item.layer, item.index))])


def quicklist_url(name: str, features: Sequence[Entry]) -> str:
    """The address of one list, in the published form.

    Raises:
        BadRequest: no features, more than 150, or no name that is text.
    """
    if not name.strip() or has_lone_surrogate(name):
        raise BadRequest("A quicklist needs a name.", "Give one with --name.")
    if not features:
        raise BadRequest("A quicklist needs at least one feature.", "Mark features with the space bar.")
    if len(features) > LIMIT:
        raise BadRequest(f"A quicklist holds {LIMIT} features; these are {len(features)}.", "Split the list.")
    listed = json.dumps([msgspec.to_builtins(f) for f in features])
    return f"{PAGE}?name={quote(name)}&features={quote(listed)}"


def quicklist_urls(name: str, features: Iterable[Entry]) -> list[str]:
    """One address for every 150 features, duplicates left out; several are numbered `(1/3)`."""
    distinct = list(dict.fromkeys(features))
    parts = [distinct[i : i + LIMIT] for i in range(0, len(distinct), LIMIT)]
    if len(parts) <= 1:
        return [quicklist_url(name, distinct)]
    return [quicklist_url(f"{name} ({n}/{len(parts)})", part) for n, part in enumerate(parts, 1)]


def read_quicklist_url(url: str) -> tuple[str, list[Entry]]:
    """Name and features of a quicklist address, with or without `www`, compact or spaced.

    Raises:
        BadRequest: it is not such an address.
    """
    try:
        query = parse_qs(urlsplit(url).query)
        name, listed = query["name"][0], query["features"][0]
        return name, msgspec.json.decode(listed, type=list[Entry])
    except (KeyError, ValueError, msgspec.DecodeError):
        raise BadRequest(
            "This is not a quicklist address.", "It has the form …/quick-list/?name=…&features=[…]."
        ) from None


def source_of(site: str, sets: Mapping[str, str]) -> str:
    """Neuronpedia's source for a circuit site: `resid_5` with {"resid": "res-sm"} is `5-res-sm`.

    Raises:
        BadRequest: the site's kind has no set, or the site no layer.
    """
    match = _SITE.match(site)
    kind = match["kind"] if match else site
    name = sets.get(kind) or (sets.get("resid") if kind == "embed" else None)
    if match is None or name is None or (match["layer"] is None) != (kind == "embed"):
        raise BadRequest(f"{site!r} has no Neuronpedia source.", f"Known kinds: {', '.join(sets)}.")
    return f"{'e' if kind == 'embed' else match['layer']}-{name}"


def strongest(effects: Iterable[Effect], count: int, model: str, sets: Mapping[str, str]) -> list[Entry]:
    """The `count` strongest features by |effect|, grouped by site in the order sites are first met."""
    ranked = sorted(effects, key=lambda e: -abs(e.effect))[:count]
    sites = list(dict.fromkeys(e.site for e in ranked))
    return [Entry(model, source_of(e.site, sets), str(e.index)) for site in sites for e in ranked if e.site == site]
