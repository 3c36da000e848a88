"""What the weights of a dictionary say of its health: kurtosis of rows, encoder against decoder, the rare direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.dictionary import Dictionary

_ROWS = 8192
"""Rows taken at a time: copies of a large encoder need not all be there at once."""


@dataclass(frozen=True)
class Weights:
    """Of every feature a number, [d_sae] each on the CPU; None where the dictionary has no such thing."""

    encoder_kurtosis: Tensor | None
    decoder_kurtosis: Tensor | None
    encoder_decoder: Tensor | None
    """Cosine of encoder and decoder row."""


def reads_with_encoder(dictionary: Dictionary) -> bool:
    """Whether features have encoder rows of their own: raw neurons and matching pursuit have none."""
    return dictionary.kind not in {"identity", "matching_pursuit"}


def weights_of(dictionary: Dictionary) -> Weights:
    """What needs no text. Encoder and decoder are compared only where they are of one space, which a transcoder's
    are not."""
    if dictionary.kind == "identity":
        return Weights(None, None, None)
    encoder, decoder = dictionary.encoder, dictionary.decoder
    reads = reads_with_encoder(dictionary)
    alike = None
    if reads and dictionary.write_site == dictionary.site and not dictionary.is_transcoder:
        pairs = zip(_parts(encoder), _parts(decoder), strict=True)
        alike = torch.cat([cosine_similarity(e, d, dim=1) for e, d in pairs])
    return Weights(
        encoder_kurtosis=excess_kurtosis(encoder).cpu() if reads else None,
        decoder_kurtosis=excess_kurtosis(decoder).cpu(),
        encoder_decoder=None if alike is None else alike.cpu(),
    )


def excess_kurtosis(rows: Tensor) -> Tensor:
    """[n, d] → [n]: fourth central moment over squared variance, less 3 (as `scipy.stats.kurtosis`); NaN for rows
    that are constant."""
    found = []
    for part in _parts(rows):
        off = part.double() - part.double().mean(1, keepdim=True)
        found.append((off.pow(4).mean(1) / off.square().mean(1).square() - 3).float())
    return torch.cat(found)


def rare_cosines(dictionary: Dictionary, rare: Tensor) -> Tensor | None:
    """Cosine of every encoder row with the mean of the rare features' rows, [d_sae]; None where there is none.

    `rare` is bool [d_sae]. The mean is that of rows as they are, not of unit length, as in the 1L notebook.
    """
    if not reads_with_encoder(dictionary) or not bool(rare.any()):
        return None
    encoder = dictionary.encoder
    mean = encoder[rare.to(encoder.device)].mean(0)
    return torch.cat([cosine_similarity(part, mean[None], dim=1) for part in _parts(encoder)]).cpu()


def _parts(rows: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(rows, _ROWS))
