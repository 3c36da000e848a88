"""Reads a circuit that saprmarks/feature-circuits saved, without its code and without running anything of the pickle.

Format: `torch.save({"examples", "nodes": {name: SparseAct}, "edges": {up: {down: tensor}} | None})`, where a node is
[positions,] features plus a contracted error, and an edge block is indexed [downstream…][upstream…]. Their metric is
the negative of ours and their effect m(patch) − m(clean), so signs agree with `engine.circuit_results`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.circuit_results import (
    ERROR,
    METRIC,
    Circuit,
    CircuitEdge,
    CircuitNode,
    CircuitSettings,
    CircuitSite,
    Metric,
    NodeRef,
)
from engine.circuits.checked_pickle import REMEDY, SparseAct, as_stored, load, numbers, table
from engine.errors import BadRequest
from engine.hashes import sha256_of
from engine.pairs import pair_of
from engine.protocol import Pair
from engine.results import Provenance
from engine.sites import Site
from engine.text import visible

_NAME = re.compile(r"(?:(attn|mlp|resid)_(\d{1,4})|embed)\Z")
_FILE = re.compile(r"(?P<model>[^_]+)_.*n\d+_agg(?:none|sum)(?P<neurons>_neurons)?_node")
_ORDER = ("embed", "attn", "mlp", "resid")
_SITES = {"attn": "attn_out", "mlp": "mlp_out", "resid": "resid_post", "embed": "embed"}
_UNKNOWN = ("model hash", "dictionaries", "method", "steps", "activations", "metric", "tokens", "dtype of the model")
_ASSUMED = "what feature-circuits' circuit.py asks for: integrated gradients in 10 steps, logit answer − other answer"


@dataclass(frozen=True)
class _Block:
    """One submodule's effects [positions, features + 1], the error last; one row where positions are summed."""

    name: str
    kind: str
    layer: int
    effects: Tensor
    by_position: bool

    @property
    def d_sae(self) -> int:
        return self.effects.shape[1] - 1

    @property
    def shape(self) -> list[int]:
        """Of the block in an edge table."""
        return list(self.effects.shape[not self.by_position :])

    def ref(self, index: list[int]) -> NodeRef:
        """The node at [position, feature] or [feature]."""
        return NodeRef(self.name, ERROR if index[-1] == self.d_sae else index[-1], index[0] if index[1:] else None)

    def at(self, flat: int) -> NodeRef:
        """The node at a place of the flattened block."""
        position, feature = divmod(flat, self.d_sae + 1)
        return self.ref([position, feature] if self.by_position else [feature])


@dataclass
class _Edges:
    """Edges between kept nodes, collected block by block."""

    places: dict[NodeRef, int]
    threshold: float
    found: list[CircuitEdge] = field(default_factory=list)
    inflow: dict[NodeRef, float] = field(default_factory=dict)

    def add(self, tensor: object, up: _Block, down: _Block | None, where: str) -> None:
        """A block that is fully sparse (2024), sparse downstream and dense upstream (since 2025), or dense."""
        split = len(down.shape) if down else len(up.shape)
        block = table(tensor, [*(down.shape if down else ()), *up.shape], split, where)
        values = block.values().double()
        rows = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
        at = block.indices().t().tolist()
        targets = [down.ref(index[:split]) if down else NodeRef(METRIC) for index in at]
        if values.ndim > 1 or down is None:  # every upstream entry is there, kept or not
            for target, total in zip(targets, rows.sum(1).tolist(), strict=True):
                self.inflow[target] = self.inflow.get(target, 0.0) + total
        for n, column in (rows.abs() > as_stored(self.threshold, block)).nonzero().tolist():
            source = up.at(column) if values.ndim > 1 else up.ref(at[n][split if down else 0 :])
            if targets[n] in self.places and source in self.places:
                edge = CircuitEdge(self.places[source], self.places[targets[n]], float(rows[n, column]))
                self.found.append(edge)


def read_circuit(
    path: Path, node_threshold: float = 0.01, edge_threshold: float = 0.001, model: str | None = None
) -> Circuit:
    """The nodes with |effect| above one threshold, and the edges between them with |weight| above the other.

    Thresholds are rounded to the dtype of the file, as feature-circuits compares. What the file does not say is listed
    in `provenance.settings["unknown"]`; the metric's own effect is then 0.

    Raises:
        BadRequest: it is no such file, is damaged, or asks for anything but tensors.
    """
    loaded = _load(path)
    blocks = {block.name: block for block in _blocks(loaded["nodes"], path)}
    nodes = _nodes(blocks, node_threshold, _total(loaded["nodes"].get("y")))
    edges = _Edges({node.ref: n for n, node in enumerate(nodes)}, edge_threshold)
    _add_edges(edges, loaded.get("edges"), blocks, path)
    pairs = _pairs(loaded, path)
    only = pairs[0] if len(pairs) == 1 else None
    named = _FILE.match(path.name)
    name = visible(model or (named["model"] if named else "unknown"))
    hooks = {block.name: _hook(block, name) for block in blocks.values()}
    first = next(iter(blocks.values()))
    settings = CircuitSettings(
        method="ig",
        steps=10,
        gradients="pass-through",
        baseline="zero" if pairs and pairs[0].patch is None else "patch",
        aggregate="none" if first.by_position else "sum",
        node_threshold=node_threshold,
        edge_threshold=edge_threshold,
        max_nodes=len(nodes),
        dtype=str(first.effects.dtype).removeprefix("torch."),
        basis="neurons" if named and named["neurons"] else "dictionaries",
    )
    said = {
        "imported": "feature-circuits",
        "file": visible(path.name),
        "sha256": sha256_of(path),
        "model_from": "argument" if model else "file name" if named else "nothing",
        "hooks_from": "feature-circuits' names of submodules",
        "assumed": _ASSUMED,
        "unknown": list(_UNKNOWN),
    }
    return Circuit(
        model=name,
        prompt=only.clean if only else "",
        patch=only.patch if only else None,
        chat=False,
        tokens=(),
        examples=len(loaded["examples"]) if isinstance(loaded.get("examples"), list) else 0,
        metric=Metric("logit" if pairs and pairs[0].patch_answer is None else "difference"),
        settings=settings,
        sites=tuple(_site(block, hooks[block.name], nodes) for block in blocks.values()),
        nodes=tuple(msgspec.structs.replace(node, inflow=edges.inflow.get(node.ref)) for node in nodes),
        edges=tuple(sorted(edges.found, key=lambda edge: -abs(edge.weight))),
        finished=True,
        provenance=Provenance(name, "", {}, hooks, "", "", "", said, {"torch": version("torch")}),
        seconds=0.0,
        length=first.effects.shape[0] if first.by_position else 0,
    )


def read_examples(path: Path) -> tuple[Pair, ...]:
    """The prompts the circuit was found on; () where the file holds token ids in place of text.

    Raises:
        BadRequest: as `read_circuit`.
    """
    return _pairs(_load(path), path)


def _load(path: Path) -> dict[str, Any]:
    loaded = load(path)
    if not isinstance(loaded.get("nodes"), dict):
        raise BadRequest(f"{path} holds no circuit: it has no 'nodes'.", REMEDY)
    return loaded


def _pairs(loaded: dict[str, Any], path: Path) -> tuple[Pair, ...]:
    """The examples where they are text; files of 2024 hold tensors, and keys beside these."""
    rows = loaded.get("examples")
    known = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer", "case")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return ()
    texts = [{key: row[key] for key in known if key in row} for row in rows]
    if not all(isinstance(text.get("clean_prefix"), str) for text in texts):
        return ()
    return tuple(pair_of(row, f"{path}, example {n}") for n, row in enumerate(texts, 1))


def _blocks(nodes: dict[Any, Any], path: Path) -> list[_Block]:
    """The effects of every submodule, in the order of a forward pass."""
    blocks = []
    for name, act in nodes.items():
        match = _NAME.match(name) if isinstance(name, str) else None
        if name == "y":
            continue
        if match is None or not isinstance(act, SparseAct):
            raise BadRequest(f"{path} has a node {visible(str(name))[:40]!r} that no circuit has.", REMEDY)
        where = f"{path}, node {name}"
        effects = numbers(act.act, where)
        contracted = act.res if act.resc is None else act.resc
        error = effects.new_zeros(*effects.shape[:-1], 1) if contracted is None else numbers(contracted, where)
        if error.ndim == effects.ndim - 1:
            error = error.unsqueeze(-1)
        if effects.ndim not in (1, 2) or tuple(error.shape) != (*effects.shape[:-1], 1):
            raise BadRequest(f"{where} has the shapes {tuple(effects.shape)} and {tuple(error.shape)}.", REMEDY)
        joined = torch.cat([effects, error], dim=-1)
        rows = joined.unsqueeze(0) if joined.ndim == 1 else joined
        blocks.append(_Block(name, match[1] or "embed", int(match[2] or 0), rows, joined.ndim == 2))
    if len({(block.by_position, block.effects.shape[0]) for block in blocks}) != 1:
        raise BadRequest(f"{path} has no nodes, or nodes of different numbers of positions.", REMEDY)
    return sorted(blocks, key=lambda b: (b.layer if b.kind != "embed" else -1, _ORDER.index(b.kind)))


def _total(y: object) -> float:
    """The metric's whole change, mean over examples; 0 where the file does not say (since 2024-09 it never does)."""
    value = y.act if isinstance(y, SparseAct) else y
    return float(numbers(value, "node y").double().mean()) if isinstance(value, Tensor) else 0.0


def _nodes(blocks: dict[str, _Block], threshold: float, total: float) -> list[CircuitNode]:
    nodes = []
    for block in blocks.values():
        values, limit = block.effects.double().flatten(), as_stored(threshold, block.effects)
        for flat in (values.abs() > limit).nonzero().flatten().tolist():
            nodes.append(CircuitNode(block.at(flat), float(values[flat])))
    nodes.sort(key=lambda node: -abs(node.effect))
    return [CircuitNode(NodeRef(METRIC), total), *nodes]


def _site(block: _Block, hook: str, nodes: list[CircuitNode]) -> CircuitSite:
    sums = block.effects.double().sum(0)
    kept = sum(node.ref.source == block.name for node in nodes)
    return CircuitSite(
        block.name, hook, block.layer, block.d_sae, float(sums[:-1].sum()), float(sums[-1]), kept
    )  # fmt: skip


def _hook(block: _Block, model: str) -> str:
    """TransformerLens' name; for Gemma the `attn` of feature-circuits is what o_proj reads."""
    kind = "hook_z" if block.kind == "attn" and model.startswith("gemma") else _SITES[block.kind]
    return Site(kind, block.layer).hook


def _add_edges(edges: _Edges, listed: object, blocks: dict[str, _Block], path: Path) -> None:
    if listed is None:
        return
    if not isinstance(listed, dict) or not all(isinstance(downs, dict) for downs in listed.values()):
        raise BadRequest(f"{path} has edges that are no tables of blocks.", REMEDY)
    for up_name, downs in listed.items():
        for down_name, tensor in downs.items():
            where = f"{path}, edges {visible(str(up_name))[:20]} → {visible(str(down_name))[:20]}"
            up, down = blocks.get(up_name), blocks.get(down_name)
            if up is None or (down is None and down_name != "y"):
                raise BadRequest(f"{where} join no two nodes.", REMEDY)
            edges.add(tensor, up, down, where)
