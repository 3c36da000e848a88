"""How far dictionary health has come, and the file that keeps it: sums and cursor in one file, renamed into place.

Whatever ends the program, the file holds one moment between two batches, so that nothing is counted twice. What was
read is known by a hash over its token ids: going on reads the same text again and compares.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.dictionary import Dictionary
from engine.errors import BadRequest
from engine.opening import OpenSet
from engine.studies.health.tally import Firing
from engine.studies.measure import Growing
from engine.study_settings.health import Health
from engine.training.corpus import Context

_FORM = 1
_REST_EVERY = 50
"""Contexts that are passed over between two looks at whether something else is asked."""


@dataclass
class Spread:
    """Contexts taken evenly from a stream whose length is not known: every second one goes when there are too many."""

    limit: int
    """Tokens kept at most, a first context apart."""
    stride: int = 1
    kept: list[tuple[int, Context]] = field(default_factory=list)
    """With their number in the stream."""

    def offer(self, number: int, context: Context) -> None:
        """Take a context or leave it."""
        if not self.limit or number % self.stride:
            return
        self.kept.append((number, context))
        while len(self.kept) > 1 and sum(len(c.ids) for _, c in self.kept) > self.limit:
            self.stride *= 2
            self.kept = [(n, c) for n, c in self.kept if n % self.stride == 0]

    @property
    def contexts(self) -> list[Context]:
        return [context for _, context in self.kept]


@dataclass
class State:
    """Between two batches: what was read, the sums, and the losses measured since."""

    firings: list[Firing]
    spread: Spread
    read: int = 0
    """Contexts."""
    tokens: int = 0
    """All tokens of them, those that do not count too."""
    digest: str = ""
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Nats per token and tokens, by `plain` or `SOURCE HOW`."""

    def take(self, contexts: list[Context]) -> None:
        """Move the cursor behind these; losses measured before no longer fit."""
        for context in contexts:
            self.spread.offer(self.read, context)
            self.read += 1
            self.tokens += len(context.ids)
            self.digest = _chained(self.digest, context)
        self.losses.clear()


def fresh(dictionaries: list[Dictionary], settings: Health) -> State:
    """Nothing read yet."""
    return State([Firing(d) for d in dictionaries], Spread(settings.loss_tokens))


def identity(opened: OpenSet, settings: Health, dictionaries: list[Dictionary]) -> dict[str, Any]:
    """All that must be the same for going on, by what it is called where it is not; more tokens may be read, and tables
    made with other thresholds."""
    info = opened.info()
    return {
        "another model": [info.name, info.sha256],
        "other dictionaries": [[d.source, d.sha256, d.site.hook, d.formula, d.d_sae] for d in dictionaries],
        "another precision": [info.dtype, opened.folded],
        "another BOS rule": info.bos,
        "contexts of another length": settings.context,
        "losses on another number of tokens": settings.loss_tokens,
    }


def check_writable(file: Path) -> None:
    """Raises BadRequest where the state could not be kept there; found out before hours of work."""
    if file.is_dir():
        raise BadRequest(f"{file} is a folder.", "Name a file to keep the state in.")
    if not file.parent.is_dir():
        raise BadRequest(f"There is no folder {file.parent}.", "Make it, or name another file.")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise BadRequest(f"{file} cannot be written.", "Name a file where you may write.")


def save(file: Path, same: dict[str, Any], state: State) -> None:
    """Write the state; the file appears whole or not at all.

    Raises:
        BadRequest: it cannot be written.
    """
    kept = state.spread.kept
    header = {
        "form": _FORM,
        "identity": same,
        "read": state.read,
        "tokens": state.tokens,
        "digest": state.digest,
        "losses": state.losses,
        "stride": state.spread.stride,
        "kept": [[number, context.source, context.document, len(context.ids)] for number, context in kept],
    }
    arrays: dict[str, Any] = {
        f"{place}.{name}": array
        for place, firing in enumerate(state.firings)
        for name, array in firing.arrays().items()
    }
    arrays["ids"] = np.concatenate([np.zeros(0, np.int32), *(context.ids for _, context in kept)])
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as out:
            np.savez(out, **arrays)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise BadRequest(
            f"{file} cannot be written: {error.strerror or error}.", "Make room, or name another."
        ) from None


def load(file: Path, same: dict[str, Any], state: State) -> None:
    """Bring a fresh state to where the file is; a file that is not there leaves it as it is.

    Raises:
        BadRequest: the file is something else or damaged, or was made from another model, dictionaries or settings.
    """
    if not file.exists():
        return
    try:
        with np.load(file, allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            if header["form"] != _FORM:
                raise ValueError("another form")
            different = [what for what, value in same.items() if header["identity"].get(what) != value]
            if not different:
                _restore(state, header, {name: stored[name] for name in stored.files})
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile):
        raise BadRequest(
            f"{file} is no state of this study, or is damaged.", "Delete it, or name another file."
        ) from None
    if different:
        raise BadRequest(
            f"{file} was made with {' and '.join(different)}.",
            "Open and set what it was made with, or name another file.",
        )


def _restore(state: State, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    for place, firing in enumerate(state.firings):
        firing.restore({name.partition(".")[2]: a for name, a in arrays.items() if name.startswith(f"{place}.")})
    ends = np.cumsum([length for *_, length in header["kept"]])
    pieces = np.split(arrays["ids"], ends[:-1]) if len(ends) else []
    state.spread.kept = [
        (number, Context(source, document, ids))
        for (number, source, document, _), ids in zip(header["kept"], pieces, strict=True)
    ]
    state.spread.stride = int(header["stride"])
    state.read, state.tokens, state.digest = int(header["read"]), int(header["tokens"]), str(header["digest"])
    state.losses = {name: (float(loss), int(count)) for name, (loss, count) in header["losses"].items()}


def pass_over(stream: Iterator[Context], state: State, file: Path, growing: Growing) -> None:
    """Take from the stream what was read before.

    Raises:
        Cancelled: nothing is changed.
        BadRequest: it is other text, or less.
    """
    digest = ""
    tokens = 0
    for number in range(state.read):
        if number % _REST_EVERY == 0:
            growing.rest()
            growing.progress("finding the place in the text", tokens, state.tokens)
        if (context := next(stream, None)) is None:
            raise BadRequest(
                f"{file} was made from more text than is to be read now.", "Read as many tokens, or name another file."
            )
        digest = _chained(digest, context)
        tokens += len(context.ids)
    if digest != state.digest:
        raise BadRequest(f"{file} was made from other text.", "Give the same text, or name another file.")


def _chained(digest: str, context: Context) -> str:
    return hashlib.sha256(digest.encode() + context.ids.tobytes()).hexdigest()
