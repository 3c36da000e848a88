"""The features of a circuit as Neuronpedia quicklists: strongest first, grouped by dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from engine.circuit_results import Circuit
from engine.errors import SessionError
from engine.results import FeatureRef
from engine.text import visible
from sessions.export import Exported
from sessions.quicklist import entry, quicklist_urls


def strongest_features(circuit: Circuit, count: int | None = None) -> list[FeatureRef]:
    """The `count` features with the largest |effect| at any one position, grouped by source in the order first met.

    Error nodes are no features; a feature at several positions counts once, where it is strongest.
    """
    ranked = sorted(circuit.nodes, key=lambda node: -abs(node.effect))
    features = (FeatureRef(n.ref.source, n.ref.index) for n in ranked if not (n.ref.is_metric or n.ref.is_error))
    kept = list(dict.fromkeys(features))[:count]
    return [ref for source in dict.fromkeys(ref.source for ref in kept) for ref in kept if ref.source == source]


def circuit_quicklist(
    circuit: Circuit, pages: Mapping[str, str], name: str | None = None, count: int | None = None
) -> Exported:
    """The addresses for the features of a circuit; `pages` are the Neuronpedia ids of its sources.

    Of the `count` strongest those without a page are left out and said.

    Raises:
        SessionError: the circuit has no feature, or none of them has a page.
        BadRequest: the name is blank.
    """
    features = strongest_features(circuit, count)
    if not features:
        raise SessionError("No feature is in this circuit.", "Lower the threshold of its nodes and trace again.")
    known = [entry(pages[ref.source], ref.index) for ref in features if ref.source in pages]
    without = sorted({ref.source for ref in features if ref.source not in pages})
    if not known:
        raise SessionError(
            f"None of the circuit's features has a Neuronpedia page (sources {', '.join(without)}).",
            "Only dictionaries with a neuronpedia_id in their cfg.json have pages.",
        )
    left_out = len(features) - len(known)
    notes = (
        (f"Left out, for want of a Neuronpedia page: {left_out} features of {', '.join(without)}.",) if left_out else ()
    )
    title = name if name is not None else f"circuit of {visible(circuit.metric.label)}"
    return Exported(tuple(quicklist_urls(title, known)), notes)
