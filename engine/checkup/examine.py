"""Does a dictionary belong where it is read? Its figures on a sample of text, beside published ones and other hooks.

A dictionary at a wrong hook of the right width encodes and decodes without complaint; only its figures show it.
"""

from __future__ import annotations

from pathlib import Path

from engine.checkup.hooks import try_hooks
from engine.checkup.judging import judge
from engine.checkup.neuronpedia import Neuronpedia
from engine.checkup.results import CheckUp
from engine.checkup.sample import Text, read_text, stretches
from engine.checkup.stored_activations import compare
from engine.checkup.stored_file import StoredFile
from engine.job import Job
from engine.opening import OpenSet, check_fit, open_set
from engine.requests import Open
from engine.training.corpus import Context
from engine.training.evaluate import evaluate

_SPLICED, _TRIED = 4, 4
"""Stretches that losses are measured on, which cost three passes per dictionary, and that other hooks are tried on."""

Stored = StoredFile | Neuronpedia
"""Where stored activations come from."""


def examine(opening: Open, text: Path | None, stored: Stored | None, job: Job) -> tuple[CheckUp, ...]:
    """Open what was asked for and check every dictionary of it.

    Raises:
        SaescopeError: something is missing or does not fit together; a wrong width is refused before any figure.
    """
    chosen = read_text(text)  # before the model, which takes seconds
    if stored is not None:
        stored.check()
    return check_up(open_set(opening, job), chosen, job, stored)


def check_up(opened: OpenSet, text: Text, job: Job, stored: Stored | None = None) -> tuple[CheckUp, ...]:
    """Every open dictionary examined on `text`."""
    contexts, bos = stretches(opened, text, job)
    dictionaries = list(opened.dictionaries.values())
    for dictionary in dictionaries:
        check_fit(opened.model, dictionary)
    # First: a file or a server that is of no use is told before anything is measured.
    few = _some(contexts, _TRIED)
    rows = stored.rows(opened, few, job) if stored is not None else {}
    compared = {d.source: compare(opened, d, rows[d.source], job) for d in dictionaries if d.source in rows}
    # Batches are as long as their longest stretch.
    by_length = sorted(contexts, key=lambda context: len(context.ids))
    figures = evaluate(opened.model, dictionaries, by_length, _some(contexts, _SPLICED), job)
    tried = try_hooks(opened.model, dictionaries, few, job)
    return tuple(
        judge(opened, d, figures[d.source], readings, text.name, bos, compared.get(d.source))
        for d, readings in zip(dictionaries, tried, strict=True)
    )


def _some(contexts: list[Context], count: int) -> list[Context]:
    """So many of the longer ones, evenly from the whole text."""
    longest = max(len(context.ids) for context in contexts)
    longer = [context for context in contexts if 2 * len(context.ids) > longest]
    return longer[:: max(1, len(longer) // count)][:count]
