"""Scales folded into the weights: of decoder rows, and of an input that was scaled in training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.encoding.describing import add_notes
from engine.errors import BadRequest, DictionaryMismatch

if TYPE_CHECKING:
    from engine.dictionary import Dictionary


def folded(dictionary: Dictionary) -> Dictionary:
    """A copy with decoder rows of norm 1 and activations f·‖W_dec‖, which reconstructs the same.

    Raises:
        BadRequest: other features might be active then.
    """
    if dictionary.kind == "identity" or dictionary.is_folded:
        return dictionary
    _refuse_unsafe(dictionary)
    norm = dictionary.decoder_norm
    encoder = dictionary.encoder * norm[:, None]
    screen = dictionary._screen
    made = replace(
        dictionary,
        encoder=encoder,
        decoder=dictionary.decoder / norm[:, None],
        b_enc=dictionary.b_enc * norm,
        threshold=None if dictionary.threshold is None else dictionary.threshold * norm,
        b_mag=None if dictionary.b_mag is None else dictionary.b_mag * norm,
        rescale_by_decoder_norm=False,
        is_folded=True,
        _screen=None if screen is None else encoder.to(screen.dtype),
    )
    return add_notes(made)


def _refuse_unsafe(dictionary: Dictionary) -> None:
    unfolded = "Open it without folding."
    if not dictionary.traits.foldable:
        what = dictionary.kind.replace("_", " ")
        raise BadRequest(
            f"Decoder norms of {dictionary.source} cannot be folded: {what} encodes with its decoder rows.", unfolded
        )
    if dictionary.selects and not dictionary.rescale_by_decoder_norm:
        raise BadRequest(
            f"Decoder norms of {dictionary.source} cannot be folded: other features would be among its "
            f"{dictionary.k} strongest.",
            unfolded,
        )


def fold_input_scale(dictionary: Dictionary, factor: float) -> Dictionary:
    """A copy that reads x as it is, of a dictionary trained on `factor`·x and given in the units of its training.

    As SAELens' `fold_activation_norm_scaling_factor`: activations stay those of training, but for matching pursuit,
    where they are in units of x.

    Raises:
        DictionaryMismatch: the factor is no scale, or the kind cannot absorb one.
    """
    if not 0 < factor < float("inf"):
        raise DictionaryMismatch(f"{dictionary.source} is said to be scaled by {factor:g}.", "Give a positive number.")
    if dictionary.prediction is not None:
        raise DictionaryMismatch(
            f"{dictionary.source} is temporal: the scale of its input cannot be folded into its weights.",
            "Use constant_scalar_rescale with activation_normalization_factor.",
        )
    if dictionary.pursuit is not None:
        threshold = dictionary.pursuit.residual_threshold / factor
        return replace(
            dictionary,
            b_dec=dictionary.b_dec / factor,
            pursuit=replace(dictionary.pursuit, residual_threshold=threshold),
        )
    encoder, screen = dictionary.encoder * factor, dictionary._screen
    return replace(
        dictionary,
        encoder=encoder,
        decoder=dictionary.decoder / factor,
        b_dec=dictionary.b_dec / factor,
        _screen=None if screen is None else encoder.to(screen.dtype),
    )
