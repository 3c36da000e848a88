"""Quicklists of a circuit: the published ones from the effects behind them, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import pytest

from engine.circuit_results import (
    METRIC,
    Circuit,
    CircuitEdge,
    CircuitNode,
    CircuitSettings,
    CircuitSite,
    Metric,
    NodeRef,
)
from engine.errors import BadRequest, SessionError
from engine.results import Provenance, Token
from sessions.circuit_quicklist import circuit_quicklist, strongest_features
from sessions.effects import features_of
from sessions.export import Exported
from sessions.quicklist import LIMIT, quicklist_url, read_quicklist_url
from tests.sessions.test_quicklists import WITH_EFFECTS, Published

_HOOKS = {"embed": "hook_embed", "attn": "blocks.{}.hook_attn_out", "mlp": "blocks.{}.hook_mlp_out"}
_DEPTH = {"embed": -1, "attn": 0, "mlp": 1, "resid": 2}


def circuit_of(
    nodes: Sequence[tuple[str, int, int | None, float]],
    edges: Sequence[tuple[int, int, float]] = (),
    *,
    tokens: Sequence[str] = (),
    metric: Metric | None = None,
    prompt: str = "",
) -> Circuit:
    """A circuit of (source, index, position, effect); sources are named `resid_3`, edges count the metric as 0."""
    found = [re.match(r"(embed|attn|mlp|resid)(?:_(\d+))?\Z", source) for source in dict.fromkeys(n[0] for n in nodes)]
    sites = [(match[0], match[1], int(match[2] or 0)) for match in found if match]
    sites.sort(key=lambda site: (site[2] if site[1] != "embed" else -1, _DEPTH[site[1]]))
    hooks = {name: _HOOKS.get(kind, "blocks.{}.hook_resid_post").format(layer) for name, kind, layer in sites}
    aggregate: Literal["none", "sum"] = "sum" if nodes and nodes[0][2] is None else "none"
    total = sum(effect for *_, effect in nodes)
    return Circuit(
        model="org/tiny model",
        prompt=prompt or "".join(tokens),
        patch=None,
        chat=False,
        tokens=tuple(Token(n + 10, text) for n, text in enumerate(tokens)),
        examples=1,
        metric=metric or Metric("logit", (Token(7, " Paris"),)),
        settings=CircuitSettings("ig", 10, "pass-through", "zero", aggregate, 0.01, 0.001, 100, "float32"),
        sites=tuple(CircuitSite(name, hooks[name], layer, 4096, 0.0, 0.0, 0) for name, _, layer in sites),
        nodes=(
            CircuitNode(NodeRef(METRIC), total),
            *(CircuitNode(NodeRef(s, i, p), e, activation=abs(e) * 2) for s, i, p, e in nodes),
        ),
        edges=tuple(CircuitEdge(*edge) for edge in edges),
        finished=True,
        provenance=Provenance("m", "", {}, hooks, "", "", "", {}, {"saescope": "0.1"}),
        seconds=0.0,
    )


def pages_of(one: Published) -> dict[str, str]:
    """The sources of a published list, as `model/layer-set`."""
    sites = {e.site for e in one.effects}
    split = {site: site.rpartition("_") for site in sites}
    return {
        site: f"{one.model}/{'e' if site == 'embed' else layer}-{one.sets.get(kind or 'embed', one.sets['resid'])}"
        for site, (kind, _, layer) in split.items()
    }


def listed(exported: Exported) -> list[tuple[str, str]]:
    return [(e.layer, e.index) for url in exported.urls for e in read_quicklist_url(url)[1]]


@pytest.mark.parametrize("one", WITH_EFFECTS, ids=lambda one: one.name)
def test_published_lists_come_out_of_their_effects(one: Published) -> None:
    circuit = circuit_of(
        [(e.site, int(e.index), None, e.effect) for e in features_of(one.effects, one.model, one.sets)]
    )
    exported = circuit_quicklist(circuit, pages_of(one), one.name, len(one.features))
    assert exported == Exported((quicklist_url(one.name, one.features),))


def test_order_errors_and_positions() -> None:
    circuit = circuit_of(
        [
            ("resid_1", 5, 0, 0.1), ("resid_1", 5, 1, -3.0), ("resid_1", -1, 1, 9.0), ("mlp_0", 7, 1, 2.0),
            ("resid_1", 6, 1, 1.0), ("mlp_0", 7, 0, 2.5), ("mlp_0", 8, 0, 0.5),
        ]
    )  # fmt: skip
    assert [str(ref) for ref in strongest_features(circuit)] == ["resid_1:5", "resid_1:6", "mlp_0:7", "mlp_0:8"]
    assert [str(ref) for ref in strongest_features(circuit, 2)] == ["resid_1:5", "mlp_0:7"]
    assert listed(circuit_quicklist(circuit, {"resid_1": "m/1-res", "mlp_0": "m/0-mlp"}, "x")) == [
        ("1-res", "5"), ("1-res", "6"), ("0-mlp", "7"), ("0-mlp", "8"),
    ]  # fmt: skip


def test_features_without_a_page_are_left_out_and_said() -> None:
    circuit = circuit_of([("resid_1", 5, None, 1.0), ("mlp_0", 7, None, 2.0), ("mlp_0", 8, None, 0.5)])
    exported = circuit_quicklist(circuit, {"resid_1": "m/1-res"})
    assert listed(exported) == [("1-res", "5")]
    assert exported.notes == ("Left out, for want of a Neuronpedia page: 2 features of mlp_0.",)
    assert read_quicklist_url(exported.urls[0])[0] == "circuit of logit ·Paris"
    with pytest.raises(SessionError, match="sources mlp_0, resid_1") as caught:
        circuit_quicklist(circuit, {})
    assert "neuronpedia_id" in caught.value.remedy


def test_nothing_to_list() -> None:
    with pytest.raises(SessionError, match="No feature"):
        circuit_quicklist(circuit_of([("mlp_0", -1, None, 1.0)]), {"mlp_0": "m/0-mlp"})
    with pytest.raises(BadRequest, match="needs a name"):
        circuit_quicklist(circuit_of([("mlp_0", 1, None, 1.0)]), {"mlp_0": "m/0-mlp"}, " ")


def test_a_name_made_of_the_metric_is_text() -> None:
    circuit = circuit_of([("mlp_0", 1, None, 1.0)], metric=Metric("logit", (Token(7, "\x1b\ud800"),)))
    (url,) = circuit_quicklist(circuit, {"mlp_0": "m/0-mlp"}).urls
    assert read_quicklist_url(url)[0] == "circuit of logit ␛⟨D800⟩"


def test_long_lists_are_split() -> None:
    circuit = circuit_of([("mlp_0", n, None, 1.0 / (n + 1)) for n in range(LIMIT + 1)])
    exported = circuit_quicklist(circuit, {"mlp_0": "m/0-mlp"}, "many")
    assert [read_quicklist_url(url)[0] for url in exported.urls] == ["many (1/2)", "many (2/2)"]
    assert [index for _, index in listed(exported)] == [str(n) for n in range(LIMIT + 1)]
