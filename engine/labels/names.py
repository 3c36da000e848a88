"""What people call features and sources, as the names their labels are kept under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.errors import BadRequest
from engine.labels.annotations import COMPONENTS
from engine.labels.store import LabelStore, Place
from engine.results import parse_feature


def place_and_index(store: LabelStore, text: str) -> tuple[str, str, int]:
    """`MODEL@SOURCE:INDEX`, or `SOURCE:INDEX` where the store has labels of one such source.

    Raises:
        BadRequest: it has another form, or several models or none have such a source.
    """
    feature = parse_feature(text)
    model, at, _ = text.strip().partition("@")
    if at:
        return model, feature.source, feature.index
    models = store.models_with(feature.source)
    if len(models) != 1:
        has = f"{', '.join(models)} have" if models else "no labels are there of"
        raise BadRequest(
            f"{text} does not say of which model: {has} {feature.source}.",
            f"Write {models[0] if models else 'MODEL'}@{feature}.",
        )
    return models[0], feature.source, feature.index


def places_called(store: LabelStore, names: Iterable[str]) -> list[Place] | None:
    """The places of the store that `MODEL/SOURCE`, `MODEL@SOURCE`, `SOURCE` or `MODEL` means; None for no names.

    Raises:
        BadRequest: nothing of that name has labels.
    """
    wanted = list(names)
    if not wanted:
        return None
    there = [(each.model, each.source) for each in store.counts()]
    found: list[Place] = []
    for name in wanted:
        model, source = parts if (parts := _split(name)) else (None, None)
        matching = [p for p in there if p == (model, source) or (model is None and name in p)]
        if not matching:
            raise BadRequest(f"There are no labels of {name}.", "`saescope labels list` says what has labels.")
        found += matching
    return list(dict.fromkeys(found))


def place_called(name: str) -> Place:
    """`MODEL/SOURCE` or `MODEL@SOURCE`.

    Raises:
        BadRequest: it has another form.
    """
    if (parts := _split(name)) is None:
        raise BadRequest(f"{name!r} is no source of a model.", "Write MODEL/SOURCE, e.g. gpt2-small/7-res-jb.")
    return parts


def published(name: str) -> list[str]:
    """What `saescope get labels` is given, as Neuronpedia's `MODEL/SOURCE`: that, or names of SAELens' registry.

    Raises:
        BadRequest: it has another form, or what the registry has of that name has no pages on Neuronpedia.
        DictionaryMissing: the registry has the release, but not that id.
    """
    from engine.names.neuronpedia import corrected
    from engine.names.registry import is_release, look_up

    if not is_release(name.partition("/")[0]):
        return ["/".join(place_called(name))]
    found = dict.fromkeys(page for entry in look_up(name) if (page := corrected(entry)))
    if not found:
        raise BadRequest(f"{name} has no pages on Neuronpedia, and so no labels there.", "Import a file of labels.")
    return list(found)


def component_map(given: Iterable[str]) -> Mapping[str, str]:
    """`resid=res-sm` and the like, as a mapping.

    Raises:
        BadRequest: one has another form.
    """
    sets: dict[str, str] = {}
    for each in given:
        component, equals, name = each.partition("=")
        if component not in COMPONENTS or not equals or not name:
            raise BadRequest(f"{each!r} maps nothing.", f"Write COMPONENT=SET; components are {', '.join(COMPONENTS)}.")
        sets[component] = name
    return sets


def _split(name: str) -> Place | None:
    model, slash, source = name.replace("@", "/", 1).partition("/")
    return (model, source) if model and slash and source and "/" not in source else None
