"""The kinds of dictionaries, and what sets each apart for whoever uses its activations. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One way from pre-activations to activations."""

    name: str
    formula: str
    """An activation in one line; {x} is the input, {k} how many are chosen."""
    signed: bool = False
    """Activations may be negative, and count by their size."""
    selects: bool = False
    """Only the k strongest of a token count."""
    whole_prompt: bool = False
    """What a feature is on one token depends on the tokens before it."""
    own_row: bool = True
    """A feature's activation follows from its own encoder row, and from being among the k where the kind selects."""
    foldable: bool = True
    """Scaling a decoder row can be made up for in the encoder."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("standard", "relu({x}·W_enc + b_enc)"),
        Kind("topk", "top {k} of {x}·W_enc + b_enc, relu", selects=True),
        Kind("abstopk", "the {k} of {x}·W_enc + b_enc that are largest in size, with their sign", True, selects=True),
        Kind("jumprelu", "{x}·W_enc + b_enc where > threshold"),
        Kind("gated", "relu({x}·W_enc·e^r_mag + b_mag) where {x}·W_enc + b_gate > 0"),
        Kind("matching_pursuit", "matching pursuit of {x} along W_dec", own_row=False, foldable=False),
        Kind(
            "temporal", "{top}relu(λ·(what attention does not predict of {x})·W_enc)",
            selects=True, whole_prompt=True, own_row=False, foldable=False,
        ),
        Kind("identity", "{x}", signed=True),
    )
}  # fmt: skip
