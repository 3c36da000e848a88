"""Raw neurons asked for as a dictionary: `neurons:mlp_post`, `neurons:blocks.3.mlp.hook_post`, `neurons:embed`.

There is nothing on disk: what the model holds at a site are the activations themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.dictionary import Dictionary
from engine.encoding.identity import neurons
from engine.errors import BadRequest, DictionaryMismatch
from engine.places import Place
from engine.sites import Site, parse_hook

if TYPE_CHECKING:
    from engine.model import LanguageModel

_MLP = "mlp_post"
_WIDEST = 1 << 20


def places_for(model: LanguageModel, wanted: str) -> list[Place]:
    """One place for a hook, or one per layer for a kind of place.

    Raises:
        BadRequest: no such kind or hook.
        DictionaryMismatch: the model has no such place.
    """
    sites = sites_for(model.layers, wanted)
    for site in sites:
        model.check_site(site)
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    held = model.capture(ids, sites)
    if missing := [site for site in sites if site not in held]:
        raise DictionaryMismatch(f"A pass through {model.name} never comes by {missing[0].hook}.")
    return [
        Place("neurons", model.folder, _source(site), site.hook, extra={"width": held[site][0, 0].numel()})
        for site in sites
    ]


def sites_for(layers: int, wanted: str) -> list[Site]:
    """The sites that a hook means, or a kind of place in a model of so many layers.

    Raises:
        BadRequest: no such kind or hook.
    """
    if wanted == "embed":
        return [Site("embed", 0)]
    if "." in wanted or wanted.startswith("hook_e"):
        return [parse_hook(wanted)]
    try:
        return [parse_hook(Site(wanted, layer).hook) for layer in range(layers)]
    except KeyError:
        raise BadRequest(
            f"There is no kind of place called {wanted!r}.",
            "Ask for neurons:mlp_post, neurons:resid_post, neurons:attn_out or neurons:HOOK.",
        ) from None


def _source(site: Site) -> str:
    if site.kind == "embed":
        return "e-neurons"
    return f"{site.layer}-neurons" if site.kind == _MLP else f"{site.layer}-{site.kind}-neurons"


def read(place: Place) -> Dictionary:
    """The coordinates of a site as features.

    Raises:
        DictionaryMismatch: the place does not say which hook, or how wide it is.
    """
    width = place.extra.get("width")
    if place.hook is None or not isinstance(width, int) or not 0 < width <= _WIDEST:
        raise DictionaryMismatch("Neurons were asked for without a hook and a width.", "Ask for neurons:mlp_post.")
    site = parse_hook(place.hook)
    return neurons(
        site, width, source=place.source or _source(site), folder=place.path, metadata={"hook_name": site.hook}
    )
