"""The two sides of a comparison: what is open, and what is opened beside it for as long as it takes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine import default_model
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.formats.neurons import places_for
from engine.formats.read import read
from engine.job import Job
from engine.memory.use import telling_out_of_memory
from engine.opening import OpenSet, check_fit, note_other_model, open_set
from engine.protocol import Open
from engine.resolving import resolve
from engine.sites import Site
from engine.studies.parts import chosen
from engine.study_settings.universality import Universality


@dataclass(frozen=True)
class Side:
    """One of the two: a model, and those of its dictionaries that are compared."""

    name: str
    opened: OpenSet
    dictionaries: tuple[Dictionary, ...]
    prefix: str = ""
    """Before its features' names, where they are another model's."""

    def depth(self, site: Site) -> float:
        """Where in the model a site is, from 0 (the embedding) to 1 (after the last block)."""
        if site.kind == "embed":
            return 0.0
        inside = {"resid_pre": 0.0, "resid_post": 1.0, "mlp_out": 1.0}.get(site.kind, 0.5)
        return (site.layer + inside) / self.opened.model.layers

    def refer(self, source: str, index: int) -> str:
        """A feature's name."""
        return f"{self.prefix}{source}:{index}"


@contextmanager
def two_sides(opened: OpenSet, settings: Universality, job: Job) -> Iterator[tuple[Side, Side]]:
    """What is open, and what it is compared with; a second model is let go at the end.

    Raises:
        SaescopeError: nothing was named to compare with, it cannot be opened, or both sides are the same.
    """
    if settings.other_model is None and not settings.other:
        raise BadRequest("Nothing was named to compare with.", "Give --other DICTIONARY, or --other-model too.")
    if settings.other_model is not None and not _is_open(opened, settings):
        first = Side(opened.model.name, opened, tuple(chosen(opened, settings.sources)))
        second = _second_model(opened, settings, job)
        try:
            yield first, second
        finally:
            _let_go(second.opened)
        return
    others = _others(opened, settings, job)
    wanted = chosen(opened, settings.sources)
    if settings.sources and (same := [d.source for d in wanted if d in others]):
        raise BadRequest(f"{', '.join(same)} is on both sides.", "Name another with --other, or with --source.")
    mine = [d for d in wanted if d not in others]
    if not mine:
        raise BadRequest("All that is open is on the other side.", "Name fewer with --other.")
    beside = OpenSet(opened.model, {d.source: d for d in others}, opened.bos, opened.sha256, opened.folded)
    yield Side(_sources(mine), opened, tuple(mine)), Side(_sources(others), beside, tuple(others))


def _is_open(opened: OpenSet, settings: Universality) -> bool:
    """Whether the model named is the open one: it need not be there twice."""
    folder = resolve(settings.other_model, settings.other).model or default_model.folder()
    return folder.resolve() == opened.model.folder.resolve()


def _sources(dictionaries: Sequence[Dictionary]) -> str:
    return dictionaries[0].source if len(dictionaries) == 1 else f"{dictionaries[0].source} … {dictionaries[-1].source}"


def _second_model(opened: OpenSet, settings: Universality, job: Job) -> Side:
    """Another model with its dictionaries, on the same device and as precise."""
    request = Open(
        id=job.id,
        model=settings.other_model,
        dictionaries=settings.other,
        device=str(opened.model.device),
        dtype=str(opened.model.dtype).removeprefix("torch."),
        fold=opened.folded,
    )
    found = open_set(request, job)
    name = found.model.name if found.model.name != opened.model.name else f"{found.model.name} (other)"
    return Side(name, found, tuple(found.dictionaries.values()), f"{found.model.name}@")


def _let_go(opened: OpenSet) -> None:
    """Give back what a second model took, by hand: a traceback may hold on to it, and opening it froze its objects,
    which are never collected otherwise."""
    vars(opened.model).clear()
    opened.dictionaries.clear()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _others(opened: OpenSet, settings: Universality, job: Job) -> list[Dictionary]:
    """The dictionaries compared with: of those that are open by source or hook, or read for the open model."""
    here = {
        name: [d for d in opened.dictionaries.values() if name in (d.source, d.site.hook)] for name in settings.other
    }
    found = {d.source: d for dictionaries in here.values() for d in dictionaries}
    unknown = tuple(name for name, dictionaries in here.items() if not dictionaries)
    if unknown or not settings.other:
        for dictionary in _read(opened, settings.other_model, unknown, job):
            found[dictionary.source] = dictionary
    return list(found.values())


def _read(opened: OpenSet, model_name: str | None, names: tuple[str, ...], job: Job) -> list[Dictionary]:
    """Dictionaries that are not open, on the open model; those that turn out to be open are not read again."""
    model = opened.model
    known = model.name if model.folder.resolve() == default_model.folder().resolve() else str(model.folder)
    opening = resolve(model_name or known, names, report=job.progress)
    places = [*opening.dictionaries, *(p for wanted in opening.neurons for p in places_for(model, wanted))]
    open_at = {d.place.path.resolve(): d for d in opened.dictionaries.values() if d.place and d.place.form != "neurons"}
    taken = set(opened.dictionaries)
    found = []
    for number, place in enumerate(places):
        job.progress("loading dictionaries", number, len(places))
        job.check()
        if (dictionary := open_at.get(place.path.resolve())) is not None and dictionary.place == place:
            found.append(dictionary)
            continue
        with telling_out_of_memory(f"{place.path} does not fit in memory.", "Compare with fewer dictionaries."):
            dictionary = read(place)
            dictionary = (dictionary.folded() if opened.folded else dictionary).to(model.device, model.dtype)
        check_fit(model, dictionary)
        note_other_model(model, dictionary)
        plain, at = dictionary.source, 2
        while dictionary.source in taken:  # the same name beside what is open, as two runs of one training have
            dictionary.source, at = f"{plain}#{at}", at + 1
        taken.add(dictionary.source)
        found.append(dictionary)
    return found
