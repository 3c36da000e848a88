"""Stored activations of a few features, asked of Neuronpedia's public API.

`GET /api/feature/{modelId}/{source}/{index}` answers with a feature's row, its `activations` among it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import torch
from torch import Tensor

from engine.checkup.stored_rows import RowReader, StoredRows
from engine.dictionary import Dictionary
from engine.errors import BadRequest, DownloadFailed
from engine.job import Job
from engine.model import LanguageModel
from engine.opening import OpenSet, page_of
from engine.text import visible
from engine.training.corpus import Context, batches
from engine.web import NotThere, Patience, Web, base_address, is_source

SERVER = "SAESCOPE_NEURONPEDIA"
"""Environment variable: another server with the same API."""
_SITE = "https://www.neuronpedia.org"
_INSTEAD = "Fetch an export elsewhere and give its file with --activations."
_LARGEST = 8 << 20
"""A feature with all its texts is a few hundred kB."""
_FEATURES = 8
_TEXTS = 3
"""Of each feature, from its strongest to its weakest."""
_MISSING = 4
"""So many features in a row that are not there, and the source has none."""
_PATIENCE = Patience(attempts=3, longest_pause=60, read=15, whole=60)


class _Unreadable(Exception):
    """An answer that is not about the feature that was asked for."""


@dataclass(frozen=True)
class Neuronpedia:
    """The site, or a server like it."""

    patience: Patience = _PATIENCE

    def check(self) -> None:
        """Refuse an address that is none before anything is opened."""
        base_address(SERVER, _SITE)

    def rows(self, opened: OpenSet, contexts: list[Context], job: Job) -> dict[str, StoredRows]:
        """Rows of a few features of every dictionary that has a page there; of the others, why there are none.

        The features are those that fire on `contexts`, from rare to dense. Where the server breaks off, what it gave
        is used and that is said.

        Raises:
            BadRequest: no dictionary has a page.
            DownloadFailed: the server gave nothing at all.
        """
        base = base_address(SERVER, _SITE)
        pages = {d.source: page for d in opened.dictionaries.values() if (page := page_of(d)) and is_source(page)}
        if not pages:
            raise BadRequest(
                "Neuronpedia's name of these dictionaries is not known: their files have no neuronpedia_id.",
                "Give a file of stored activations instead.",
            )
        having = [opened.dictionaries[source] for source in pages]
        counts = _counts(opened.model, having, contexts, job)
        reader = RowReader(opened.model.tokenizer, opened.model.context)
        host = urlsplit(base).netloc
        found = {
            source: StoredRows(host, why="its files name no page on Neuronpedia") for source in opened.dictionaries
        }
        broken: DownloadFailed | None = None
        with Web(_INSTEAD, self.patience, job.progress) as web:
            for dictionary, count in zip(having, counts, strict=True):
                asking = _Asking(web, f"{base}/api/feature", pages[dictionary.source], dictionary, reader, job)
                if broken is None:
                    broken = asking.ask(_spread(count))
                    asking.into(found[dictionary.source], broken)
                else:
                    found[dictionary.source].why = f"{host} was not asked any more"
        if broken is not None and not any(rows.rows for rows in found.values()):
            raise broken
        return found


class _Asking:
    """Asks for one dictionary's features and counts what came."""

    def __init__(self, web: Web, address: str, page: str, dictionary: Dictionary, reader: RowReader, job: Job) -> None:
        self._web, self._dictionary, self._reader, self._job = web, dictionary, reader, job
        self._page = page
        model, source = page.split("/")
        self._address = f"{address}/{quote(model, safe='')}/{quote(source, safe='')}"
        self._records: list[dict[str, Any]] = []
        self._given = self._missing = self._silent = 0
        self._unreadable: list[str] = []

    def ask(self, indices: list[int]) -> DownloadFailed | None:
        """Ask until enough features came; what ended it early, if something did."""
        for index in indices:
            if self._given >= _FEATURES or (self._missing >= _MISSING and not self._given + self._silent):
                break
            self._job.check()
            self._job.progress(f"asking Neuronpedia about {self._page}", self._given, _FEATURES)
            try:
                texts = self._texts(index)
            except NotThere:
                self._missing += 1
            except _Unreadable as error:
                self._unreadable.append(str(error))
                if len(self._unreadable) > 1 and not self._given:
                    return DownloadFailed(f"{urlsplit(self._address).netloc} {error}.", _INSTEAD)
            except DownloadFailed as error:
                return error
            else:
                self._given += bool(texts)
                self._silent += not texts
                self._records += texts
        return None

    def into(self, rows: StoredRows, broken: DownloadFailed | None) -> None:
        """Hand over the rows, with what is missing."""
        for record in self._records:
            rows.add(self._reader.read(record, self._dictionary))
        said = [
            f"{number} {'feature' if number == 1 else 'features'} of {self._page} {what}"
            for number, what in (
                (self._missing, "not there"), (self._silent, "without stored activations"),
                (len(self._unreadable), f"with an answer that is of no use: it {(self._unreadable or [''])[0]}"),
            )
            if number
        ]  # fmt: skip
        if broken is not None:
            said.append(f"it broke off after {self._given} of {_FEATURES} features: {broken.message.rstrip('.')}")
        rows.notes = tuple(said)
        if rows.skipped and not rows.rows:
            rows.why = f"the tokens of its {rows.skipped} texts are not those of this model"
        else:
            rows.why = "; ".join(said) or f"no feature of {self._dictionary.source} fires on the sample"

    def _texts(self, index: int) -> list[dict[str, Any]]:
        """A few texts of a feature on which it fires, strongest first."""
        body = self._web.text(f"{self._address}/{index}", {}, _LARGEST, "a feature")
        try:
            feature = json.loads(body)
        except (ValueError, RecursionError):
            raise _Unreadable("answers with something that is no JSON") from None
        if not feature:
            raise NotThere("There is no such feature.")
        if not isinstance(feature, dict):
            raise _Unreadable("answers with JSON of another form")
        for key, asked in zip(("modelId", "layer", "index"), (*self._page.split("/"), str(index)), strict=True):
            if str(feature.get(key)) != asked:
                said = visible(str(feature.get(key))[:40])
                raise _Unreadable(f"answers about another feature ({key} is {said}, not {asked})")
        texts = feature.get("activations")
        if not isinstance(texts, list):
            raise _Unreadable("answers without activations")
        firing = [(strongest, text) for text in texts if isinstance(text, dict) and (strongest := _strongest(text)) > 0]
        firing.sort(key=lambda pair: -pair[0])
        return [{**firing[place][1], "index": index} for place in _places(len(firing), _TEXTS)]


def _strongest(text: dict[str, Any]) -> float:
    values = text.get("values")
    numbers = values if isinstance(values, list) else []
    return max((v for v in numbers if isinstance(v, int | float) and not isinstance(v, bool)), default=0.0)


def _counts(model: LanguageModel, dictionaries: list[Dictionary], contexts: list[Context], job: Job) -> list[Tensor]:
    """On how many tokens every feature fires [d_sae], first tokens left out."""
    counts = [torch.zeros(d.d_sae, dtype=torch.long) for d in dictionaries]
    sites = {d.site for d in dictionaries}
    with torch.inference_mode():
        for ids, group in batches(contexts, 4):
            caught = model.capture(torch.from_numpy(ids).to(model.device, torch.long), sites, job)
            for dictionary, count in zip(dictionaries, counts, strict=True):
                for x, context in zip(caught[dictionary.site], group, strict=True):
                    read = x[: len(context.ids)].flatten(1).float()
                    count += (dictionary.encode(read, whole=True)[1:] != 0).sum(0).cpu()
    return counts


def _spread(count: Tensor) -> list[int]:
    """Features that fire, spread from the rarest to the densest: first as many as are wanted, then as many again."""
    order = torch.argsort(count, stable=True)
    firing = order[count[order] > 0].tolist()
    places = _places(len(firing), 2 * _FEATURES)
    return [int(firing[place]) for place in (*places[::2], *places[1::2])]


def _places(length: int, wanted: int) -> list[int]:
    """At most so many places of a list, evenly from the first to the last."""
    if length <= wanted:
        return list(range(length))
    return [place * (length - 1) // (wanted - 1) for place in range(wanted)]
