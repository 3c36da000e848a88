"""One feature on a text that is being edited: read up to its site, and nothing kept."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from engine.cards import has_cards, read_card
from engine.errors import DictionaryMissing
from engine.job import Job
from engine.opening import OpenSet
from engine.protocol import FeatureRef, TextTried, TryText
from engine.reading import Reading, plain_numbers


def try_text(opened: OpenSet, request: TryText, job: Job) -> TextTried:
    """The activation of a feature on every token of a text.

    Raises:
        BadRequest: the dictionary is not open, or the text is empty.
        PromptTooLong: the model does not read so many tokens.
    """
    feature = request.feature
    dictionary = opened.find(feature.source, feature.index)
    ids = opened.checked_ids(request.text, request.chat)
    reading = Reading(dictionary, len(ids), 1, 0)

    def visit(x: Tensor) -> None:
        reading.add(x[0].reshape(x.shape[1], -1))

    opened.model.read(torch.tensor([ids], device=opened.model.device), {dictionary.site: visit}, job)
    tokens = map(opened.model.tokenizer.token, ids)
    marked = (msgspec.structs.replace(t, sink=s) for t, s in zip(tokens, reading.sinks().tolist(), strict=True))
    return TextTried(
        id=job.id,
        feature=feature,
        tokens=tuple(marked),
        values=plain_numbers(reading.row(feature.index)),
        maximum=_known_maximum(opened, feature),
    )


def _known_maximum(opened: OpenSet, feature: FeatureRef) -> float | None:
    """The largest activation of a feature's card, in the units that are shown; None where it has none."""
    dictionary = opened.dictionaries[feature.source]
    if opened.folded or not has_cards(dictionary.folder):  # cards hold raw f
        return None
    try:
        return read_card(dictionary.folder, feature.index).maximum
    except DictionaryMissing:  # damaged: the numbers do without
        return None
