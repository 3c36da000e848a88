"""Annotations of feature-circuits at the hooks of a dictionary and on the nodes of a circuit."""

from __future__ import annotations

from collections.abc import Mapping

from engine.circuit_results import Circuit, NodeRef
from engine.errors import BadRequest
from engine.labels.annotations import Annotation, Annotations, Dirt, Key, read_annotations
from engine.sites import parse_hook

__all__ = [
    "Annotation", "Annotations", "Dirt", "Key", "circuit_labels", "component_of", "label_of", "read_annotations",
]  # fmt: skip

_COMPONENTS = {"attn_out": "attn", "hook_z": "attn", "mlp_out": "mlp", "resid_post": "resid", "embed": "embed"}


def component_of(hook: str) -> tuple[str, int] | None:
    """Component and layer that feature-circuits calls a TransformerLens hook; None where it has no name for it.

    The stream before block 0 is `embed`, before block l it is `resid` of l − 1.
    """
    try:
        site = parse_hook(hook)
    except BadRequest:
        return None
    if site.kind == "resid_pre":
        return ("resid", site.layer - 1) if site.layer else ("embed", 0)
    component = _COMPONENTS.get(site.kind)
    return None if component is None else (component, site.layer)


def label_of(labels: Mapping[Key, Annotation], hook: str, index: int) -> Annotation | None:
    """The annotation of a dictionary's feature. That the file is about this dictionary is for the user to know."""
    component = component_of(hook)
    return None if component is None else labels.get((*component, index))


def circuit_labels(circuit: Circuit, labels: Mapping[Key, Annotation]) -> dict[NodeRef, str]:
    """The annotations of a circuit's nodes, as pictures and graphs take them."""
    hooks = {site.source: site.hook for site in circuit.sites}
    found = {
        node.ref: label_of(labels, hooks[node.ref.source], node.ref.index)
        for node in circuit.nodes
        if node.ref.source in hooks and not node.ref.is_error
    }
    return {ref: annotation.text for ref, annotation in found.items() if annotation}
