"""What a dictionary computes, in words: one line for its activations, and notes on what sets its numbers apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from engine.encoding.kinds import KINDS

if TYPE_CHECKING:
    from engine.dictionary import Dictionary

NOT_UNIT = "decoder rows are not unit norm"
_TOLERANCE = 0.01
_IN_WORDS = {
    "layer_norm": "x normalised to mean 0 and deviation 1 (layer_norm)",
    "constant_norm_rescale": "x rescaled to norm √d (constant_norm_rescale)",
}


def formula(dictionary: Dictionary) -> str:
    """How an activation is computed, in one line."""
    x = "(x − b_dec)" if dictionary.subtract_b_dec else "x"
    top = f"top {dictionary.k} of " if dictionary.k else ""
    text = KINDS[dictionary.kind].formula.format(x=x, k=dictionary.k, top=top)
    if dictionary.pursuit is not None:
        text += _ending(dictionary)
    if dictionary.rescale_by_decoder_norm:
        text += ", × ‖W_dec‖"
    if dictionary.is_folded:
        text += "; decoder norms folded: activations f·‖W_dec‖"
    if dictionary.normalisation == "constant_scalar_rescale":
        text += f"; x × {dictionary.input_scale:g}"
    elif dictionary.normalisation != "none":
        text += f"; x {dictionary.normalisation}"
    return text + ("; x centred" if dictionary.centre else "")


def _ending(dictionary: Dictionary) -> str:
    assert dictionary.pursuit is not None
    steps = dictionary.pursuit.max_iterations
    text = f", at most {dictionary.d_in if steps is None else steps} steps"
    threshold = dictionary.pursuit.residual_threshold
    return text + (f", until less than {threshold:g} is left" if threshold > 0 else "")


def add_notes(dictionary: Dictionary) -> Dictionary:
    """The dictionary with what its own settings and weights have to say added to `notes`, each once."""
    notes = [note for note in dictionary.notes if not note.startswith(NOT_UNIT)]
    notes += [note for note in _notes(dictionary) if note not in notes]
    dictionary.notes = tuple(notes)
    return dictionary


def _notes(dictionary: Dictionary) -> list[str]:
    found = []
    if dictionary.is_folded:
        found.append("decoder norms are folded: activations are f·‖W_dec‖")
    elif dictionary.kind != "identity" and (odd := _odd_norms(dictionary.decoder)):
        found.append(odd)
    if dictionary.centre:
        found.append("mean over d_model subtracted first (center_writing_weights)")
    if dictionary.normalisation == "constant_scalar_rescale":
        found.append(f"x multiplied by {dictionary.input_scale:g} (constant_scalar_rescale)")
    elif dictionary.normalisation != "none":
        found.append(_IN_WORDS[dictionary.normalisation])
    if dictionary.signed:
        found.append("activations may be negative: they count by their size")
    if dictionary.whole_prompt:
        found.append("reads whole prompts: of interventions it has only those along a direction, and no circuits")
    if dictionary.skip is not None:
        found.append("W_skip·x is added to the reconstruction")
    return found


def _odd_norms(decoder: Tensor) -> str | None:
    low, high = (float(norm) for norm in decoder.norm(dim=1).aminmax())
    if low >= 1 - _TOLERANCE and high <= 1 + _TOLERANCE:
        return None
    return f"{NOT_UNIT} ({low:.2g} to {high:.2g})"
