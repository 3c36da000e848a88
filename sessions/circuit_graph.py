"""A circuit as attribution-graph JSON: what Neuronpedia's graph page and circuit-tracer's viewer read.

The format knows one dictionary a layer and looks a feature's page up by layer and index. Where a circuit has several
at a layer, the indices of all but the one with pages are moved up by multiples of a stride, so that no feature shows
the page of another; `metadata.saescope.sources` says by how much. Readers key nodes by `node_id` or by `jsNodeId`:
both are unique here, errors included, whose conventional id can be that of a feature of layer 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.circuit_results import Circuit, CircuitNode, CircuitSite, NodeRef
from engine.errors import BadRequest
from engine.text import has_lone_surrogate, visible, visible_token
from sessions.circuit_influence import influence

_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
_SOURCE = re.compile(r"(\d+)-(.+)\Z")
_FEATURE = "cross layer transcoder"


class _Row(msgspec.Struct, frozen=True):
    """Where the graph puts a dictionary: its layer, and what is added to its indices."""

    layer: int
    offset: int
    error: int
    """A middle number for ids of its error nodes that no feature has."""


def graph_json(
    circuit: Circuit,
    *,
    scan: str | None = None,
    slug: str | None = None,
    pages: Mapping[str, str] | None = None,
    source_set: str | None = None,
    labels: Mapping[NodeRef, str] | None = None,
    pinned: Iterable[NodeRef] = (),
    supernodes: Mapping[str, Sequence[NodeRef]] | None = None,
    probability: float | None = None,
    layers: int | None = None,
    description: str = "",
    created_ms: int | None = None,
) -> dict[str, Any]:
    """The graph of a circuit over one prompt (or prompts of one length), with the metric as its one logit node.

    `scan` is Neuronpedia's id of the model; `pages` are the Neuronpedia ids of the circuit's sources, from which scan
    and source set follow where they are not given. `probability` is the target's; unknown, it is written as 1, which
    only weights the single root. `layers` is the model's depth. `influence` follows from the edges (circuit-tracer's
    definition), without edges from |effect|.

    Raises:
        BadRequest: positions are aggregated, no node is at layer 1 or later, or a name or a pinned node is wrong.
    """
    pages = {source: page for source, page in (pages or {}).items() if any(s.source == source for s in circuit.sites)}
    _check(circuit)
    scan = _scan(scan, pages, circuit.model)
    source_set = source_set or _common_set(pages)
    slug = _plain(slug or f"{scan}-{circuit.prompt[:40]}", "slug", fix=slug is None)
    rows, stride = _rows(circuit, pages, source_set)
    if not any(rows[node.ref.source].layer for node in circuit.nodes[1:]):
        raise BadRequest(
            "No node of this circuit is at layer 1 or later, which the graph page needs.", "Trace later layers too."
        )
    ids = _ids(circuit, rows, layers or max(row.layer for row in rows.values()) + 1)
    listed = _prompt_tokens(circuit)
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "prompt_tokens": listed,
            "prompt": _sound(circuit.prompt or "".join(listed)),
            "node_threshold": 1.0,
            "schema_version": 1,
            "transcoder_list": [],
            "feature_details": {"neuronpedia_source_set": source_set} if source_set else {},
            "info": {
                "description": visible(description or f"What causes {circuit.metric.label}."),
                "creator_name": "saescope",
                "creator_url": "",
                "source_urls": [],
                "generator": {"name": "saescope", "version": circuit.provenance.versions.get("saescope", "")},
                **({"neuronpedia_source_set": source_set} if source_set else {}),
                **({"create_time_ms": created_ms} if created_ms is not None else {}),
            },
            "generation_settings": {"max_n_logits": 1, "max_feature_nodes": circuit.settings.max_nodes},
            "pruning_settings": {"node_threshold": 1.0, "edge_threshold": 1.0},
            "saescope": {
                "settings": msgspec.to_builtins(circuit.settings),
                "provenance": msgspec.to_builtins(circuit.provenance),
                "sources": {source: {"layer": row.layer, "offset": row.offset} for source, row in rows.items()},
                "stride": stride,
            },
        },
        "qParams": {
            "linkType": "both",
            "pinnedIds": [_known(ids, ref) for ref in pinned],
            "supernodes": [
                [visible(label), *(_known(ids, ref) for ref in refs)] for label, refs in (supernodes or {}).items()
            ],
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            *_features(circuit, rows, ids, labels or {}),
            *_embeddings(circuit),
            _logit(circuit, ids[circuit.nodes[0].ref], probability),
        ],
        "links": [
            {"source": ids[circuit.nodes[e.source].ref], "target": ids[circuit.nodes[e.target].ref], "weight": e.weight}
            for e in circuit.edges
        ],
    }


def _check(circuit: Circuit) -> None:
    if any(node.ref.position is None for node in circuit.nodes[1:]):
        raise BadRequest(
            "The positions of this circuit are aggregated, and an attribution graph needs them.",
            "Trace one prompt, or prompts of one length without aggregation.",
        )
    numbers = [value for node in circuit.nodes for value in (node.effect, node.activation)]
    if not all(map(math.isfinite, [*numbers, *(edge.weight for edge in circuit.edges)])):
        raise BadRequest("This circuit holds numbers that are not finite.", "Trace it again in float32 or better.")


def _scan(scan: str | None, pages: Mapping[str, str], model: str) -> str:
    """Neuronpedia's model id: given, else that of the pages, else the last part of the model's own name."""
    models = sorted({page.partition("/")[0] for page in pages.values()})
    if scan is None and len(models) > 1:
        raise BadRequest(f"The sources have pages of several models ({', '.join(models)}).", "Name one as the scan.")
    return _plain(scan or (models[0] if models else model.rstrip("/").rpartition("/")[2]), "scan", fix=scan is None)


def _plain(name: str, what: str, *, fix: bool) -> str:
    """A name in Neuronpedia's characters; one made up here is made to fit."""
    if fix:
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "circuit"
    if not _NAME.match(name):
        raise BadRequest(f"{visible(name)!r} is no {what}.", "Use letters, digits, underscores, dots and hyphens.")
    return name


def _common_set(pages: Mapping[str, str]) -> str | None:
    """The source set that most of the pages are in."""
    found = Counter(match[2] for page in pages.values() if (match := _SOURCE.match(page.partition("/")[2])))
    return found.most_common(1)[0][0] if found else None


def _rows(circuit: Circuit, pages: Mapping[str, str], source_set: str | None) -> tuple[dict[str, _Row], int]:
    """A row for every source, and the stride."""
    highest = max((node.ref.index + 1 for node in circuit.nodes), default=0)
    stride = max([highest, *(site.d_sae for site in circuit.sites)])
    placed: dict[str, tuple[int, int]] = {}
    used: Counter[int] = Counter()
    for site, layer in sorted(((s, _paged_layer(s, pages, source_set)) for s in circuit.sites), key=_paged_first):
        row = site.layer if layer is None else layer
        if layer is None and source_set and not used[row]:
            used[row] = 1  # the plain indices of a layer belong to the source set, whether it is there or not
        placed[site.source] = row, used[row]
        used[row] += 1
    free = stride * (max(used.values(), default=0) + 1)
    return {
        site.source: _Row(placed[site.source][0], placed[site.source][1] * stride, free + n)
        for n, site in enumerate(circuit.sites)
    }, stride


def _paged_layer(site: CircuitSite, pages: Mapping[str, str], source_set: str | None) -> int | None:
    """The layer in a source's name where it is of the source set: `12-res-jb` reads block 11, and its page is at 12."""
    match = _SOURCE.match(pages.get(site.source, f"/{site.source}").partition("/")[2])
    return int(match[1]) if match and match[2] == source_set else None


def _paged_first(pair: tuple[CircuitSite, int | None]) -> bool:
    return pair[1] is None


def _ids(circuit: Circuit, rows: Mapping[str, _Row], layers: int) -> dict[NodeRef, str]:
    """`{layer}_{index}_{position}`, errors `0_{layer}_{position}` or, where that is taken, a number nothing has."""
    ids: dict[NodeRef, str] = {}
    for node in circuit.nodes[1:]:
        if not node.ref.is_error:
            row = rows[node.ref.source]
            ids[node.ref] = f"{row.layer}_{node.ref.index + row.offset}_{node.ref.position}"
    taken = set(ids.values())
    for node in circuit.nodes[1:]:
        if node.ref.is_error:
            row = rows[node.ref.source]
            usual = f"0_{row.layer}_{node.ref.position}"
            ids[node.ref] = f"0_{row.error}_{node.ref.position}" if usual in taken else usual
            taken.add(usual)
    targets = circuit.metric.targets
    position = _last(circuit) if circuit.metric.position is None else circuit.metric.position
    top = max(layers, *(row.layer + 1 for row in rows.values())) + 1
    ids[circuit.nodes[0].ref] = f"{top}_{targets[0].id if targets else 0}_{position}"
    return ids


def _last(circuit: Circuit) -> int:
    return max([len(circuit.tokens) - 1, circuit.length - 1, *(node.ref.position or 0 for node in circuit.nodes)])


def _known(ids: Mapping[NodeRef, str], ref: NodeRef) -> str:
    if ref not in ids:
        raise BadRequest(f"{visible(str(ref))} is no node of this circuit.", "Pin nodes that the circuit keeps.")
    return ids[ref]


def _prompt_tokens(circuit: Circuit) -> list[str]:
    """Their texts; positions of prompts that differ have numbers."""
    texts = [_sound(token.text) for token in circuit.tokens]
    return texts + [f"[{n}]" for n in range(len(texts), _last(circuit) + 1)]


def _sound(text: str) -> str:
    return visible(text) if has_lone_surrogate(text) else text


def _cantor(layer: int, index: int) -> int:
    """The pairing that schema version 1 packs layer and index with."""
    return (layer + index) * (layer + index + 1) // 2 + index


def _features(
    circuit: Circuit, rows: Mapping[str, _Row], ids: Mapping[NodeRef, str], labels: Mapping[NodeRef, str]
) -> list[dict[str, Any]]:
    """Feature and error nodes."""
    found = []
    for node, share in zip(circuit.nodes[1:], influence(circuit), strict=True):
        ref, row = node.ref, rows[node.ref.source]
        number = row.error if ref.is_error else ref.index + row.offset
        shown = {
            "node_id": ids[ref],
            "feature": -1 if ref.is_error else _cantor(row.layer, number),
            "layer": str(row.layer),
            "ctx_idx": ref.position,
            "feature_type": "mlp reconstruction error" if ref.is_error else _FEATURE,
            "jsNodeId": f"{row.layer}_{number}-{ref.position}",
            "clerp": visible(labels.get(ref) or _own_label(node, row)),
            "influence": share,
            "effect": node.effect,
        }
        found.append(shown if ref.is_error else {**shown, "activation": node.activation})
    return found


def _own_label(node: CircuitNode, row: _Row) -> str:
    """Nothing where the page's explanation says it better."""
    if node.ref.is_error:
        return f"error of {node.ref.source}"
    return f"{node.ref.source}:{node.ref.index}" if row.offset else ""


def _embeddings(circuit: Circuit) -> list[dict[str, Any]]:
    """The prompt's tokens; no edge of ours starts at one, but readers draw and score them."""
    return [
        {
            "node_id": f"E_{token.id}_{n}",
            "feature": n,
            "layer": "E",
            "ctx_idx": n,
            "feature_type": "embedding",
            "jsNodeId": f"E_{token.id}-{n}",
            "clerp": f'Emb: "{visible_token(token.text)}"',
        }
        for n, token in enumerate(circuit.tokens)
    ]


def _logit(circuit: Circuit, node_id: str, probability: float | None) -> dict[str, Any]:
    """The metric. Readers take a probability from the label, after `(p=`."""
    metric = circuit.metric
    if probability is None:
        probability = math.exp(min(metric.clean, 0.0)) if metric.kind == "logprob" else 1.0
    layer, token, position = node_id.split("_")
    label = visible(metric.label).replace("(p=", "(p =")
    return {
        "node_id": node_id,
        "feature": int(token) if metric.targets else None,
        "layer": layer,
        "ctx_idx": int(position),
        "feature_type": "logit",
        "jsNodeId": f"L_{token}-{position}",
        "clerp": f'Output "{label}" (p={probability:.3f})',
        "token_prob": probability,
        "is_target_logit": True,
        "effect": circuit.nodes[0].effect,
    }
