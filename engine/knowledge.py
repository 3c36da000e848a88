"""What is known of a feature apart from any prompt: its card and the tokens it peaks on, in words."""

from __future__ import annotations

from collections.abc import Iterable

from engine.cards import has_cards, peak_tokens, read_card
from engine.dictionary import Dictionary
from engine.labels.answers import labels_of
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Context, FeatureCard, FeatureRef, TokenValue
from engine.text import visible_token

_LISTED = 10


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
    """The ten tokens whose logits W_dec[i] · W_U raises most, and the ten it lowers most."""
    direction = dictionary.decoder[index]
    if direction.shape[0] != model.d_model:
        return (), ()
    effect = model.unembedding.float() @ direction
    most, least = effect.topk(_LISTED), effect.topk(_LISTED, largest=False)
    return (
        _worded(model, zip(most.indices.tolist(), most.values.tolist(), strict=True)),
        _worded(model, zip(least.indices.tolist(), least.values.tolist(), strict=True)),
    )


def _worded(model: LanguageModel, pairs: Iterable[tuple[int, float]]) -> tuple[TokenValue, ...]:
    return tuple(TokenValue(model.tokenizer.token(token).text, value) for token, value in pairs)
