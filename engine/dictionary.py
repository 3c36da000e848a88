"""One dictionary: sparse autoencoder or transcoder, with SAELens' meaning of every weight and setting.

Shapes: x [n, d_in], activations [n, d_sae], reconstruction [n, d_out]. Weights are float32, or float64 where the model
is; an encoder in a lower precision may be kept beside them for screening. The formulas follow SAELens 6.54
(`saes/*.py`), and a test holds `encode` and `decode` equal to its own for every architecture. What sets the kinds
apart is in `engine.encoding.kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from engine.encoding import describing, folding
from engine.encoding.kinds import KINDS, Kind
from engine.encoding.normalising import normalised
from engine.encoding.prediction import Prediction
from engine.encoding.pursuit import Pursuit, pursue, summed
from engine.encoding.sparse import Sparse, active_rows_of, rows_of, strongest
from engine.errors import BadRequest
from engine.places import Place
from engine.sites import Site

WEIGHTS = ("encoder", "decoder", "b_enc", "b_dec", "threshold", "r_mag", "b_mag", "skip")
"""The fields of a dictionary that hold its numbers; a temporal one has more in `prediction`."""
_SMALLEST_NORM = 1e-8
"""A decoder row of zeros counts as this long, as in SAELens."""


@dataclass
class Dictionary:
    """The weights of one dictionary and how they are applied."""

    source: str
    site: Site
    write_site: Site
    """Where its decoder writes: the same site for an SAE, the output's for a transcoder."""
    kind: str
    """A key of `engine.encoding.kinds.KINDS`: how pre-activations become activations."""
    architecture: str
    """SAELens' name; every transcoder has the word in it."""
    encoder: Tensor
    """[d_sae, d_in], the transpose of SAELens' W_enc: one row per feature."""
    decoder: Tensor
    """W_dec [d_sae, d_out]; the same tensor as the encoder where the two are tied."""
    b_enc: Tensor
    """Of a gated one, the bias of the gate."""
    b_dec: Tensor
    folder: Path
    sha256: str
    k: int = 0
    threshold: Tensor | None = None
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None
    skip: Tensor | None = None
    """[d_out, d_in]: what is added to the reconstruction for the input as it is."""
    subtract_b_dec: bool = True
    rescale_by_decoder_norm: bool = False
    """Activations are multiplied by the norm of their decoder row: before the k strongest are chosen, if they are."""
    normalisation: str = "none"
    """One of `engine.encoding.normalising.NORMALISATIONS`."""
    input_scale: float = 1.0
    """What `constant_scalar_rescale` multiplies the input by."""
    centre: bool = False
    """The dictionary was trained on a model with centred writing weights: the mean over d is subtracted first."""
    metadata: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None
    """Where it was read from; None for one that was made here."""
    form: str = "SAELens"
    """Whose file format it came in."""
    notes: tuple[str, ...] = ()
    """What sets its numbers apart from those of others, in words."""
    pursuit: Pursuit | None = None
    """Of matching pursuit, when it ends."""
    prediction: Prediction | None = None
    """Of a temporal one, what predicts a token from those before it."""
    is_folded: bool = False
    """Decoder norms were folded into the encoder: activations are f·‖W_dec‖, decoder rows have norm 1."""
    _screen: Tensor | None = None

    @property
    def d_in(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return self.encoder.shape[0]

    @property
    def d_out(self) -> int:
        return self.decoder.shape[1]

    @property
    def is_transcoder(self) -> bool:
        return "transcoder" in self.architecture

    @property
    def traits(self) -> Kind:
        """What sets its kind apart."""
        return KINDS[self.kind]

    @property
    def signed(self) -> bool:
        """Whether activations may be negative; they then count by their size."""
        return self.traits.signed

    @property
    def selects(self) -> bool:
        """Whether only the k strongest of a token count, so that `encode_sparse` has them all."""
        return self.traits.selects and self.k > 0

    @property
    def whole_prompt(self) -> bool:
        """Whether a token's activations depend on the tokens before it."""
        return self.traits.whole_prompt

    @property
    def formula(self) -> str:
        """How an activation is computed, in one line."""
        return describing.formula(self)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.device

    @property
    def precision(self) -> torch.dtype:
        """What is computed in: float32 or float64."""
        return self.encoder.dtype

    def to(self, device: torch.device, dtype: torch.dtype) -> Dictionary:
        """Move the weights beside a model in `dtype`: in float64 with it, with a second encoder below float32."""
        precision = torch.promote_types(dtype, torch.float32)
        tied = self.encoder is self.decoder
        for name in WEIGHTS:
            if (tensor := getattr(self, name)) is not None and not (tied and name == "decoder"):
                setattr(self, name, tensor.to(device, precision))
        if tied:
            self.decoder = self.encoder
        if self.prediction is not None:
            self.prediction = self.prediction.to(device, precision)
        self._screen = self.encoder.to(dtype) if dtype != precision and self.traits.own_row and not tied else None
        self.__dict__.pop("decoder_norm", None)
        return self

    def in_precision(self, dtype: torch.dtype) -> Dictionary:
        """This dictionary, or a copy of it in float64 where `dtype` is."""
        if torch.promote_types(dtype, torch.float32) == self.precision:
            return self
        return replace(self).to(self.encoder.device, dtype)

    def folded(self) -> Dictionary:
        """A copy with decoder rows of norm 1 and activations f·‖W_dec‖, which reconstructs the same.

        Raises:
            BadRequest: this kind would have other features active, or none can tell which.
        """
        return folding.folded(self)

    # --- encoding -----------------------------------------------------------------------------------------------

    def pre_activations(self, x: Tensor, *, screen: bool = False, whole: bool = False) -> Tensor:
        """x [n, d_in] → [n, d_sae] before the activation function, float32 or the screening precision.

        Multiplied by decoder norms already where the k strongest are chosen by the product.
        """
        read = self._left(x, whole)
        if screen and self._screen is not None:
            pre = linear(read.to(self._screen.dtype), self._screen).float().add_(self.b_enc)
        else:
            pre = linear(read, self.encoder, self.b_enc)
        return pre * self.decoder_norm if self._weighs_choice else pre

    def encode(self, x: Tensor, *, screen: bool = False, whole: bool = False) -> Tensor:
        """x [n, d_in] → activations [n, d_sae].

        Args:
            screen: use the encoder in lower precision where there is one.
            whole: x is one whole prompt, its tokens in order. A temporal dictionary needs the promise.

        Raises:
            BadRequest: a temporal dictionary was asked about tokens out of their prompt.
        """
        if self.pursuit is not None:
            return summed(*pursue(self._input(x), self.decoder, self.pursuit), self.d_sae)
        if self.kind == "identity":
            return self._input(x)
        pre = self.pre_activations(x, screen=screen, whole=whole)
        if self.selects:
            return self.densify(self._top(pre))
        return self._activate(pre, slice(None))

    def encode_sparse(self, x: Tensor, *, screen: bool = False, whole: bool = False) -> Sparse:
        """Where `selects`: the k strongest features of every row, without a dense result."""
        return self._top(self.pre_activations(x, screen=screen, whole=whole))

    def densify(self, sparse: Sparse) -> Tensor:
        """[n, k] → [n, d_sae]."""
        return sparse.dense(self.d_sae)

    def feature_rows(self, x: Tensor, indices: Tensor, sparse: Sparse | None = None, *, whole: bool = False) -> Tensor:
        """The activations of a few features [m] on every row of x [n, d_in], exact in float32 → [m, n].

        Where `selects`, `sparse` says on which rows a feature is among the k. `whole` is as in `encode`.
        """
        if not self.traits.own_row:
            return (self.encode(x, whole=whole)[:, indices] if sparse is None else sparse.of(indices)).T
        if self.kind == "identity":
            return self._input(x)[:, indices].T
        pre = linear(self._input(x), self.encoder[indices]) + self.b_enc[indices]
        if not self.selects:
            return self._activate(pre, indices).T
        if self._weighs_choice:
            pre = pre * self.decoder_norm[indices]
        chosen = self._chosen(x, pre, indices) if sparse is None else sparse.holds(indices)
        return ((pre if self.signed else pre.relu()) * chosen).T

    def _chosen(self, x: Tensor, pre: Tensor, indices: Tensor) -> Tensor:
        """Which of some features [m] with pre-activations `pre` [n, m] are among the k of each row: bool [n, m].

        On a CPU only rows are encoded where it matters: a pre-activation that is not positive is no activation.
        """
        if x.device.type != "cpu":
            return self.encode_sparse(x).holds(indices)
        rows = (pre != 0 if self.signed else pre > 0).any(1).nonzero()[:, 0]
        chosen = torch.zeros_like(pre, dtype=torch.bool)
        if len(rows):
            chosen[rows] = self.encode_sparse(x[rows]).holds(indices)
        return chosen

    def activation_of(self, x: Tensor, features: Tensor) -> Tensor:
        """Activation of feature k on row k of x [m, d_in] → [m], differentiable; as if it were among the k chosen.

        Raises:
            BadRequest: a temporal dictionary needs whole prompts.
        """
        read = self._left(x, False)
        if self.pursuit is not None:
            chosen, amounts = pursue(read, self.decoder, self.pursuit)
            return (amounts * (chosen == features[:, None])).sum(1)
        if self.kind == "identity":
            return read.gather(1, features[:, None])[:, 0]
        pre = (read * self.encoder[features]).sum(1) + self.b_enc[features]
        if not self.selects:
            return self._activate(pre, features)
        if self._weighs_choice:
            pre = pre * self.decoder_norm[features]
        return pre if self.signed else pre.relu()

    @cached_property
    def decoder_norm(self) -> Tensor:
        with torch.inference_mode(False):  # it outlives the pass that asks for it, and gradients may go through it
            norm: Tensor = torch.linalg.vector_norm(self.decoder, dim=1).clamp(min=_SMALLEST_NORM)
        return norm

    @property
    def _weighs_choice(self) -> bool:
        """Whether the k strongest are chosen by pre-activation times decoder norm."""
        return self.rescale_by_decoder_norm and self.selects

    def _top(self, pre: Tensor) -> Sparse:
        return strongest(pre, self.k, self.signed)

    def _activate(self, pre: Tensor, part: slice | Tensor) -> Tensor:
        """Of the kinds in which a feature needs nothing but its own pre-activation; it may be overwritten."""
        found = self._pointwise(pre, part)
        return found * self.decoder_norm[part] if self.rescale_by_decoder_norm else found

    def _pointwise(self, pre: Tensor, part: slice | Tensor) -> Tensor:
        if self.kind == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold[part])
        if self.kind == "gated":
            assert self.r_mag is not None
            assert self.b_mag is not None
            magnitude = (pre - self.b_enc[part]) * self.r_mag[part].exp() + self.b_mag[part]
            return magnitude.relu() * (pre > 0)
        return pre.relu_()  # nobody else has it; a block of this size is worth not copying

    def _left(self, x: Tensor, whole: bool) -> Tensor:
        """What is encoded of x: all of it but what a temporal dictionary predicts."""
        if self.prediction is None:
            return self._input(x)
        if not whole:
            raise BadRequest(
                f"{self.source} is a temporal dictionary: it reads whole prompts, and this needs tokens one by one.",
                "Read its features on a prompt, or steer with `add`; for the rest use another dictionary.",
            )
        return self.prediction(self._input(x), self.encoder, self.decoder)[1] * self.prediction.scale

    def _input(self, x: Tensor) -> Tensor:
        x = self._normalise(self._centred(x))[0]
        return x - self.b_dec if self.subtract_b_dec else x

    def _centred(self, x: Tensor) -> Tensor:
        x = x.to(self.precision)
        return x - x.mean(1, keepdim=True) if self.centre else x

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x, and the factor and offset that undo what was done to it."""
        return normalised(x, self.normalisation, self.input_scale)

    # --- decoding -----------------------------------------------------------------------------------------------

    def decode(self, activations: Tensor, x: Tensor | None = None) -> Tensor:
        """Activations [n, d_sae] → reconstruction [n, d_out].

        `x`, the rows that were encoded, is needed where the input was normalised, where there is a skip connection,
        and where part of the input is predicted.
        """
        if self.kind == "identity":
            return self.finish(activations, x)
        scaled = activations / self.decoder_norm if self.rescale_by_decoder_norm else activations
        return self.finish(scaled @ self.decoder, x)

    def decode_sparse(self, sparse: Sparse, x: Tensor | None = None) -> Tensor:
        """As `decode`, from the k features of every row: a gather instead of a product with every feature."""
        values = sparse.values
        if self.rescale_by_decoder_norm:
            values = values / self.decoder_norm[sparse.indices]
        return self.finish(rows_of(sparse, self.decoder, values), x)

    def decode_active(self, activations: Tensor, x: Tensor | None = None) -> Tensor:
        """As `decode`, from the active entries alone: on a CPU cheaper by far where few of many features fire."""
        if self.kind == "identity":
            return self.finish(activations, x)
        norm = self.decoder_norm if self.rescale_by_decoder_norm else None
        return self.finish(active_rows_of(activations, self.decoder, norm), x)

    def finish(self, decoded: Tensor, x: Tensor | None) -> Tensor:
        """From Σ f·W_dec [n, d_out] to the reconstruction.

        Adds the bias, what was predicted, what normalising took away, and the skip connection.
        """
        out = decoded + self.b_dec
        if x is None:
            return out
        source = x.to(self.precision)
        if self.prediction is not None:
            out = out + self.prediction(self._input(source), self.encoder, self.decoder)[0]
        if not self.is_transcoder:  # it writes elsewhere than it reads: nothing to undo
            if self.normalisation != "none":
                _, factor, offset = self._normalise(self._centred(source))
                out = out * factor + offset
            if self.centre:
                out = out + source.mean(1, keepdim=True)
        return out + linear(source, self.skip) if self.skip is not None else out

    def gain(self, x: Tensor) -> Tensor:
        """By what the decoded sum is multiplied where the input was normalised: [n, 1]."""
        source = self._centred(x)
        factor = self._normalise(source)[1]
        return factor if isinstance(factor, Tensor) else source.new_full((len(source), 1), factor)
