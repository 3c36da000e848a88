"""What is open: one model, its dictionaries, the BOS rule, and the checks that they belong together."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from engine import default_model
from engine.cards import has_cards
from engine.dictionary import Dictionary
from engine.errors import BadRequest, DictionaryMismatch, PromptTooLong
from engine.formats.neurons import places_for
from engine.formats.read import read
from engine.hashes import model_sha256
from engine.job import Job
from engine.loading import choose_device, open_model
from engine.memory import planning
from engine.memory.residency import PagedDictionary, Shelf, keep
from engine.memory.use import available_bytes, telling_out_of_memory
from engine.model import LanguageModel
from engine.names.models import mismatch
from engine.names.neuronpedia import page_in
from engine.places import Place
from engine.protocol import DictionaryInfo, MemoryPlan, ModelInfo, Open, Provenance
from engine.requests import BosOption
from engine.resolving import ASKED_HOOK, resolve
from engine.sites import parse_hook

_PACKAGES = ("saescope", "torch", "transformers", "transformer-lens")


@dataclass
class OpenSet:
    """A model and the dictionaries that read it, by source."""

    model: LanguageModel
    dictionaries: dict[str, Dictionary]
    bos: bool | None
    """True: prompts begin with BOS; False: they do not; None: as the tokenizer does."""
    sha256: str
    folded: bool = False
    """Activations are f·‖W_dec‖, as Neuronpedia shows them."""
    plan: MemoryPlan | None = None

    # --- dictionaries -------------------------------------------------------------------------------------------

    def find(self, source: str, index: int) -> Dictionary:
        """The dictionary a feature belongs to.

        Raises:
            BadRequest: no such dictionary is open, or the index is not in it.
        """
        if (dictionary := self.dictionaries.get(source)) is None:
            raise BadRequest(f"No dictionary called {source} is open.", f"Open are {self._names}.")
        if not 0 <= index < dictionary.d_sae:
            raise BadRequest(f"{source} has no feature {index}.", f"Its features are 0 to {dictionary.d_sae - 1}.")
        return dictionary

    def choose(self, sources: tuple[str, ...]) -> list[Dictionary]:
        """The dictionaries of these sources in opening order; () means all."""
        if missing := [s for s in sources if s not in self.dictionaries]:
            raise BadRequest(f"No dictionary called {', '.join(missing)} is open.", f"Open are {self._names}.")
        return [d for d in self.dictionaries.values() if not sources or d.source in sources]

    def sources_at(self, site: str) -> tuple[str, ...]:
        """The sources that a source name or a hook name means."""
        found = tuple(d.source for d in self.dictionaries.values() if site in (d.source, d.site.hook))
        if not found:
            raise BadRequest(f"No open dictionary reads {site}.", f"Open are {self._names}.")
        return found

    @property
    def _names(self) -> str:
        return ", ".join(self.dictionaries) or "none"

    # --- prompts ------------------------------------------------------------------------------------------------

    def ids(self, prompt: str, chat: bool) -> list[int]:
        """Token ids of a prompt, by the BOS rule or the chat template."""
        tokenizer = self.model.tokenizer
        if chat:
            return tokenizer.encode(tokenizer.render_chat(prompt), bos=False)
        return tokenizer.encode(prompt, bos=self.bos)

    def checked_ids(self, prompt: str, chat: bool, more: int = 0) -> list[int]:
        """As `ids`, refusing an empty prompt and one that with `more` tokens exceeds the model's context."""
        ids = self.ids(prompt, chat) if prompt else []
        if not ids:
            raise BadRequest("The prompt is empty.", "Type some text.")
        limit = self.model.context
        if len(ids) + more > limit:
            extra = f" and {more} to generate" if more else ""
            over = len(ids) + more - limit
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens{extra}; the model reads {limit}.",
                f"Shorten it by {over} tokens{', or generate fewer' if more else ''}.",
            )
        return ids

    # --- descriptions -------------------------------------------------------------------------------------------

    def info(self) -> ModelInfo:
        """The model as the screen and the session know it."""
        model = self.model
        return ModelInfo(
            name=model.name,
            folder=str(model.folder),
            architecture=type(model.hf).__name__,
            layers=model.layers,
            d_model=model.d_model,
            context=model.context,
            parameters=sum(p.numel() for p in model.hf.parameters()),
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            sha256=self.sha256,
            bos={True: "on", False: "off", None: "tokenizer"}[self.bos],
            chat=model.tokenizer.has_chat_template,
        )

    def provenance(self, dictionaries: list[Dictionary], settings: dict[str, Any]) -> Provenance:
        """What produced a result of these dictionaries."""
        info = self.info()
        return Provenance(
            model=info.name,
            model_sha256=info.sha256,
            dictionaries={d.source: d.sha256 for d in dictionaries},
            hooks={d.source: d.site.hook for d in dictionaries},
            device=info.device,
            dtype=info.dtype,
            bos=info.bos,
            settings=settings,
            versions={name: version(name) for name in _PACKAGES},
            formulas={d.source: d.formula for d in dictionaries},
            notes={d.source: d.notes for d in dictionaries if d.notes},
        )


def open_set(request: Open, job: Job) -> OpenSet:
    """Open what was asked for, fetching the default model where it is not here yet.

    Raises:
        SaescopeError: something is missing, damaged, or does not fit together.
    """
    opening = resolve(request.model, request.dictionaries, download=request.download, report=job.progress)
    folder = opening.model or default_model.ensure(job)
    name = default_model.NAME if opening.model is None else opening.name or folder.name
    job.progress("measuring what it needs")
    device = choose_device(request.device)
    expected = [*opening.dictionaries, *planning.neuron_places(folder, opening.neurons)]
    planned = planning.plan(
        folder, expected, str(device), request.dtype, request.residency, available_bytes(device),
        available_bytes(torch.device("cpu")),
    )  # fmt: skip
    model = open_model(folder, str(device), planned.dtype, name=name, job=job)
    places = [*opening.dictionaries, *(p for wanted in opening.neurons for p in places_for(model, wanted))]
    if not places:
        raise BadRequest(f"No dictionary was named for {name}.", "Add --dictionary, once for each.")
    dictionaries: dict[str, Dictionary] = {}
    shelf = Shelf(planned.resident)
    for number, place in enumerate(places):
        job.progress("loading dictionaries", number, len(places))
        job.check()
        again = partial(_read, place, request.fold)
        with telling_out_of_memory(f"{place.path} does not fit in memory.", "Open fewer dictionaries, or --keep disk."):
            dictionary = again()
        check_fit(model, dictionary)
        note_other_model(model, dictionary)
        dictionary.source = _distinct(dictionary, dictionaries)
        dictionaries[dictionary.source] = keep(dictionary, planned, shelf, model.device, model.dtype, again)
    bos = bos_rule(request.bos, list(dictionaries.values()))
    if bos and model.tokenizer.bos_id is None:
        if request.bos == "on":
            raise BadRequest(f"The tokenizer of {name} has no BOS.", "Leave out --bos on.")
        bos = False
        for dictionary in dictionaries.values():
            dictionary.notes += ("trained on prompts that begin with BOS, which this tokenizer does not have",)
    job.progress("hashing the model")
    opened = OpenSet(model, dictionaries, bos, model_sha256(folder), request.fold, planned)
    gc.collect()
    gc.freeze()  # the libraries' half a million objects need not be walked again
    return opened


def _read(place: Place, fold: bool) -> Dictionary:
    """The dictionary at a place, its decoder norms folded into its activations where that is wanted."""
    dictionary = read(place)
    asked = place.extra.get(ASKED_HOOK)
    if asked is not None and parse_hook(asked) != dictionary.site:
        raise DictionaryMismatch(
            f"{dictionary.source} says that it reads {dictionary.site.hook}, and {asked} was asked for.",
            f"Leave out @{asked}.",
        )
    return dictionary.folded() if fold else dictionary


def _distinct(dictionary: Dictionary, others: Mapping[str, Dictionary]) -> str:
    """Its source, with the folder above it where another one has that name."""
    source = dictionary.source
    if source in others and dictionary.place is not None:
        source = f"{dictionary.place.path.parent.name}-{source}"
    if source in others:
        raise BadRequest(f"Two dictionaries are called {source}.", "Rename one of the folders.")
    return source


def check_fit(model: LanguageModel, dictionary: Dictionary) -> None:
    """Refuse a dictionary of another model before it gives numbers that mean nothing."""
    model.check_site(dictionary.site)
    model.check_site(dictionary.write_site)
    width = model.width(dictionary.site)
    if width != dictionary.d_in:
        raise DictionaryMismatch(
            f"{dictionary.source} reads {dictionary.d_in} numbers per token; "
            f"{dictionary.site.hook} of {model.name} has {width}.",
            f"Open {_its_model(dictionary)}.",
        )
    if dictionary.write_site != dictionary.site and (width := model.width(dictionary.write_site)) != dictionary.d_out:
        raise DictionaryMismatch(
            f"{dictionary.source} writes {dictionary.d_out} numbers per token; "
            f"{dictionary.write_site.hook} of {model.name} has {width}.",
            f"Open {_its_model(dictionary)}.",
        )
    expected = dictionary.metadata.get("vocabulary_sha256")
    if expected and expected != model.tokenizer.vocabulary_sha256:
        raise DictionaryMismatch(
            f"{dictionary.source} was trained with another tokenizer than {model.name} has.",
            f"Open {_its_model(dictionary)}.",
        )


def _its_model(dictionary: Dictionary) -> str:
    said = dictionary.metadata.get("model_name")
    return said if isinstance(said, str) and said else "the model this dictionary was made for"


def note_other_model(model: LanguageModel, dictionary: Dictionary) -> None:
    """Say where a dictionary names another model than the one it is opened with; folders may have any name."""
    said = mismatch(model.name, dictionary.metadata.get("model_name"))
    if said is not None:
        dictionary.notes = (*dictionary.notes, said)


def bos_option(rule: str) -> BosOption:
    """What asks for a BOS rule again, from what `ModelInfo` calls it."""
    return "on" if rule == "on" else "off" if rule == "off" else "auto"


def bos_rule(wanted: str, dictionaries: list[Dictionary]) -> bool | None:
    """Whether prompts start with BOS: as asked, else as the dictionaries were trained, else as the tokenizer does."""
    if wanted != "auto":
        return wanted == "on"
    rules = {d.source: d.metadata["prepend_bos"] for d in dictionaries if d.metadata.get("prepend_bos") is not None}
    if len(set(rules.values())) > 1:
        raise BadRequest(
            f"The dictionaries were trained with different BOS rules: {rules}.",
            "Choose one with --bos on or --bos off.",
        )
    return next(iter(rules.values()), None)


def page_of(dictionary: Dictionary) -> str | None:
    """`model/source` on Neuronpedia; None where its files say nothing, or nothing of that form."""
    return page_in(dictionary.metadata.get("neuronpedia_id"))


def _lies_in(dictionary: Dictionary) -> Path:
    """Its folder, or its own file where several lie in one folder."""
    place = dictionary.place
    return place.path if place is not None and place.path.is_file() else dictionary.folder


def describe(dictionary: Dictionary, plan: MemoryPlan | None = None) -> DictionaryInfo:
    """A dictionary as the screen and the session know it."""
    return DictionaryInfo(
        source=dictionary.source,
        hook=dictionary.site.hook,
        layer=dictionary.site.layer,
        architecture=dictionary.architecture,
        formula=dictionary.formula,
        d_in=dictionary.d_in,
        d_sae=dictionary.d_sae,
        folder=str(_lies_in(dictionary)),
        sha256=dictionary.sha256,
        neuronpedia=page_of(dictionary),
        has_cards=has_cards(dictionary.folder),
        form=dictionary.form,
        notes=dictionary.notes,
        residency=plan.residency if plan is not None and isinstance(dictionary, PagedDictionary) else "device",
        release=dictionary.place.release if dictionary.place else None,
    )
