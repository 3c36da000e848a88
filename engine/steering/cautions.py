"""Settings that cannot act, told before anyone wonders why nothing happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.sites import Site
from engine.steering_results import Intervention

_BEFORE_ATTENTION = {"resid_pre", "embed", "ln1_normalized"}
_NEUTRAL = {"add": 0.0, "scale": 1.0, "rescale": 1.0}


def cautions(opened: OpenSet, interventions: Sequence[Intervention], prompt: int, tokens: int) -> Iterator[str]:
    """One sentence for each thing that cannot act on a prompt of so many tokens and what is generated after it."""
    for one in interventions:
        dictionary = opened.dictionaries[one.feature.source]
        name = f"{one.feature}: {one.kind}"
        if _NEUTRAL.get(one.kind) == one.strength:
            yield f"{name} {one.strength:g} changes nothing."
        first, last = one.positions.start, prompt + tokens - 1
        if one.positions.kind == "range" and first >= prompt + max(tokens - 1, 0):
            yield f"{name} acts from token {first} on, and the last one read is {max(last - 1, prompt - 1)}."
        elif _too_late(opened.model, dictionary.write_site) and not _reaches_the_end(one, prompt):
            yield (
                f"{name} at {one.positions} cannot act: after the attention of the last layer only the last token "
                "of the prompt and the new ones feed what is generated."
            )
        if dictionary.is_transcoder and dictionary.site != dictionary.write_site:
            yield (
                f"{name}: its dictionary reads {dictionary.site.hook}, which is not written back; "
                f"it acts at {dictionary.write_site.hook}."
            )


def _too_late(model: LanguageModel, site: Site) -> bool:
    """Whether no attention comes after the site, so that tokens no longer see one another."""
    return site.kind not in _BEFORE_ATTENTION and site.layer == model.layers - 1


def _reaches_the_end(one: Intervention, prompt: int) -> bool:
    """Whether it acts at the last token of the prompt or after it."""
    positions = one.positions
    return positions.kind != "range" or positions.stop is None or positions.stop >= prompt
