"""The corpus index: builds it or goes on with it, and shows what it says."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from engine import paths
from engine.corpus.build import Plan, build, merge_shards, plan_of, read_part, settle
from engine.corpus.part import IndexPart
from engine.corpus.pinning import indexes_like, of_same_names, revisions_in
from engine.corpus.stored import MANIFEST, STATE, Progress
from engine.corpus.text import name_of_text
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.studies.index.tables import result_from
from engine.studies.measure import Growing
from engine.studies.parts import chosen
from engine.study_results import StudyResult
from engine.study_settings.index import Index

_SHOWN_EVERY = 3.0
"""Seconds between two unfinished results: each sorts all features."""


def measure(opened: OpenSet, settings: Index, growing: Growing) -> StudyResult:
    """Read the text, from where it was left, and say what is known of every feature.

    Raises:
        BadRequest: settings that do not go together, text that cannot be read, a folder of another index, or cards
            that cannot be written.
        DownloadFailed: the hub that has the text cannot be reached.
    """
    dictionaries = chosen(opened, settings.sources)
    shards = _shards(settings)
    if settings.cards:
        check_cards_writable(opened, dictionaries)
    folder = Path(settings.folder).expanduser() if settings.folder else None
    plan = plan_of(
        opened, dictionaries, settings.text, tokens=settings.tokens, context=settings.context,
        contexts=settings.contexts, rows=settings.rows, shards=shards, folder=folder,
    )  # fmt: skip
    notes = [f"The data set is read at revision {revision}." for revision in revisions_in(plan.manifest.text)]
    if folder is None:
        folder = folder_of(plan)
        notes += _left_behind(plan, folder)
    asked = msgspec.structs.replace(settings, folder=str(folder), shards=shards)
    shown = _Shown(opened, dictionaries, asked, growing, notes)
    if settings.ray:
        whole = _on_ray(opened, plan, folder, settings, growing, shown)
    else:
        whole = build(opened, plan, folder, growing.job, shown.told, settings.shard)
    part, progress = shown.latest or read_part(plan, folder, opened)
    if settings.cards and whole:
        from engine.training.feature_cards import write_cards_of

        for dictionary in dictionaries:
            write_cards_of(opened.model, [dictionary], part, dictionary.folder, growing.job)
    return result_from(opened, dictionaries, asked, part, progress, whole=whole, speed=shown.speed, notes=notes)


class _Shown:
    """Shows how far the index is, and remembers it."""

    def __init__(
        self, opened: OpenSet, dictionaries: Sequence[Dictionary], settings: Index, growing: Growing, notes: list[str]
    ) -> None:
        self._notes = notes
        self._opened, self._dictionaries, self._settings, self._growing = opened, dictionaries, settings, growing
        self.latest: tuple[IndexPart, Progress] | None = None
        self._first: tuple[IndexPart, float, int] | None = None
        self._next = time.monotonic() + _SHOWN_EVERY
        self.speed: float | None = None

    def told(self, part: IndexPart, progress: Progress) -> None:
        """A batch more is in the part."""
        now = time.monotonic()
        self.latest = part, progress
        if self._first is None or self._first[0] is not part:
            self._first = part, now, part.tokens
        elif part.tokens > self._first[2]:
            self.speed = (part.tokens - self._first[2]) / (now - self._first[1])
        limit = self._settings.tokens or 0
        self._growing.progress("reading text", min(part.tokens, limit) if limit else part.tokens, limit)
        self._growing.rest()
        if now > self._next and self._growing.is_due:
            self._growing.grown(
                result_from(
                    self._opened,
                    self._dictionaries,
                    self._settings,
                    part,
                    progress,
                    whole=False,
                    speed=self.speed,
                    notes=self._notes,
                )
            )
            took = time.monotonic() - now
            self._next = now + max(_SHOWN_EVERY, 50 * took)


def folder_of(plan: Plan) -> Path:
    """Where an index is kept that was given no folder: named after model, text and a hash of everything else."""
    known = hashlib.sha256(msgspec.json.encode(plan.manifest)).hexdigest()[:8]
    text = re.sub(r"[^\w.-]+", "-", name_of_text(plan.text))[:40].strip("-.")
    model = re.sub(r"[^\w.-]+", "-", plan.manifest.model)
    return paths.data_dir() / "indexes" / f"{model}-{text}-{known}"


def _left_behind(plan: Plan, folder: Path) -> Iterator[str]:
    """What becomes of an index of the same text as it was before, where a new one begins."""
    if (folder / MANIFEST).is_file():
        return
    for other, manifest in indexes_like(plan.manifest, folder.parent):
        if of_same_names(manifest.text, plan.manifest.text):
            yield (
                f"The text has changed since the index in {other}: this one begins anew; delete the other, or name it "
                "with --folder once the text is as it was."
            )


def _shards(settings: Index) -> int:
    if settings.shard is not None and settings.shards is None:
        raise BadRequest("A --shard was named and no number of --shards.", "Give both, e.g. --shards 8 --shard 0.")
    if settings.shard is not None and settings.shards is not None and settings.shard >= settings.shards:
        raise BadRequest(
            f"Of {settings.shards} shards there is none {settings.shard}.", f"They are 0 to {settings.shards - 1}."
        )
    if settings.ray and settings.shard is not None:
        raise BadRequest("With --ray all shards are read.", "Leave out --shard.")
    if settings.workers and not settings.ray:
        raise BadRequest("--workers are those of Ray.", "Add --ray local, or leave it out.")
    if settings.ray and settings.shards is None:
        return 4 * (settings.workers or os.cpu_count() or 1)
    return settings.shards or 1


def _on_ray(opened: OpenSet, plan: Plan, folder: Path, settings: Index, growing: Growing, shown: _Shown) -> bool:
    from engine.corpus.on_ray import read_shards

    if plan.shards == 1:
        raise BadRequest("Ray has nothing to spread in 1 shard.", "Give more --shards, or leave out --ray.")
    folder = folder.resolve()
    settle(folder, plan)
    if not (folder / STATE).is_file():
        growing.progress("starting Ray", 0, plan.shards)

        def told(done: int, _: int) -> None:
            growing.progress("reading shards", done, plan.shards)
            growing.rest()

        read_shards(opened, plan, folder, settings.ray or "", settings.workers, growing.job, told)
        return merge_shards(opened, plan, folder, shown.told)
    return True


def check_cards_writable(opened: OpenSet, dictionaries: Sequence[Dictionary]) -> None:
    """Before the text is read: cards have a place, and are of activations as the dictionaries give them.

    Raises:
        BadRequest: they have not, or are not.
    """
    if opened.folded:
        raise BadRequest("Cards hold activations as the dictionary gives them.", "Leave out --fold.")
    taken: dict[Path, str] = {}
    for dictionary in dictionaries:
        folder, source = dictionary.folder.resolve(), dictionary.source
        if folder.is_relative_to(paths.bundled_sets_dir().resolve()):
            raise BadRequest(
                f"The cards of {source} came with saescope and stay as they are.",
                f"Copy {folder.parent} and open the copy.",
            )
        beside = dictionary.place is not None and dictionary.place.path.is_file() and any(
            other != dictionary.place.path and other.suffix == dictionary.place.path.suffix
            for other in folder.iterdir()
        )  # fmt: skip
        if beside or folder in taken:
            raise BadRequest(
                f"{source} shares its folder with other dictionaries, and a folder has cards for one.",
                "Move it to a folder of its own.",
            )
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise BadRequest(
                f"The cards of {source} belong in {folder}, which cannot be written.",
                "Copy the dictionary to a folder of yours and open the copy.",
            )
        taken[folder] = source
