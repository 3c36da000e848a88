from __future__ import annotations

import pytest

from engine.errors import BadRequest
from engine.sites import Site, parse_hook

HOOKS = [
    "hook_embed",
    "blocks.0.hook_resid_pre",
    "blocks.11.hook_resid_mid",
    "blocks.11.hook_resid_post",
    "blocks.3.hook_attn_out",
    "blocks.3.hook_mlp_out",
    "blocks.0.mlp.hook_post",
    "blocks.7.attn.hook_z",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_names_and_sites_are_two_ways_to_say_the_same(hook: str) -> None:
    assert parse_hook(hook).hook == hook


@pytest.mark.parametrize(
    "hook", ["", "blocks.1", "blocks.x.hook_resid_post", "blocks.1.hook_resid_posts", "hook_resid_post"]
)
def test_unknown_hooks_are_refused(hook: str) -> None:
    with pytest.raises(BadRequest, match="not known"):
        parse_hook(hook)


def test_sites_sort_in_the_order_of_a_forward_pass() -> None:
    ordered = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.0.hook_attn_out"]
    ordered += [
        "blocks.0.hook_resid_mid",
        "blocks.0.mlp.hook_post",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
    ]
    ordered += ["blocks.1.hook_resid_pre"]
    assert sorted(map(parse_hook, reversed(ordered)), key=lambda s: s.depth) == [parse_hook(h) for h in ordered]
    assert Site("resid_post", 2) == parse_hook("blocks.2.hook_resid_post")
