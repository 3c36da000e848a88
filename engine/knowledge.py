"""What is known of a feature apart from any prompt: its card and the tokens it peaks on, in words."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from engine.architectures import FAMILIES, locate
from engine.cards import has_cards, peak_tokens, read_card
from engine.dictionary import Dictionary
from engine.hooked_model import HookedModel
from engine.labels.answers import labels_of
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Context, FeatureCard, FeatureRef, TokenValue
from engine.sites import Site
from engine.text import visible_token

_LISTED = 10
_BEFORE_A_MAP = {"mlp_post": "mlp_out", "hook_z": "attn_out"}
"""Kinds of sites that a linear map reads, and the kind where what it writes into the stream is read."""


def feature_card(opened: OpenSet, feature: FeatureRef) -> FeatureCard:
    """The card of a feature; where the dictionary has no card file, what the weights alone say."""
    dictionary = opened.find(feature.source, feature.index)
    if not has_cards(dictionary.folder):
        promotes, suppresses = logit_effects(opened.model, dictionary, feature.index)
        return FeatureCard(
            ref=feature,
            density=None,
            max_activation=None,
            contexts=(),
            promotes=promotes,
            suppresses=suppresses,
            histogram=(),
            corpus_tokens=0,
            labels=labels_of(opened, feature),
        )
    stored = read_card(dictionary.folder, feature.index)
    contexts = (
        Context(c.origin, _worded(opened.model, zip(c.ids, c.values, strict=True)), c.peak) for c in stored.contexts
    )
    return FeatureCard(
        ref=feature,
        density=stored.density,
        max_activation=stored.maximum,
        contexts=tuple(contexts),
        promotes=_worded(opened.model, stored.promotes),
        suppresses=_worded(opened.model, stored.suppresses),
        histogram=stored.histogram,
        corpus_tokens=stored.corpus_tokens,
        labels=labels_of(opened, feature),
    )


def hint(opened: OpenSet, feature: FeatureRef) -> str:
    """The tokens a feature peaks on, commonest first, in one short line; "" where nothing is known."""
    dictionary = opened.dictionaries.get(feature.source)
    if dictionary is None or not has_cards(dictionary.folder):
        return ""
    token = opened.model.tokenizer.token
    return " ".join(visible_token(token(i).text) for i in peak_tokens(dictionary.folder, feature.index))


def logit_effects(
    model: LanguageModel, dictionary: Dictionary, index: int
) -> tuple[tuple[TokenValue, ...], tuple[TokenValue, ...]]:
    """The ten tokens whose logits the feature raises most, and the ten it lowers most, directly.

    That is W_dec[i] · W_U, and behind the maps at whose input some dictionaries read W_dec[i] · W_out · W_U; nothing
    where the way from the site into the stream is not linear.
    """
    direction = in_the_stream(model, dictionary.write_site, dictionary.decoder[index])
    if direction is None:
        return (), ()
    effect = model.unembedding.float() @ direction
    most, least = effect.topk(_LISTED), effect.topk(_LISTED, largest=False)
    return (
        _worded(model, zip(most.indices.tolist(), most.values.tolist(), strict=True)),
        _worded(model, zip(least.indices.tolist(), least.values.tolist(), strict=True)),
    )


def in_the_stream(model: LanguageModel, site: Site, direction: Tensor) -> Tensor | None:
    """What `direction` [d] at a site adds to the residual stream [d_model]; None where that is not one linear map."""
    weight = _map_behind(model, site) if site.kind in _BEFORE_A_MAP else None
    if weight is not None and weight.shape == (direction.shape[0], model.d_model):
        return direction @ weight.to(direction.device, direction.dtype)
    known = site.kind not in _BEFORE_A_MAP and direction.shape[0] == model.d_model
    return direction if known else None


def _map_behind(model: LanguageModel, site: Site) -> Tensor | None:
    """The weights [d, d_model] of the linear map whose input a site is and whose output goes into the stream."""
    if isinstance(model, HookedModel):
        block = model.hf.blocks[site.layer]
        weight: Tensor = block.mlp.W_out if site.kind == "mlp_post" else block.attn.W_O.flatten(0, 1)
        return weight.detach()
    family = FAMILIES.get(model.hf.config.model_type)
    behind = locate(model.hf, family, site) if family is not None else None
    whole = locate(model.hf, family, Site(_BEFORE_A_MAP[site.kind], site.layer)) if family is not None else None
    if behind is None or whole is None or behind[0] not in whole[0].modules():
        return None  # no table says where it lies, or what it writes is normed before it is added
    module = behind[0]
    if isinstance(module, nn.Linear):
        return module.get_parameter("weight").detach().T
    return (
        module.get_parameter("weight").detach() if type(module).__name__ == "Conv1D" else None
    )  # GPT-2's, kept as [in, out]


def _worded(model: LanguageModel, pairs: Iterable[tuple[int, float]]) -> tuple[TokenValue, ...]:
    return tuple(TokenValue(model.tokenizer.token(token).text, value) for token, value in pairs)
