"""Logit effects: which output tokens the decoder row of a feature raises and lowers."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.protocol import BadRequest
from engine.studies.measure import Growing
from engine.studies.parts import features_of, result_of, table
from engine.study_results import Bars, Column, StudyResult
from engine.study_settings.logits import Logits


def measure(opened: OpenSet, settings: Logits, growing: Growing) -> StudyResult:
    """W_dec[i] · W_U of every feature named, less its median over the vocabulary, in logits per unit of activation."""
    refs = features_of(opened, settings.features)
    rows = []
    for number, ref in enumerate(refs):
        growing.progress("reading weights", number, len(refs))
        effects = logit_effects(opened, opened.find(ref.source, ref.index), ref.index)
        for largest, kind in ((True, "promoted"), (False, "suppressed")):
            top = effects.topk(min(settings.top, len(effects)), largest=largest)
            for place, (value, token) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1):
                rows.append((ref, kind, place, opened.model.tokenizer.token(token).text, token, value))
    columns = (
        Column("feature", "feature"),
        Column("direction", help="promoted or suppressed"),
        Column("rank", "count"),
        Column("token", "token"),
        Column("id", "count", "The token's id."),
        Column("effect", "signed", "Change of its logit per unit of activation, over the median of all tokens."),
    )
    return result_of(
        opened,
        opened.choose(tuple({ref.source for ref in refs})),
        settings,
        f"Logit effects of {', '.join(map(str, refs[:3]))}{' …' if len(refs) > 3 else ''}",
        tables=(table("tokens", "Tokens promoted and suppressed", columns, rows),),
        views=(Bars(title="Logit effects", table="tokens", label="token", values=("effect",)),),
    )


def logit_effects(opened: OpenSet, dictionary: Dictionary, index: int) -> Tensor:
    """[V] logits per unit of activation, median zero.

    Raises:
        BadRequest: the dictionary does not write into the residual stream.
    """
    direction = dictionary.decoder[index].float()
    if len(direction) != opened.model.d_model:
        raise BadRequest(f"{dictionary.source} does not write into the residual stream.", "Choose another dictionary.")
    with torch.inference_mode():
        logits = opened.model.unembedding.float() @ direction.to(opened.model.device)
        shifted: Tensor = logits - logits.median()
    return shifted.cpu()
