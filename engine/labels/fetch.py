"""Neuronpedia's explanations of one source, from its public bucket into the store: all of them or none.

Files that have arrived are kept until the source is whole, so that a download that was broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import quote

import msgspec

from engine.errors import BadRequest, DownloadFailed
from engine.labels.bucket import Object, list_below
from engine.labels.exports import Tally, explanations
from engine.labels.lines import Report
from engine.labels.rows import Row
from engine.labels.store import LabelStore
from engine.paths import cache_dir, private_directory
from engine.web import Patience, Web, base_address, is_source

EXPORTS = "SAESCOPE_EXPORTS"
"""Environment variable: another server with the same tree."""
BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
_INSTEAD = "Fetch the files elsewhere and give their folder to `saescope labels import`."
_ENDINGS = (".jsonl.gz", ".jsonl")


class Fetched(msgspec.Struct, frozen=True):
    """What was fetched."""

    model: str
    source: str
    labels: int
    embeddings: int
    files: int
    bytes: int
    address: str
    notes: tuple[str, ...] = ()
    """What was left out."""


def fetch_labels(
    store: LabelStore, name: str, report: Report | None = None, patience: Patience | None = None
) -> Fetched:
    """Fetch the labels of `MODEL/SOURCE` (Neuronpedia's names) in place of those fetched before.

    Raises:
        BadRequest: the name has another form.
        DownloadFailed: there are none, or they cannot be had; the store is as it was.
        LabelsUnusable: the store cannot be written.
    """
    if not is_source(name):
        raise BadRequest(f"{name!r} is no source of Neuronpedia.", "Write MODEL/SOURCE, e.g. gpt2-small/7-res-jb.")
    model, source = name.split("/")
    base = base_address(EXPORTS, BUCKET)
    prefix = f"v1/{model}/{source}/explanations/"
    report = report or (lambda text, done, total: None)
    with Web(_INSTEAD, patience, report) as web:
        report(f"looking for the labels of {name}", 0, 0)
        objects = [o for o in list_below(web, base, prefix).objects if o.key.endswith(_ENDINGS) and o.size]
        if not objects:
            raise _missing(web, base, model, source)
        folder = private_directory(cache_dir() / "labels" / _digest(f"{base}/{prefix}"))
        files = _download(web, base, objects, folder, name, report)
    tally = Tally()
    address = f"{base}/{prefix}"
    try:
        with store.filling(address) as filling:
            filling.add(_rows(files, tally, (model, source), report))
            if not tally.rows:
                raise BadRequest(f"there are none in it ({', '.join(tally.notes(0)) or 'no rows'})")
    except BadRequest as error:
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be read would be no better the next time
        raise DownloadFailed(
            f"The labels of {name} that {base} has cannot be read: {error.message.rstrip('.')}.",
            "Try again; if it stays, the export itself is damaged.",
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    return Fetched(
        model, source, filling.labels, tally.embeddings, len(files), sum(o.size for o in objects), address,
        tuple(tally.notes(filling.labels)),
    )  # fmt: skip


def _download(
    web: Web, base: str, objects: list[Object], folder: Path, name: str, report: Report
) -> list[tuple[str, Path]]:
    """The files of a listing, with the names they have there; those that are here already are not fetched again."""
    total, before = sum(o.size for o in objects), 0
    files = []
    for each in objects:
        file = folder / _digest(f"{each.key}\0{each.etag}\0{each.size}")  # names from the web name no file here

        def arrived(done: int, before: int = before) -> None:
            report(f"fetching the labels of {name}", before + done, total)

        if not (file.is_file() and file.stat().st_size == each.size):
            web.save(f"{base}/{quote(each.key)}", file, each.size, arrived)
        before += each.size
        files.append((each.key.rpartition("/")[2], file))
    return files


def _rows(files: list[tuple[str, Path]], tally: Tally, place: tuple[str, str], report: Report) -> Iterator[Row]:
    for number, (name, file) in enumerate(files):
        report("storing labels", number, len(files))
        try:
            yield from explanations(file, tally, only=place)
        except BadRequest as error:
            raise BadRequest(error.message.replace(str(file), name), error.remedy) from None
    report("storing labels", len(files), len(files))


def _missing(web: Web, base: str, model: str, source: str) -> DownloadFailed:
    """That a source has no labels, with the names nearest to it."""
    sources = _below(web, base, f"v1/{model}/")
    if source in sources:
        return DownloadFailed(
            f"Neuronpedia has {model}/{source}, but no labels of it.",
            "Write your own with `saescope labels set`, or import a file with `saescope labels import`.",
        )
    if sources:
        near = get_close_matches(source, sources, n=4, cutoff=0.4) or sources[:4]
        names = ", ".join(f"{model}/{each}" for each in near)
        return DownloadFailed(f"Neuronpedia's exports have no source {source} of {model}.", f"There are {names}.")
    models = _below(web, base, "v1/")
    near = get_close_matches(model, models, n=4, cutoff=0.4) or models[:4]
    return DownloadFailed(
        f"Neuronpedia's exports have no model {model}.",
        f"There are {', '.join(near)}." if near else "Check SAESCOPE_EXPORTS: nothing lies there.",
    )


def _below(web: Web, base: str, prefix: str) -> list[str]:
    return [each.removeprefix(prefix).rstrip("/") for each in list_below(web, base, prefix).prefixes]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]
