"""What the engine answers about the labels of what is open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.labels.store import LabelStore, Place
from engine.opening import OpenSet, page_of
from engine.results import FeatureRef, Label, LabelHit, LabelSearch

if TYPE_CHECKING:
    from engine.requests import SearchLabels, SetLabel


def place_of(opened: OpenSet, source: str) -> Place:
    """The names that the labels of an open dictionary are kept under."""
    page = page_of(opened.dictionaries[source])
    if page is None:
        return opened.model.name, source
    model, _, name = page.partition("/")
    return model, name


def labels_of(opened: OpenSet, feature: FeatureRef) -> tuple[Label, ...]:
    """All labels of a feature, the user's own first; () where its dictionary is not open.

    Raises:
        LabelsUnusable: the store is damaged or busy.
    """
    if feature.source not in opened.dictionaries:
        return ()
    return LabelStore().labels(*place_of(opened, feature.source), feature.index)


def best_labels(opened: OpenSet, features: Iterable[FeatureRef]) -> dict[str, str]:
    """The first label of every feature that has one, by `SOURCE:INDEX`.

    Raises:
        LabelsUnusable: the store is damaged or busy.
    """
    indices: dict[str, list[int]] = {}
    for feature in features:
        if feature.source in opened.dictionaries:
            indices.setdefault(feature.source, []).append(feature.index)
    store = LabelStore()
    return {
        f"{source}:{index}": text
        for source, wanted in indices.items()
        for index, text in store.best(*place_of(opened, source), wanted).items()
    }


def search(opened: OpenSet, request: SearchLabels) -> LabelSearch:
    """The labels of open dictionaries with the words of a query, or those that mean something near a feature's.

    Raises:
        BadRequest: a source is not open, or the feature has no label that came with an embedding.
        LabelsUnusable: the store is damaged or busy.
    """
    store = LabelStore()
    sources = [dictionary.source for dictionary in opened.choose(request.sources)]
    places = {source: place_of(opened, source) for source in sources}
    query = request.query
    if (like := request.like) is not None:
        opened.find(like.source, like.index)
        query, found, total = store.like(
            *place_of(opened, like.source), like.index, tuple(places.values()), request.top
        )
    else:
        found, total = store.search(query, tuple(places.values()), request.top)
    open_as = {place: source for source, place in reversed(places.items())}
    counts = store.labelled(places.values())
    hits = (
        LabelHit(FeatureRef(open_as[hit.model, hit.source], hit.index), hit.label, hit.score)
        for hit in found
        if hit.index < opened.dictionaries[open_as[hit.model, hit.source]].d_sae
    )
    labelled = {source: counts[place] for source, place in places.items() if place in counts}
    return LabelSearch(query, tuple(hits), total, like, labelled)


def set_label(opened: OpenSet, request: SetLabel) -> tuple[Label, ...]:
    """Keep the user's own label of a feature, or take it away; returns all its labels now.

    Raises:
        BadRequest: the feature is not of an open dictionary.
        LabelsUnusable: the store is damaged or busy, or cannot be written.
    """
    feature = request.feature
    opened.find(feature.source, feature.index)
    place = place_of(opened, feature.source)
    store = LabelStore()
    store.set_user(*place, feature.index, request.text)
    return store.labels(*place, feature.index)
