"""One dictionary: sparse autoencoder or transcoder, with SAELens' meaning of every weight and setting.

Shapes: x [n, d_in], activations [n, d_sae], reconstruction [n, d_out]. Weights are float32, or float64 where the model
is; an encoder in a lower precision may be kept beside them for screening. The formulas follow SAELens 6.54
(`saes/*.py`), and a test holds `encode` and `decode` equal to its own for every architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from engine.places import Place
from engine.sites import Site

_WEIGHTS = ("encoder", "decoder", "b_enc", "b_dec", "threshold", "r_mag", "b_mag", "skip")
FORMULAS = {
    "standard": "relu({x}·W_enc + b_enc)",
    "topk": "top {k} of {x}·W_enc + b_enc, relu",
    "jumprelu": "{x}·W_enc + b_enc where > threshold",
    "gated": "relu({x}·W_enc·e^r_mag + b_mag) where {x}·W_enc + b_gate > 0",
}


@dataclass(frozen=True)
class Sparse:
    """Activations of TopK kind: for every token its k features, strongest first. Shapes [n, k]."""

    values: Tensor
    indices: Tensor


@dataclass
class Dictionary:
    """The weights of one dictionary and how they are applied."""

    source: str
    site: Site
    write_site: Site
    """Where its decoder writes: the same site for an SAE, the output's for a transcoder."""
    kind: str
    """standard, topk, jumprelu or gated: how pre-activations become activations."""
    architecture: str
    """SAELens' name."""
    encoder: Tensor
    """[d_sae, d_in], the transpose of SAELens' W_enc: one row per feature."""
    decoder: Tensor
    """W_dec [d_sae, d_out]."""
    b_enc: Tensor
    b_dec: Tensor
    folder: Path
    sha256: str
    k: int = 0
    threshold: Tensor | None = None
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None
    skip: Tensor | None = None
    subtract_b_dec: bool = True
    rescale_by_decoder_norm: bool = False
    normalisation: str = "none"
    centre: bool = False
    """The dictionary was trained on a model with centred writing weights: the mean over d is subtracted first."""
    metadata: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None
    """Where it was read from; None for one that was made here."""
    form: str = "SAELens"
    """Whose file format it came in."""
    notes: tuple[str, ...] = ()
    """What sets its numbers apart from those of others, in words."""
    _screen: Tensor | None = None

    @property
    def d_in(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return self.encoder.shape[0]

    @property
    def is_transcoder(self) -> bool:
        return "transcoder" in self.architecture

    @property
    def formula(self) -> str:
        """How an activation is computed, in one line."""
        x = "(x − b_dec)" if self.subtract_b_dec else "x"
        text = FORMULAS[self.kind].format(x=x, k=self.k)
        if self.rescale_by_decoder_norm:
            text += ", × ‖W_dec‖"
        if self.normalisation != "none":
            text += f"; x {self.normalisation}"
        return text + ("; x centred" if self.centre else "")

    @property
    def precision(self) -> torch.dtype:
        """What is computed in: float32 or float64."""
        return self.encoder.dtype

    def to(self, device: torch.device, dtype: torch.dtype) -> Dictionary:
        """Move the weights beside a model in `dtype`: in float64 with it, with a second encoder below float32."""
        precision = torch.promote_types(dtype, torch.float32)
        for name in _WEIGHTS:
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, tensor.to(device, precision))
        self._screen = self.encoder.to(dtype) if dtype != precision else None
        return self

    def in_precision(self, dtype: torch.dtype) -> Dictionary:
        """This dictionary, or a copy of it in float64 where `dtype` is."""
        if torch.promote_types(dtype, torch.float32) == self.precision:
            return self
        return replace(self).to(self.encoder.device, dtype)

    # --- encoding -----------------------------------------------------------------------------------------------

    def pre_activations(self, x: Tensor, *, screen: bool = False) -> Tensor:
        """x [n, d_in] → [n, d_sae] before the activation function, float32 or the screening precision."""
        centred = self._input(x)
        if screen and self._screen is not None:
            pre = linear(centred.to(self._screen.dtype), self._screen).float().add_(self.b_enc)
        else:
            pre = linear(centred, self.encoder, self.b_enc)
        return pre * self.decoder_norm if self.rescale_by_decoder_norm else pre

    def encode(self, x: Tensor, *, screen: bool = False) -> Tensor:
        """x [n, d_in] → activations [n, d_sae]."""
        pre = self.pre_activations(x, screen=screen)
        if self.kind == "topk":
            return self.densify(self._top(pre))
        return self._activate(pre, slice(None))

    def encode_sparse(self, x: Tensor, *, screen: bool = False) -> Sparse:
        """TopK only: the k strongest features of every row, without a dense result."""
        return self._top(self.pre_activations(x, screen=screen))

    def densify(self, sparse: Sparse) -> Tensor:
        """[n, k] → [n, d_sae]."""
        dense = sparse.values.new_zeros(len(sparse.values), self.d_sae)
        return dense.scatter_(1, sparse.indices, sparse.values)

    def feature_rows(self, x: Tensor, indices: Tensor, sparse: Sparse | None = None) -> Tensor:
        """The activations of a few features [m] on every row of x [n, d_in], exact in float32 → [m, n].

        For TopK, `sparse` says on which rows a feature is among the k.
        """
        pre = linear(self._input(x), self.encoder[indices]) + self.b_enc[indices]
        if self.rescale_by_decoder_norm:
            pre = pre * self.decoder_norm[indices]
        if self.kind == "topk":
            chosen = self._chosen(x, pre, indices) if sparse is None else (sparse.indices[:, :, None] == indices).any(1)
            return (pre.relu() * chosen).T
        return self._activate(pre, indices).T

    def _chosen(self, x: Tensor, pre: Tensor, indices: Tensor) -> Tensor:
        """Which of some features [m] with pre-activations `pre` [n, m] are among the k of each row: bool [n, m].

        On a CPU only rows are encoded where it matters: a pre-activation that is not positive is no activation.
        """
        if x.device.type != "cpu":
            return (self.encode_sparse(x).indices[:, :, None] == indices).any(1)
        rows = (pre > 0).any(1).nonzero()[:, 0]
        chosen = torch.zeros_like(pre, dtype=torch.bool)
        if len(rows):
            chosen[rows] = (self.encode_sparse(x[rows]).indices[:, :, None] == indices).any(1)
        return chosen

    def activation_of(self, x: Tensor, features: Tensor) -> Tensor:
        """Activation of feature k on row k of x [m, d_in] → [m], differentiable; for TopK as if it were among the k."""
        pre = (self._input(x) * self.encoder[features]).sum(1) + self.b_enc[features]
        if self.rescale_by_decoder_norm:
            pre = pre * self.decoder_norm[features]
        return pre.relu() if self.kind == "topk" else self._activate(pre, features)

    @cached_property
    def decoder_norm(self) -> Tensor:
        norm: Tensor = self.decoder.norm(dim=1)
        return norm

    def _top(self, pre: Tensor) -> Sparse:
        top = pre.topk(min(self.k, self.d_sae), dim=1)
        return Sparse(top.values.relu(), top.indices)

    def _activate(self, pre: Tensor, part: slice | Tensor) -> Tensor:
        if self.kind == "standard":
            return pre.relu_()  # nobody else has it; a block of this size is worth not copying
        if self.kind == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold[part])
        assert self.r_mag is not None
        assert self.b_mag is not None
        gate = self.b_enc[part]
        magnitude = (pre - gate) * self.r_mag[part].exp() + self.b_mag[part]
        return magnitude.relu() * (pre > 0)

    def _input(self, x: Tensor) -> Tensor:
        x = x.to(self.precision)
        if self.centre:
            x = x - x.mean(1, keepdim=True)
        x = self._normalise(x)[0]
        return x - self.b_dec if self.subtract_b_dec else x

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x, and the factor and offset that undo what was done to it."""
        if self.normalisation == "layer_norm":
            mean = x.mean(1, keepdim=True)
            spread = (x - mean).std(1, keepdim=True)
            return (x - mean) / (spread + 1e-5), spread, mean
        if self.normalisation == "constant_norm_rescale":
            factor = x.norm(dim=1, keepdim=True) / self.d_in**0.5
            return x / factor, factor, 0.0
        return x, 1.0, 0.0

    # --- decoding -----------------------------------------------------------------------------------------------

    def decode(self, activations: Tensor, x: Tensor | None = None) -> Tensor:
        """Activations [n, d_sae] → reconstruction [n, d_out].

        `x` is needed where the input was normalised or the transcoder has a skip connection.
        """
        scaled = activations / self.decoder_norm if self.rescale_by_decoder_norm else activations
        return self.finish(scaled @ self.decoder, x)

    def decode_sparse(self, sparse: Sparse, x: Tensor | None = None) -> Tensor:
        """As `decode`, from the k features of every row: a gather instead of a product with every feature."""
        values = sparse.values
        if self.rescale_by_decoder_norm:
            values = values / self.decoder_norm[sparse.indices]
        summed = torch.nn.functional.embedding_bag(
            sparse.indices, self.decoder, per_sample_weights=values.to(self.decoder.dtype), mode="sum"
        )
        return self.finish(summed, x)

    def decode_active(self, activations: Tensor, x: Tensor | None = None) -> Tensor:
        """As `decode`, from the active entries alone: on a CPU cheaper by far where few of many features fire."""
        rows, features = activations.nonzero(as_tuple=True)
        values = activations[rows, features]
        if self.rescale_by_decoder_norm:
            values = values / self.decoder_norm[features]
        counts = torch.bincount(rows, minlength=len(activations))
        summed = torch.nn.functional.embedding_bag(
            features, self.decoder, counts.cumsum(0) - counts, per_sample_weights=values, mode="sum"
        )
        return self.finish(summed, x)

    def finish(self, decoded: Tensor, x: Tensor | None) -> Tensor:
        """From Σ f·W_dec [n, d_out] to the reconstruction: bias, skip connection, and what normalising took away."""
        out = decoded + self.b_dec
        if self.is_transcoder:
            return out + linear(x.to(self.precision), self.skip) if self.skip is not None and x is not None else out
        if self.normalisation != "none" and x is not None:
            out = out * self.gain(x)
            source = x.to(self.precision)
            out = out + self._normalise(source - source.mean(1, keepdim=True) if self.centre else source)[2]
        if self.centre and x is not None:
            out = out + x.to(self.precision).mean(1, keepdim=True)
        return out

    def gain(self, x: Tensor) -> Tensor:
        """By what the decoded sum is multiplied where the input was normalised: [n, 1]."""
        source = x.to(self.precision)
        factor = self._normalise(source - source.mean(1, keepdim=True) if self.centre else source)[1]
        return factor if isinstance(factor, Tensor) else source.new_full((len(source), 1), factor)
