"""The features of a circuit as Neuronpedia quicklists: strongest first, grouped by dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from engine.circuit_results import Circuit
from engine.errors import SessionError
from engine.results import FeatureRef
from engine.text import visible
from sessions.export import Exported, export_features
from sessions.quicklist import FormChoice


def strongest_features(circuit: Circuit, count: int | None = None) -> list[FeatureRef]:
    """The `count` features with the largest |effect| at any one position, grouped by source in the order first met.

    Error nodes are no features; a feature at several positions counts once, where it is strongest.
    """
    ranked = sorted(circuit.nodes, key=lambda node: -abs(node.effect))
    features = (FeatureRef(n.ref.source, n.ref.index) for n in ranked if not (n.ref.is_metric or n.ref.is_error))
    kept = list(dict.fromkeys(features))[:count]
    return [ref for source in dict.fromkeys(ref.source for ref in kept) for ref in kept if ref.source == source]


def circuit_quicklist(
    circuit: Circuit,
    pages: Mapping[str, str],
    name: str | None = None,
    count: int | None = None,
    form: FormChoice = "auto",
) -> Exported:
    """The addresses for the features of a circuit; `pages` are the Neuronpedia ids of its sources.

    Of the `count` strongest those without a page are left out and said.

    Raises:
        SessionError: the circuit has no feature, or none of them has a page.
        BadRequest: the name is blank, or too long for an address.
    """
    features = strongest_features(circuit, count)
    if not features:
        raise SessionError("No feature is in this circuit.", "Lower the threshold of its nodes and trace again.")
    title = name if name is not None else f"circuit of {visible(circuit.metric.label)}"
    return export_features(title, features, pages, form, ("circuit's features", "features"))
