"""Where files of a hub's repositories lie on this machine: a mirror folder, or the cache of huggingface_hub.

The cache's layout is documented: `models--OWNER--NAME/snapshots/COMMIT/FILE`, and `refs/BRANCH` holds a commit. Reading
it here needs no library and can never reach for a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.hub.asked import MAIN
from engine.names.layout import Wanted

MIRROR = "SAESCOPE_MIRROR"
"""Environment variable: a folder that holds repositories as OWNER/NAME."""


@dataclass(frozen=True)
class Located:
    """The files of one dictionary: those that are here, by their name in the repository, and those that are not."""

    files: dict[str, Path]
    missing: tuple[str, ...]


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloaded, by its own environment variables."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(given)).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def repo_folder(repo: str) -> Path:
    """The folder of one repository in that cache."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def from_elsewhere(repo: str, command: str) -> str:
    """How a repository comes to a machine without network: `command` fetches it where there is one."""
    return (
        f"Where there is a network: `{command}`, and copy {repo_folder(repo)} from there; "
        f"or set {MIRROR} to a folder that holds {repo}."
    )


def roots(repo: str, revision: str = MAIN) -> list[Path]:
    """Folders that may hold a repository's files, the best first.

    Behind the newest commit that a branch is known to have come the older ones: what was downloaded before the branch
    moved on is still good.
    """
    found = []
    if given := os.environ.get(MIRROR):
        found.append(Path(given).expanduser() / repo)
    snapshots = repo_folder(repo) / "snapshots"
    try:
        commit = (repo_folder(repo) / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    found.append(snapshots / commit)
    if revision == MAIN and snapshots.is_dir():
        others = [folder for folder in snapshots.iterdir() if folder.is_dir() and folder.name != commit]
        found += sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)
    return [folder for folder in found if folder.is_dir()]


def locate(repo: str, wanted: Iterable[Wanted], revision: str = MAIN) -> Located:
    """The files of one dictionary, all from the same place: the first that holds all it needs."""
    asked = tuple(wanted)
    nearest = Located({}, tuple(want.name for want in asked if not want.optional))
    for root in roots(repo, revision):
        found = _in(root, asked)
        if not found.missing:
            return found
        if len(found.missing) < len(nearest.missing):
            nearest = found
    return nearest


def _in(root: Path, wanted: Iterable[Wanted]) -> Located:
    files: dict[str, Path] = {}
    missing: list[str] = []
    for want in wanted:
        names = [want.name] if want.otherwise is None else [want.name, want.otherwise]
        name = next((name for name in names if (root / name).is_file()), None)
        if name is not None:
            files[name] = root / name
        elif not want.optional:
            missing.append(want.name)
    return Located(files, tuple(missing))
