"""Attribution in float32 or float64 of a model that is open in something else: bfloat16 graphs do not reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.model import LanguageModel


@contextmanager
def computing_in(model: LanguageModel, dtype: torch.dtype) -> Iterator[torch.dtype]:
    """While inside, the model's parameters are in `dtype` where theirs is lower; yields what is computed in.

    Raising the precision and going back loses nothing. Buffers stay: rotary frequencies are float32 in any model.
    """
    before = model.dtype
    wanted = torch.promote_types(before, dtype)
    if wanted == before:
        yield before
        return
    try:
        _cast(model, wanted)
        yield wanted
    finally:
        _cast(model, before)


def _cast(model: LanguageModel, dtype: torch.dtype) -> None:
    for parameter in model.hf.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
