"""Figures that others published of a dictionary: what a measurement here is held against.

From SAELens' registry, the README of dictionary_learning, our own cards, and files that lie beside the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.dictionary import Dictionary
from engine.errors import DictionaryMissing
from engine.jsonfile import read_object
from engine.names.models import same_model
from engine.sites import Site

L0, VARIANCE, LOSS_ZERO, LOSS_MEAN = "l0", "explained_variance", "loss_recovered_zero", "loss_recovered_mean"
_PYTHIA = Path(__file__).parent / "data" / "pythia70m_dict10.json"
_SOURCE = re.compile(r"pythia-70m-deduped/(e|[0-5])-(res|mlp|att)-sm\Z")
_FOLDER = re.compile(r"pythia-70m-deduped/(embed|(?:attn_out|mlp_out|resid_out)_layer([0-5]))/10_32768\Z")
_PYTHIA_MODEL, _PYTHIA_WIDTH, _PYTHIA_SIZE = "pythia-70m-deduped", 512, 32_768
_KINDS = {"att": "attn_out", "mlp": "mlp_out", "res": "resid_post"}


@dataclass(frozen=True)
class Published:
    """One figure and who published it."""

    name: str
    value: float
    origin: str


def published(dictionary: Dictionary) -> dict[str, Published]:
    """Figures by name; of several with one name the first counts, those made for just this dictionary before tables."""
    found: dict[str, Published] = {}
    for figures in (_card, _evaluation, _registry, _pythia, _notebook, _configuration):
        for figure in figures(dictionary):
            if math.isfinite(figure.value):
                found.setdefault(figure.name, figure)
    return found


def _card(dictionary: Dictionary) -> Iterator[Published]:
    """`card.json` of a dictionary that `saescope train` made."""
    held_out = _object(dictionary.folder / "card.json").get("held_out")
    names = {L0: L0, VARIANCE: VARIANCE, "loss_recovered": LOSS_MEAN}
    yield from _named(held_out, names, "its card")


def _evaluation(dictionary: Dictionary) -> Iterator[Published]:
    """`eval_results.json`, which dictionary_learning's evaluation leaves; its losses are against zero ablation."""
    names = {L0: L0, "frac_variance_explained": VARIANCE, "frac_recovered": LOSS_ZERO}
    yield from _named(_object(dictionary.folder / "eval_results.json"), names, "eval_results.json beside it")


def _registry(dictionary: Dictionary) -> Iterator[Published]:
    name = dictionary.place.release if dictionary.place else None
    if name is None:
        return
    from engine.names.registry import look_up

    try:
        entries = look_up(name)
    except DictionaryMissing:
        return
    if len(entries) == 1:
        entry = entries[0]
        values = {L0: entry.l0, VARIANCE: entry.variance_explained}
        yield from _named(values, {L0: L0, VARIANCE: VARIANCE}, "SAELens' registry")


def _pythia(dictionary: Dictionary) -> Iterator[Published]:
    """The table of the Pythia dictionaries; its losses are against zero ablation, as that library evaluates."""
    if (row := _row_of_pythia(dictionary)) is not None:
        table = _pythia_table()
        names = {L0: L0, VARIANCE: VARIANCE, "loss_recovered": LOSS_ZERO}
        yield from _named(table[row[0]].get(row[1]), names, "dictionary_learning's README")


def _notebook(dictionary: Dictionary) -> Iterator[Published]:
    """The one score the gelu-1l notebook prints, of its first run: losses 3.2546, 3.7507 spliced, 8.8403 ablated."""
    path = dictionary.place.path if dictionary.place else dictionary.folder
    if path.name == "25.pt" and dictionary.site == Site("mlp_post", 0) and dictionary.d_sae == 16_384:
        yield Published(LOSS_ZERO, 0.9112, "the gelu-1l notebook")


def _row_of_pythia(dictionary: Dictionary) -> tuple[str, str] | None:
    """Which row of that table is about this dictionary: by its Neuronpedia source, or by its folder and its size.

    The folder alone proves little: whoever trains with that library may lay out their own as it does.
    """
    if match := _SOURCE.match(str(dictionary.metadata.get("neuronpedia_id") or "")):
        return match[2], match[1]
    folder = dictionary.place.path if dictionary.place else dictionary.folder
    if not _is_of_pythia(dictionary) or not (match := _FOLDER.search(folder.absolute().as_posix())):
        return None
    if match[1] == "embed":
        return "res", "e"
    kind = match[1].partition("_layer")[0]
    return {"attn_out": "att", "mlp_out": "mlp", "resid_out": "res"}[kind], match[2]


def _is_of_pythia(dictionary: Dictionary) -> bool:
    """Whether it has the size of those in that table, and names no other model."""
    said = dictionary.metadata.get("model_name")
    named = not isinstance(said, str) or not said or same_model(said, _PYTHIA_MODEL)
    return named and (dictionary.d_in, dictionary.d_sae) == (_PYTHIA_WIDTH, _PYTHIA_SIZE)


def expected_site(dictionary: Dictionary) -> Site | None:
    """Where a dictionary of that table reads, whatever its files say; None for others."""
    if (row := _row_of_pythia(dictionary)) is None:
        return None
    return Site("embed", 0) if row[1] == "e" else Site(_KINDS[row[0]], int(row[1]))


def _configuration(dictionary: Dictionary) -> Iterator[Published]:
    """Figures that training left among a dictionary's settings."""
    names = {L0: L0, VARIANCE: VARIANCE, "variance_explained": VARIANCE}
    yield from _named(dictionary.metadata, names, "its configuration")


def _named(values: object, names: Mapping[str, str], origin: str) -> Iterator[Published]:
    if not isinstance(values, Mapping):
        return
    for key, name in names.items():
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Published(name, float(value), origin)


@cache
def _pythia_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_PYTHIA.read_text())
    return table


def _object(file: Path) -> dict[str, Any]:
    """A JSON object beside the weights; what cannot be read says nothing."""
    try:
        return read_object(file) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
