"""Sites: places in a model that a dictionary reads, named by TransformerLens hook names.

`blocks.9.hook_resid_post` ↔ `Site("resid_post", 9)`. A hook name that is not understood is an error here and
never reaches the model: TransformerLens' Bridge would ignore it silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import BadRequest

_TEMPLATES = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "ln1_normalized": "blocks.{}.ln1.hook_normalized",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "mlp_post": "blocks.{}.mlp.hook_post",
    "hook_z": "blocks.{}.attn.hook_z",
    "hook_mlp_in": "blocks.{}.hook_mlp_in",
    "ln2_normalized": "blocks.{}.ln2.hook_normalized",
    "mlp_in": "blocks.{}.mlp.hook_in",
    "mlp_raw_out": "blocks.{}.mlp.hook_out",
}
_BRIDGE_NAMES = {"resid_pre": "blocks.{}.hook_in", "resid_post": "blocks.{}.hook_out"}
"""What TransformerLens' Bridge calls the same places; its other names mean different places in different models."""
_EMBED = {"hook_embed", "embed.hook_out"}


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"([0-9]{1,4})") + r"\Z")


_PATTERNS = [(kind, _pattern(t)) for names in (_TEMPLATES, _BRIDGE_NAMES) for kind, t in names.items()]
_ORDER = (
    "resid_pre", "ln1_normalized", "hook_z", "attn_out", "resid_mid", "hook_mlp_in", "ln2_normalized", "mlp_in",
    "mlp_post", "mlp_raw_out", "mlp_out", "resid_post",
)  # fmt: skip
"""How a forward pass meets the kinds of places in a block."""


@dataclass(frozen=True)
class Site:
    """A kind of place and the layer it is in; `embed` has layer 0."""

    kind: str
    layer: int

    @property
    def hook(self) -> str:
        """The TransformerLens hook name."""
        return "hook_embed" if self.kind == "embed" else _TEMPLATES[self.kind].format(self.layer)

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a forward pass meets them."""
        if self.kind == "embed":
            return (-1, 0)
        return (self.layer, _ORDER.index(self.kind))

    def __str__(self) -> str:
        return self.hook


def parse_hook(hook: str) -> Site:
    """The site that a TransformerLens hook name means, in HookedTransformer's words or in the Bridge's.

    Raises:
        BadRequest: the name is not one of the hooks a dictionary can read.
    """
    if hook in _EMBED:
        return Site("embed", 0)
    for kind, pattern in _PATTERNS:
        if match := pattern.match(hook):
            return Site(kind, int(match[1]))
    known = ", ".join(t.format("L") for t in _TEMPLATES.values())
    raise BadRequest(f"The hook name {hook!r} is not known.", f"Known names: hook_embed, {known}.")
