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
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "mlp_post": "blocks.{}.mlp.hook_post",
    "hook_z": "blocks.{}.attn.hook_z",
}
_PATTERNS = {kind: re.compile(re.escape(t).replace(r"\{\}", r"(\d+)") + r"\Z") for kind, t in _TEMPLATES.items()}
_DEPTH_IN_BLOCK = {"resid_pre": 0, "hook_z": 1, "attn_out": 2, "resid_mid": 3, "mlp_post": 4, "mlp_out": 5}


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
        return (self.layer, _DEPTH_IN_BLOCK.get(self.kind, 6))

    def __str__(self) -> str:
        return self.hook


def parse_hook(hook: str) -> Site:
    """The site that a TransformerLens hook name means.

    Raises:
        BadRequest: the name is not one of the hooks a dictionary can read.
    """
    if hook == "hook_embed":
        return Site("embed", 0)
    for kind, pattern in _PATTERNS.items():
        if match := pattern.match(hook):
            return Site(kind, int(match[1]))
    known = ", ".join(t.format("L") for t in _TEMPLATES.values())
    raise BadRequest(f"The hook name {hook!r} is not known.", f"Known names: hook_embed, {known}.")
