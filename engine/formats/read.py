"""Reading a dictionary, whatever its form: every reader makes the same `Dictionary`."""

from __future__ import annotations

from collections.abc import Callable

from engine.dictionary import Dictionary
from engine.encoding.describing import add_notes
from engine.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    neurons,
    notebook,
    released,
    saelens,
    sparsify,
)
from engine.places import Place

READERS: dict[str, Callable[[Place], Dictionary]] = {
    "saelens": saelens.read,
    "dictionary_learning": dictionary_learning.read,
    "notebook": notebook.read,
    "sparsify": sparsify.read,
    "gemma_scope": gemma_scope.read,
    "circuit_tracer": circuit_tracer.read,
    "neurons": neurons.read,
    "released": released.read,
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
    return add_notes(dictionary)
