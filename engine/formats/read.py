"""Reading a dictionary, whatever its form: every reader makes the same `Dictionary`."""

from __future__ import annotations

from collections.abc import Callable

from engine.dictionary import Dictionary
from engine.formats import saelens
from engine.places import Place

READERS: dict[str, Callable[[Place], Dictionary]] = {
    "saelens": saelens.read,
}


def read(place: Place) -> Dictionary:
    """The dictionary at a place, on the CPU in float32, as SAELens means every weight and setting.

    Raises:
        DictionaryMissing: something is absent or unreadable.
        DictionaryMismatch: it asks for something that would give wrong numbers here.
    """
    dictionary = READERS[place.form](place)
    dictionary.place = place
    if place.neuronpedia is not None:
        dictionary.metadata["neuronpedia_id"] = place.neuronpedia
    return dictionary
