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
    "blocks.4.hook_mlp_in",
    "blocks.4.ln1.hook_normalized",
    "blocks.4.ln2.hook_normalized",
    "blocks.4.mlp.hook_in",
    "blocks.4.mlp.hook_out",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_names_and_sites_are_two_ways_to_say_the_same(hook: str) -> None:
    assert parse_hook(hook).hook == hook


@pytest.mark.parametrize(
    ("bridge", "hook"),
    [
        ("blocks.5.hook_in", "blocks.5.hook_resid_pre"),
        ("blocks.5.hook_out", "blocks.5.hook_resid_post"),
        ("embed.hook_out", "hook_embed"),
    ],
)
def test_the_names_of_the_bridge_mean_the_same_places(bridge: str, hook: str) -> None:
    assert parse_hook(bridge) == parse_hook(hook)
    assert parse_hook(bridge).hook == hook


@pytest.mark.parametrize(
    "hook",
    [
        "",
        "blocks.1",
        "blocks.x.hook_resid_post",
        "blocks.1.hook_resid_posts",
        "hook_resid_post",
        "blocks.1.hook_resid_post\n",
        "blocks.1.attn.hook_out",
        "blocks.1.mlp_hook_in",
    ],
)
def test_unknown_hooks_are_refused(hook: str) -> None:
    with pytest.raises(BadRequest, match="not known"):
        parse_hook(hook)


def test_sites_sort_in_the_order_of_a_forward_pass() -> None:
    ordered = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized", "blocks.0.attn.hook_z"]
    ordered += [
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_mid",
        "blocks.0.hook_mlp_in",
        "blocks.0.ln2.hook_normalized",
        "blocks.0.mlp.hook_in",
        "blocks.0.mlp.hook_post",
        "blocks.0.mlp.hook_out",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
    ]
    ordered += ["blocks.1.hook_resid_pre"]
    assert sorted(map(parse_hook, reversed(ordered)), key=lambda s: s.depth) == [parse_hook(h) for h in ordered]
    assert Site("resid_post", 2) == parse_hook("blocks.2.hook_resid_post")
