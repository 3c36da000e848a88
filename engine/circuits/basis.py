"""What a site is taken apart into: the features of a dictionary and its error, or raw neurons.

At the site a basis writes, x = Σ_i c_i · direction_i + constant + error. Coefficients c are activations, except where
a dictionary rescales by decoder norm or normalises its input: there they are what the decoder row is multiplied by, so
that decoding stays affine. Shapes: x [n, d]; codes are sparse triples (rows, features, values), each [m].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.sites import Site

_BLOCK = 1 << 24


@dataclass(frozen=True)
class Codes:
    """Nonzero coefficients: row n of the batch, feature, value; sorted by row and feature."""

    rows: Tensor
    features: Tensor
    values: Tensor


class Basis(Protocol):
    """One way to take a site apart."""

    source: str
    read_site: Site
    write_site: Site
    d_sae: int

    def codes(self, x: Tensor) -> Codes:
        """The nonzero coefficients of x [n, d_in]."""

    def decode(self, codes: Codes, n: int, d: int) -> Tensor:
        """Σ c·direction → [n, d], without the constant."""

    def constant(self, x: Tensor) -> Tensor:
        """What is there when no feature fires: [n, d_out]."""

    def along(self, features: Tensor, vectors: Tensor) -> Tensor:
        """direction[features [m]] · vectors [m, d] → [m]."""

    def directions(self, features: Tensor) -> Tensor:
        """[m] → [m, d_out]."""

    def coefficient(self, x: Tensor, features: Tensor, active: Tensor) -> Tensor:
        """Differentiable: coefficient of feature k on row k of x [m, d_in], zero where not `active` [m] → [m]."""

    def activation(self, x: Tensor, features: Tensor) -> Tensor:
        """Coefficient of feature k on row k of x [m, d_in], as it is there → [m]."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Differentiable: Σ c·direction + constant of x [n, d_in] → [n, d_out]."""


class DictionaryBasis:
    """Features of a sparse autoencoder or transcoder.

    Raises:
        BadRequest: a temporal dictionary.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        if dictionary.whole_prompt:
            raise BadRequest(
                f"{dictionary.source} is a temporal dictionary: its features depend on the tokens before, "
                "which circuits do not follow.",
                "Trace with other dictionaries.",
            )
        self.dictionary = dictionary
        self.source = dictionary.source
        self.read_site = dictionary.site
        self.write_site = dictionary.write_site
        self.d_sae = dictionary.d_sae
        self._normalised = dictionary.normalisation != "none" and not dictionary.is_transcoder

    def codes(self, x: Tensor) -> Codes:
        step = max(1, _BLOCK // self.d_sae)
        parts = [self._codes(x[start : start + step], start) for start in range(0, len(x), step)]
        return Codes(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _codes(self, x: Tensor, offset: int) -> tuple[Tensor, Tensor, Tensor]:
        dense = self.dictionary.encode(x)
        rows, features = dense.nonzero(as_tuple=True)
        return rows + offset, features, self._coefficients(dense[rows, features], features, x, rows)

    def _coefficients(self, activations: Tensor, features: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        if self.dictionary.rescale_by_decoder_norm:
            activations = activations / self.dictionary.decoder_norm[features]
        return activations * self.dictionary.gain(x)[rows, 0] if self._normalised else activations

    def decode(self, codes: Codes, n: int, d: int) -> Tensor:
        counts = torch.bincount(codes.rows, minlength=n)
        if not len(codes.rows):
            return self.dictionary.decoder.new_zeros(n, d)
        return torch.nn.functional.embedding_bag(
            codes.features,
            self.dictionary.decoder,
            counts.cumsum(0) - counts,
            per_sample_weights=codes.values,
            mode="sum",
        )

    def constant(self, x: Tensor) -> Tensor:
        nothing = x.new_zeros(len(x), self.dictionary.d_out, dtype=self.dictionary.precision)
        return self.dictionary.finish(nothing, x)

    def along(self, features: Tensor, vectors: Tensor) -> Tensor:
        step = max(1, _BLOCK // vectors.shape[1])
        decoder = self.dictionary.decoder
        parts = [
            (decoder[features[start : start + step]] * vectors[start : start + step]).sum(1)
            for start in range(0, len(features), step)
        ]
        return torch.cat(parts) if parts else vectors.new_zeros(0)

    def directions(self, features: Tensor) -> Tensor:
        return self.dictionary.decoder[features]

    def coefficient(self, x: Tensor, features: Tensor, active: Tensor) -> Tensor:
        activation = self.dictionary.activation_of(x, features)
        rows = torch.arange(len(x), device=x.device)
        return self._coefficients(activation, features, x, rows) * active

    def activation(self, x: Tensor, features: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        found = self.dictionary.encode(x)[rows, features]
        return self._coefficients(found, features, x, rows)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.dictionary.decode(self.dictionary.encode(x), x)


class NeuronBasis:
    """Every coordinate of a site as a node of its own; nothing is left unexplained."""

    def __init__(self, site: Site, width: int) -> None:
        self.source = f"{site.layer}-{site.kind}" if site.kind != "embed" else "embed"
        self.read_site = self.write_site = site
        self.d_sae = width

    def codes(self, x: Tensor) -> Codes:
        rows, features = x.nonzero(as_tuple=True)
        return Codes(rows, features, x[rows, features])

    def decode(self, codes: Codes, n: int, d: int) -> Tensor:
        return codes.values.new_zeros(n, d).index_put_((codes.rows, codes.features), codes.values)

    def constant(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def along(self, features: Tensor, vectors: Tensor) -> Tensor:
        return vectors.gather(1, features[:, None])[:, 0]

    def directions(self, features: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(features, self.d_sae).to(torch.get_default_dtype())

    def coefficient(self, x: Tensor, features: Tensor, active: Tensor) -> Tensor:
        return x.gather(1, features[:, None])[:, 0]

    def activation(self, x: Tensor, features: Tensor) -> Tensor:
        return x.gather(1, features[:, None])[:, 0]

    def reconstruct(self, x: Tensor) -> Tensor:
        return x
