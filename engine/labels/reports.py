"""What the commands for labels print: one structure for JSON, and the same as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from engine.labels.counting import Counted, Origin
from engine.labels.imports import Imported
from engine.labels.similar import Found
from engine.results import Label
from engine.text import visible

if TYPE_CHECKING:
    from engine.labels.fetch import Fetched


class Search(msgspec.Struct, frozen=True):
    """Labels that were found, in all dictionaries that have any."""

    query: str
    hits: tuple[Found, ...]
    total: int
    like: str | None = None
    """The feature whose label was compared; `query` is that label."""


def search_text(search: Search) -> str:
    """A line per label."""
    hits = [(f"{hit.model}@{hit.source}:{hit.index}", hit) for hit in search.hits]
    width = max((len(visible(name)) for name, _ in hits), default=0)
    lines = [f"{search.like} is “{visible(search.query)}”; labels like it:"] if search.like is not None else []
    for name, hit in hits:
        score = f"{hit.score:.3f}  " if search.like is not None else ""
        made = " ".join(filter(None, (hit.label.by, hit.label.kind)))
        lines.append(
            f"{score}{visible(name):<{width}}  {visible(hit.label.text)}" + f"  ({visible(made)})" * bool(made)
        )
    if not hits:
        lines.append("No label has these words." if search.like is None else "Nothing to compare with.")
    elif search.total > len(hits):
        lines.append(f"{len(hits)} of {search.total:,}; --top shows more.")
    return "\n".join(lines)


def labels_text(labels: Sequence[Label]) -> str:
    """A line per label of one feature."""
    if not labels:
        return "No label."
    return "\n".join(
        f"{visible(label.text)}  ({visible(' '.join(filter(None, (label.by, label.kind))))})" for label in labels
    )


def counts_text(counts: Sequence[Counted], file: str) -> str:
    """A line per dictionary, and below it where its labels are from."""
    if not counts:
        return "There are no labels yet; `saescope get labels MODEL/SOURCE` or `saescope labels import FILE` adds some."
    lines = []
    for each in counts:
        embedded = f", {each.embeddings:,} with embeddings" if each.embeddings else ""
        lines.append(
            f"{visible(each.model)}/{visible(each.source)}  {_some(each.labels, 'label')} of "
            f"{_some(each.features, 'feature')}{embedded}"
        )
        lines += (f"    {_some(labels, 'label')} from {visible(name)}" for name, labels in _gathered(each.origins))
    return "\n".join((*lines, f"in {visible(file)}"))


def imported_text(imported: Sequence[Imported]) -> str:
    """What became of the files: one line for what was kept, one for each file with something to say."""
    labels = sum(each.labels for each in imported)
    places = dict.fromkeys(f"{model}/{source}" for each in imported for model, source in each.places)
    shown = ", ".join(list(places)[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")
    kept = sum(each.labels > 0 for each in imported)
    lines = [f"{_some(labels, 'label')} from {_some(kept, 'file')}: {visible(shown)}"]
    for each in imported:
        lines += (f"{visible(each.file)}: {visible(note)}" for note in each.notes)
        if each.refused:
            lines.append(visible(each.refused))
    return "\n".join(lines)


def fetched_text(fetched: Sequence[Fetched]) -> str:
    """A line per source, and what was left out of it."""
    lines = []
    for each in fetched:
        embedded = f", {each.embeddings:,} with embeddings" if each.embeddings else ""
        lines.append(f"{each.model}/{each.source}  {_some(each.labels, 'label')}{embedded}, {each.bytes / 1e6:.1f} MB")
        lines += (f"    {visible(note)}" for note in each.notes)
    return "\n".join(lines)


def _gathered(origins: Sequence[Origin]) -> list[tuple[str, int]]:
    """Origins, the files of one folder as one."""
    folders: dict[str, list[Origin]] = {}
    for each in origins:
        folders.setdefault(each.name if "://" in each.name else str(PurePath(each.name).parent), []).append(each)
    return [
        (f"{len(group)} files in {name}" if len(group) > 1 else group[0].name, sum(each.labels for each in group))
        for name, group in folders.items()
    ]


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
