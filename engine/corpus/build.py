"""Building a corpus index in a folder: from where it was left, kept every few seconds, in one piece or in shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine import paths
from engine.corpus.blocks import Block, ahead, blocks_of
from engine.corpus.part import IndexPart, merge
from engine.corpus.pinning import indexes_like, pinned
from engine.corpus.reading import Batch, read_batches
from engine.corpus.stored import (
    MANIFEST,
    SHARDS,
    STATE,
    Indexed,
    Manifest,
    Progress,
    StateFile,
    alone,
    check_free,
    read_manifest,
    settle_in,
    write_state,
)
from engine.corpus.text import documents_of, identity_of
from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.interrupts import interrupts_later
from engine.job import Job
from engine.opening import OpenSet

KEPT_EVERY = 30.0
"""Seconds of reading that a kill may cost; more where keeping takes so long that it would be noticed."""
_SHARE_OF_TIME = 50
_PATIENCE = 5.0
"""Seconds to wait for who has a folder only to settle in or to find that shards are missing."""

Told = Callable[[IndexPart, Progress], None]
"""Hears how far the index is, after every batch."""


@dataclass(frozen=True)
class Plan:
    """An index that is to be built."""

    text: tuple[str, ...]
    """Paths are absolute, data sets of the hub at one commit: another process reads the same."""
    manifest: Manifest

    @property
    def shards(self) -> int:
        return self.manifest.shards


def plan_of(
    opened: OpenSet,
    dictionaries: Sequence[Dictionary],
    text: tuple[str, ...],
    *,
    tokens: int | None,
    context: int,
    contexts: int,
    rows: int,
    shards: int = 1,
    folder: Path | None = None,
) -> Plan:
    """What is to be read by what, with everything that decides the result.

    A data set without a commit is read at the one that the index in `folder` was begun with, or that of an index in
    the user's place with these settings; today's where there is none.

    Raises:
        BadRequest: text that is not there.
        DownloadFailed: the hub has to be asked and cannot be reached.
    """
    info = opened.info()
    manifest = Manifest(
        model=info.name,
        model_sha256=info.sha256,
        dtype=info.dtype,
        bos=info.bos,
        folded=opened.folded,
        dictionaries={d.source: Indexed(d.sha256, d.site.hook, d.d_sae, d.signed) for d in dictionaries},
        text=(),
        tokens=tokens,
        context=min(context, opened.model.context),
        contexts=contexts,
        rows=rows,
        shards=shards,
    )
    if folder is None:
        known = [like.text for _, like in indexes_like(manifest, paths.data_dir() / "indexes")]
    else:
        known = [read_manifest(folder).text] if (folder / MANIFEST).is_file() else []
    text = pinned(text, known)
    return Plan(text, msgspec.structs.replace(manifest, text=identity_of(text)))


def build(opened: OpenSet, plan: Plan, folder: Path, job: Job, told: Told, shard: int | None = None) -> bool:
    """Read what is not read yet; whether the whole index is there.

    In one piece, or all shards one after another, or one `shard`; whoever finishes the last one merges them.
    Interrupted at any moment, what is kept is a whole state, and the next call goes on from there.

    Raises:
        BadRequest: the folder holds another index, or somebody is building this one.
        Cancelled, KeyboardInterrupt: what was read until then is kept.
    """
    if plan.shards == 1:
        return build_share(opened, plan, folder, job, told).finished
    settle(folder, plan)
    if (folder / STATE).is_file():
        told(*read_part(plan, folder, opened))
        return True
    for number in range(plan.shards) if shard is None else (shard,):
        build_share(opened, plan, shard_folder(folder, number), job, told, number)
    return merge_shards(opened, plan, folder, told)


def settle(folder: Path, plan: Plan) -> None:
    """Make a folder that of an index in shards, before any of them is read. Raises BadRequest: it is not free."""
    check_free(folder)
    with alone(folder, _PATIENCE):
        settle_in(folder, plan.manifest)


def shard_folder(folder: Path, number: int) -> Path:
    """Where a shard is kept until all are there."""
    return folder / SHARDS / f"{number:04d}"


def build_share(opened: OpenSet, plan: Plan, folder: Path, job: Job, told: Told, number: int = 0) -> Progress:
    """Read one shard (the whole text where there is one) into a folder of its own."""
    if plan.shards == 1:
        check_free(folder)
    with alone(folder):
        if plan.shards == 1:
            settle_in(folder, plan.manifest)
        part, progress = read_part(plan, folder, opened)
        if progress.finished:
            told(part, progress)
            return progress
        keeper = _Keeper(folder, part, progress)
        try:
            for batch, after in _batches(opened, plan, progress, number, job):
                with interrupts_later(), keeper.adding():
                    if batch is not None:
                        part.add(batch)
                    else:
                        part.documents = after.documents
                    keeper.passed(after)
                told(part, keeper.progress)
            if not part.contexts and plan.shards == 1:
                raise BadRequest(
                    "The text holds no stretch of 16 tokens or more.", "Give more or longer text with --text."
                )
        except BaseException:
            with interrupts_later():
                keeper.keep_if_whole()
            raise
        with interrupts_later():
            keeper.keep(finished=True)
        told(part, keeper.progress)
        return keeper.progress


def merge_shards(opened: OpenSet, plan: Plan, folder: Path, told: Told) -> bool:
    """Make one index of all shards; False where one of them is not whole yet."""
    with alone(folder, _PATIENCE):
        if (folder / STATE).is_file():  # another process came first
            told(*read_part(plan, folder, opened))
            return True
        files = [shard_folder(folder, number) / STATE for number in range(plan.shards)]
        if not all(file.is_file() and StateFile(file).progress.finished for file in files):
            return False
        whole: IndexPart | None = None
        progress = Progress()
        for file in files:
            part, own = read_part(plan, file.parent, opened)
            whole = part if whole is None else merge(whole, part)
            progress = together(progress, own)
        assert whole is not None
        write_part(folder, whole, progress)
        shutil.rmtree(folder / SHARDS, ignore_errors=True)
        told(whole, progress)
        return True


def together(one: Progress, other: Progress) -> Progress:
    """How far two finished shards are, as one."""
    return Progress(
        tokens=one.tokens + other.tokens,
        contexts=one.contexts + other.contexts,
        documents=one.documents + other.documents,
        blocks=max(one.blocks, other.blocks),
        document=max(one.document, other.document),
        left_out=one.left_out + other.left_out,
        left_documents=one.left_documents + other.left_documents,
        seconds=one.seconds + other.seconds,
        finished=True,
    )


def write_part(folder: Path, part: IndexPart, progress: Progress) -> Progress:
    """Keep a part with how far it is; the progress as it was written."""
    arrays = part.arrays()  # before the names of texts: what is not used is let go
    progress = msgspec.structs.replace(
        progress,
        tokens=part.tokens,
        contexts=part.contexts,
        documents=part.documents,
        origins=tuple(part.origins),
    )
    write_state(folder / STATE, arrays, progress)
    return progress


def read_part(plan: Plan, folder: Path, opened: OpenSet) -> tuple[IndexPart, Progress]:
    """What a folder holds, or an empty part where it holds nothing yet."""
    manifest = plan.manifest
    device = opened.model.device
    if not (folder / STATE).is_file():
        return IndexPart.empty([opened.dictionaries[s] for s in manifest.dictionaries], manifest.contexts, device), (
            Progress()
        )
    file = StateFile(folder / STATE)
    signed = {source: indexed.signed for source, indexed in manifest.dictionaries.items()}
    try:
        part = IndexPart.of_arrays(file.arrays(), signed, device, file.progress.origins)
    except (KeyError, ValueError) as error:
        raise BadRequest(f"{file.file} is damaged: {error}.", "Delete its folder and make it again.") from None
    part.tokens, part.contexts = file.progress.tokens, file.progress.contexts
    part.documents = file.progress.documents
    return part, file.progress


class _Keeper:
    """Writes a part down every now and then, with how far it is."""

    def __init__(self, folder: Path, part: IndexPart, progress: Progress) -> None:
        self._folder, self._part = folder, part
        self.progress = progress
        self._wait = KEPT_EVERY
        self._kept = self._ticked = time.monotonic()
        self._whole = True

    @contextmanager
    def adding(self) -> Iterator[None]:
        """What fails in here leaves a part that is no longer kept."""
        self._whole = False
        yield
        self._whole = True
        if self._ticked - self._kept > self._wait:
            self.keep()

    def keep_if_whole(self) -> None:
        if self._whole and self._part.contexts:
            self.keep()

    def passed(self, after: Progress) -> None:
        """So far the part has come now."""
        now = time.monotonic()
        seconds = self.progress.seconds + now - self._ticked
        self._ticked = now
        self.progress = msgspec.structs.replace(
            after, seconds=seconds, tokens=self._part.tokens, contexts=self._part.contexts
        )

    def keep(self, *, finished: bool = False) -> None:
        started = time.monotonic()
        self.progress = msgspec.structs.replace(self.progress, finished=finished)
        self.progress = write_part(self._folder, self._part, self.progress)
        self._kept = time.monotonic()
        self._wait = max(KEPT_EVERY, _SHARE_OF_TIME * (self._kept - started))


def _batches(
    opened: OpenSet, plan: Plan, progress: Progress, number: int, job: Job
) -> Iterator[tuple[Batch | None, Progress]]:
    """Every batch that is not in yet with how far it brings the part; None where a block is at its end."""
    manifest = plan.manifest
    dictionaries = [opened.dictionaries[source] for source in manifest.dictionaries]
    blocks: Iterator[Block] = blocks_of(
        opened,
        documents_of(plan.text, progress.document),
        manifest.context,
        manifest.tokens,
        share=(number, manifest.shards),
        number=progress.blocks,
        document=progress.document,
        passed=progress.passed,
    )
    done = progress.batches
    documents = progress.documents
    for block in ahead(blocks, job):
        left = block.contexts[done * manifest.rows :]
        for batch in read_batches(opened.model, dictionaries, left, job, manifest.rows):
            done += 1
            yield batch, msgspec.structs.replace(progress, batches=done, documents=documents)
        documents += block.documents
        progress = msgspec.structs.replace(
            progress, blocks=block.number + 1, batches=0, document=block.end, passed=block.passed, documents=documents,
            left_out=progress.left_out + block.left_out.tokens,
            left_documents=progress.left_documents + block.left_out.documents,
        )  # fmt: skip
        done = 0
        yield None, progress
