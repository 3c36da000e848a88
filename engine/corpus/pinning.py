"""Text that stays the same: data sets of the hub at one commit, and what other machines must have of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from engine.corpus import dataset
from engine.corpus.stored import MANIFEST, Manifest, read_manifest
from engine.corpus.text import identity_before_revision, identity_of, placed
from engine.errors import BadRequest


def pinned(text: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The same text with every data set of the hub at a commit: one that is named, else as in `known`, else today's.

    `known` are identities (`identity_of`) of text that was read before. So what goes on reads on in what it began
    with, and what is finished can be looked at without the network. Paths become absolute.

    Raises:
        DownloadFailed: the hub has to be asked and cannot be reached.
    """
    before = [entry for identity in known for entry in identity]
    return tuple(_pinned(name, before) for name in placed(text))


def _pinned(name: str, before: list[str]) -> str:
    if not name.startswith(dataset.SCHEME) or (chosen := dataset.data_set(name)).is_local:
        return name
    if chosen.revision is None:
        start = identity_before_revision(chosen)
        revision = next((e.removeprefix(start) for e in before if e.startswith(start)), None)
    else:
        revision = None
    revision = revision or dataset.revision_of(chosen)
    if not revision or chosen.revision == revision:
        return name
    kept = [part for part in name.partition("?")[2].split("&") if part and not part.startswith("revision=")]
    return f"{name.partition('?')[0]}?{'&'.join([*kept, f'revision={revision}'])}"


def revisions_in(identity: tuple[str, ...]) -> list[str]:
    """The commits of data sets of the hub that an identity names."""
    found = (entry.rpartition(" revision=") for entry in identity if entry.startswith(dataset.SCHEME))
    return [revision for _, mark, revision in found if mark and revision]


def without_times(identity: tuple[str, ...]) -> tuple[str, ...]:
    """An identity that is the same for a copy under the same path, which has its own time."""
    return tuple(_without_time(entry) for entry in identity)


def _without_time(entry: str) -> str:
    start, _, time = entry.rpartition(" ")
    return start if entry.startswith("/") and time.isdigit() else entry


def check_same_text(text: tuple[str, ...], identity: tuple[str, ...]) -> None:
    """Find that a text here is the one that is meant, by the sizes of its files.

    Raises:
        BadRequest: it is missing, or another.
    """
    if without_times(identity_of(text)) != without_times(identity):
        raise BadRequest(f"{', '.join(text)} is other text here.", "Have the same files on all machines.")


def indexes_like(manifest: Manifest, folder: Path) -> list[tuple[Path, Manifest]]:
    """Indexes in the folders of `folder` that differ from `manifest` in their text at most, the newest first."""
    found = []
    for file in folder.glob(f"*/{MANIFEST}"):
        try:
            other = read_manifest(file.parent)
            time = file.stat().st_mtime
        except (BadRequest, OSError):
            continue
        if msgspec.structs.replace(other, text=()) == msgspec.structs.replace(manifest, text=()):
            found.append((time, file.parent, other))
    return [(place, other) for _, place, other in sorted(found, key=lambda one: -one[0])]


def of_same_names(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two identities are of the same files and data sets, changed in between or not."""
    return _names(one) == _names(other)


def _names(identity: tuple[str, ...]) -> list[str]:
    return [
        entry.rpartition(" revision=")[0] if entry.startswith(dataset.SCHEME) else _name(entry) for entry in identity
    ]


def _name(entry: str) -> str:
    parts = entry.rsplit(" ", 2)
    return parts[0] if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit() else entry
