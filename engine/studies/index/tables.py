"""The corpus index as a result: figures, tables and plots of what a part of it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cards import BEFORE
from engine.corpus.part import IndexPart
from engine.corpus.stored import Progress
from engine.corpus.tables import NO_DOCUMENT, FeatureTable
from engine.corpus.text import LeftOut, name_of_text
from engine.dictionary import Dictionary
from engine.opening import OpenSet
from engine.studies.parts import result_of, table
from engine.study_results import Cell, Column, Histogram, StudyResult, Table
from engine.study_settings.index import Index

_ROWS = 2000
"""Of the table of features, over all dictionaries."""
_EACH = 3
"""Contexts shown of a feature."""
_COMMON = 0.01
"""Features denser than this are seldom about anything; their contexts are not shown."""
_LOWEST, _STEP = -7.0, 0.5


def result_from(
    opened: OpenSet,
    dictionaries: Sequence[Dictionary],
    settings: Index,
    part: IndexPart,
    progress: Progress,
    *,
    whole: bool,
    speed: float | None,
    notes: Sequence[str] = (),
) -> StudyResult:
    """What a part of an index says of the features of `dictionaries`."""
    tables = {d.source: part.tables[d.source] for d in dictionaries}
    for own in tables.values():
        own.settle()
    fired = {source: own.fired.cpu().numpy() for source, own in tables.items()}
    dead = sum(int((f == 0).sum()) for f in fired.values())
    figures: dict[str, Cell] = {
        "tokens": part.tokens,
        "contexts": part.contexts,
        "documents": part.documents,
        "features": sum(map(len, fired.values())),
        "never_fired": dead,
        "tokens_per_second": None if speed is None else round(speed),
        "seconds_reading": round(progress.seconds, 1),
        "folder": settings.folder,
    }
    return result_of(
        opened,
        dictionaries,
        settings,
        f"Corpus index of {name_of_text(settings.text)}",
        figures=figures,
        meanings=_MEANINGS,
        tables=(
            _of_dictionaries(tables, fired),
            _of_features(opened, tables, fired, _ROWS // max(len(tables), 1)),
            _of_contexts(opened, part, tables, fired, settings.top),
            _of_densities(tables, fired),
        ),
        views=(
            Histogram(
                title="How often features fire", table="densities", low="low", high="high", counts=tuple(tables)
            ),
        ),
        notes=(*_notes(settings, part, progress, whole), *notes),
    )  # fmt: skip


_MEANINGS = {
    "tokens": "tokens read, BOS and attention sinks included",
    "contexts": "stretches the model read",
    "documents": "documents that are read to their end",
    "features": "features of the dictionaries",
    "never_fired": "features that fired on no token",
    "tokens_per_second": "tokens read in a second by this run",
    "seconds_reading": "seconds of reading, of all runs together",
    "folder": "where the index is",
}


def _notes(settings: Index, part: IndexPart, progress: Progress, whole: bool) -> Iterator[str]:
    yield "First tokens and attention sinks are left out of everything but the number of tokens read."
    yield "A feature's contexts come from different documents; of a long plain file, each 16,000 characters are one."
    yield from filter(None, [LeftOut(progress.left_out, progress.left_documents).note()])
    if settings.shard is not None:
        state = "the index is whole" if whole else "others are missing"
        yield f"Only shard {settings.shard} of {settings.shards} was read here; {state}."
    if any(own.signed for own in part.tables.values()):
        yield "Activations with a sign count by their size."


def _of_dictionaries(tables: dict[str, FeatureTable], fired: dict[str, NDArray[np.int64]]) -> Table:
    columns = (
        Column("dictionary", "source"),
        Column("features", "count"),
        Column("tokens", "count", "Tokens that count for it."),
        Column("per_token", "number", "Features that fire on a token, on average."),
        Column("never_fired", "count", "Features that fired on no token."),
        Column("median_density", "share", "Of the features that fired, the median share of tokens."),
    )
    rows = []
    for source, own in tables.items():
        alive = fired[source][fired[source] > 0]
        tokens = max(own.counted, 1)
        rows.append(
            [
                source, own.features, own.counted, alive.sum() / tokens, own.features - len(alive),
                float(np.median(alive)) / tokens if len(alive) else None,
            ]
        )  # fmt: skip
    return table("dictionaries", "Dictionaries", columns, rows)


def _of_features(
    opened: OpenSet, tables: dict[str, FeatureTable], fired: dict[str, NDArray[np.int64]], most: int
) -> Table:
    columns = (
        Column("feature", "feature"),
        Column("density", "share", "Share of tokens on which it fires."),
        Column("maximum", "number", "Largest activation."),
        Column("mean", "number", "Mean activation where it fires."),
        Column("token", "token", "The commonest token at the peaks of its contexts."),
        Column("documents", "count", "Documents among its contexts."),
    )
    rows = []
    for source, own in tables.items():
        maximum, total = own.maximum.cpu().numpy(), own.total.cpu().numpy()
        for index in np.argsort(-fired[source], kind="stable")[:most]:
            count = int(fired[source][index])
            rows.append(
                [
                    f"{source}:{index}", count / max(own.counted, 1), maximum[index],
                    total[index] / count if count else None, _peak_token(opened, own, int(index)),
                    int((own.slots["document"][index] != NO_DOCUMENT).sum()),
                ]
            )  # fmt: skip
    return table("features", "Features, those that fire most often first", columns, rows, sum(map(len, fired.values())))


def _peak_token(opened: OpenSet, own: FeatureTable, index: int) -> str | None:
    ids = own.slots["window_ids"][index, :, BEFORE]
    common = Counter(ids[ids >= 0].tolist()).most_common(1)
    return opened.model.tokenizer.token(common[0][0]).text if common else None


def _of_contexts(
    opened: OpenSet, part: IndexPart, tables: dict[str, FeatureTable], fired: dict[str, NDArray[np.int64]], top: int
) -> Table:
    columns = (
        Column("feature", "feature"),
        Column("activation", "number", "At the peak."),
        Column("before", "text", "What stands before the peak."),
        Column("token", "token", "The token of the peak."),
        Column("after", "text", "What stands after it."),
        Column("origin", "text", "What the text calls itself."),
        Column("document", "count", "The number of its document."),
    )
    tokenizer = opened.model.tokenizer
    rows: list[list[Any]] = []
    for source, index in _interesting(tables, fired, top):
        slots = tables[source].slots
        for slot in np.flatnonzero(slots["document"][index] != NO_DOCUMENT)[:_EACH]:
            ids = slots["window_ids"][index, slot]
            before, after = (side[side >= 0].tolist() for side in (ids[:BEFORE], ids[BEFORE + 1 :]))
            rows.append(
                [
                    f"{source}:{index}", slots["window_values"][index, slot, BEFORE], tokenizer.text(before),
                    tokenizer.token(int(ids[BEFORE])).text, tokenizer.text(after),
                    part.origins[slots["origin"][index, slot]], slots["document"][index, slot].item(),
                ]
            )  # fmt: skip
    title = f"Strongest contexts of the features that fire most often, of those on at most {_COMMON:.0%} of tokens"
    return table("contexts", title, columns, rows)


def _interesting(
    tables: dict[str, FeatureTable], fired: dict[str, NDArray[np.int64]], top: int
) -> list[tuple[str, int]]:
    each = max(1, -(-top // max(len(tables), 1)))
    found: list[tuple[str, int]] = []
    for source, own in tables.items():
        rare = np.where(fired[source] <= _COMMON * own.counted, fired[source], 0)
        found += [(source, int(i)) for i in np.argsort(-rare, kind="stable")[:each] if rare[i]]
    return found[:top]


def _of_densities(tables: dict[str, FeatureTable], fired: dict[str, NDArray[np.int64]]) -> Table:
    edges = np.arange(_LOWEST, _STEP / 2, _STEP)
    counts = []
    for source, own in tables.items():
        alive = fired[source][fired[source] > 0]
        logs = np.log10(alive / max(own.counted, 1)).clip(_LOWEST)
        counts.append(np.histogram(logs, edges)[0].tolist())
    first = next((n for n, row in enumerate(zip(*counts, strict=True)) if any(row)), 0)
    columns = (
        Column("low", "signed", "log10 of the share of tokens."),
        Column("high", "signed"),
        *(Column(source, "count", "Features.") for source in tables),
    )
    rows = list(zip(edges[:-1], edges[1:], *counts, strict=True))
    return table("densities", "Features by how often they fire", columns, rows[first:])
