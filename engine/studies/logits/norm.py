"""The final norm as logit effects need it: its gain on a direction, and the size it divides by on text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from engine import norms
from engine.architectures import FAMILIES
from engine.corpus.blocks import CONTEXTS_AHEAD, ahead
from engine.corpus.reading import read_batches
from engine.corpus.text import LeftOut, contexts_of, documents_of
from engine.errors import BadRequest
from engine.hooked_model import HookedModel
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.results import FeatureRef
from engine.sites import Site
from engine.studies.measure import Growing
from engine.study_settings.logits import Logits
from engine.training.corpus import Context, batches

Sizes: TypeAlias = dict[FeatureRef, float]
"""What the final norm divides by where each feature fires."""


def final_norm_of(model: LanguageModel) -> tuple[nn.Module, float] | None:
    """The norm before the unembedding and what is added to its weight; None where no table says which it is."""
    if isinstance(model, HookedModel):
        return (model.hf.ln_final, 0.0) if model.config.normalization_type is not None else None
    family = FAMILIES.get(model.hf.config.model_type)
    return None if family is None else (attrgetter(family.norm)(model.hf), family.norm_offset)


def frozen_norm(model: LanguageModel, direction: Tensor) -> Tensor:
    """What the final norm makes of a direction [d_model], but for the size it divides by: less its mean where the norm
    takes that away, times the gain."""
    found = final_norm_of(model)
    if found is None:
        return direction
    norm, offset = found
    if _centres(norm):
        direction = direction - direction.mean()
    gain: Any = getattr(norm, "weight", getattr(norm, "w", None))
    return direction if gain is None else torch.mul(direction, gain.to(direction.dtype) + offset)


def norm_sizes(model: LanguageModel, stream: Tensor) -> Tensor:
    """What the final norm divides by, [n], where the residual stream after the last block is `stream` [n, d_model].

    Raises:
        BadRequest: no table says which norm that is.
    """
    found = final_norm_of(model)
    if found is None:
        raise BadRequest(f"The final norm of {model.name} is not known.", "Leave out --tokens.")
    norm, _ = found
    wide = stream.float()
    if _centres(norm):
        wide = wide - wide.mean(1, keepdim=True)
    if isinstance(model, HookedModel):
        return (wide.square().mean(1) + float(model.config.eps)).sqrt()
    sizes: Tensor = wide.norm(dim=1) / norms.normalised(norm, stream).norm(dim=1)
    return sizes


def _centres(norm: nn.Module) -> bool:
    """Whether it takes the mean away: a LayerNorm, also TransformerLens' own."""
    return isinstance(norm, nn.LayerNorm) or type(norm).__name__ in {"LayerNorm", "LayerNormPre"}


def sizes_where_firing(
    opened: OpenSet,
    settings: Logits,
    refs: Sequence[FeatureRef],
    growing: Growing,
    told: Callable[[Sizes, LeftOut], None],
) -> tuple[Sizes, LeftOut]:
    """The median size over the tokens of text on which each feature fires; over all that count where it fires on none.

    With what of the text was too short to be read. `told` hears both of the text so far, whenever that is due.

    Raises:
        BadRequest: the text cannot be read or holds too little, or the final norm is not known.
    """
    model = opened.model
    dictionaries = opened.choose(tuple({ref.source for ref in refs}))
    everywhere: list[Tensor] = []
    firing: dict[FeatureRef, list[Tensor]] = {ref: [] for ref in refs}
    done = 0
    left_out = LeftOut()
    contexts = contexts_of(opened, documents_of(settings.text), settings.context, settings.tokens, left_out)
    stream = ahead(contexts, growing.job, CONTEXTS_AHEAD)
    for batch in read_batches(model, dictionaries, stream, growing.job):
        sizes = _sizes_of(model, batch.contexts, growing)
        for ref, found in firing.items():
            entries = batch.reads[ref.source].entries
            found.append(sizes[entries.rows[entries.features == ref.index]].cpu())
        everywhere.append(sizes[batch.reads[refs[0].source].counts].cpu())
        done += len(batch.ids)
        growing.rest()
        growing.progress("measuring the final norm", done, settings.tokens)
        if growing.is_due:
            told(_medians(everywhere, firing), left_out)
    if not done:
        raise BadRequest("The text holds no stretch of 16 tokens or more.", "Give more or longer text.")
    return _medians(everywhere, firing), left_out


def _medians(everywhere: list[Tensor], firing: dict[FeatureRef, list[Tensor]]) -> Sizes:
    every = torch.cat(everywhere)
    return {ref: float((own if len(own := torch.cat(found)) else every).median()) for ref, found in firing.items()}


def _sizes_of(model: LanguageModel, contexts: list[Context], growing: Growing) -> Tensor:
    """[n] over all tokens of a batch, laid end to end."""
    last = Site("resid_post", model.layers - 1)
    padded, _ = next(batches(contexts, len(contexts)))
    with torch.inference_mode():
        held = model.capture(torch.from_numpy(padded).to(model.device, torch.long), [last], growing.job)[last]
        return torch.cat([norm_sizes(model, row[: len(c.ids)]) for row, c in zip(held, contexts, strict=True)])
