"""Before anything is downloaded: every file there, open to this user, and room for all of it.

Runs in the process that downloads. One short question per file and no second try, so that what stands in the way is
said at once, and with what to do about it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError

from engine.errors import DownloadFailed
from engine.hub.asked import WEIGHT_SUFFIXES, WantedFile, Wish
from engine.hub.local import cache_folder
from engine.hub.refusals import explain

TIMEOUT = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 8)
"""Seconds the hub has to answer a question, unless huggingface_hub's own setting says otherwise."""
_AT_ONCE = 8
_SPARE = 64 << 20
_SETTINGS = (".json", ".yaml", ".yml")
_TOKENIZER = (".model", ".txt", ".jinja")


@dataclass(frozen=True)
class Ready:
    """A file that can be downloaded, or is here already."""

    repo: str
    revision: str
    name: str
    bytes: int
    """What still has to come: 0 where the file is here."""


def check(wishes: Iterable[Wish]) -> list[Ready]:
    """Everything that has to come, after everything that can be asked beforehand.

    Raises:
        DownloadFailed: the hub cannot be reached, a licence or a token is missing, a repository or file is absent,
            or the disk is too full.
    """
    listed = [(wish, file) for wish in wishes for file in (wish.files or _listing(wish))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda pair: _ask(*pair), listed))
    ready = [file for file in found if file is not None]
    check_room(sum(file.bytes for file in ready))
    return ready


def _ask(wish: Wish, file: WantedFile) -> Ready | None:
    """One file's size; None for an optional one that is absent."""
    names = [file.name] if file.otherwise is None else [file.name, file.otherwise]
    for name in names:
        try:
            url = hf_hub_url(wish.repo, name, revision=wish.revision)
            meta = get_hf_file_metadata(url, timeout=TIMEOUT)
        except RemoteEntryNotFoundError as error:
            if file.optional:
                return None
            if name != names[-1]:
                continue
            raise explain(error, wish.repo, name) from None
        except Exception as error:  # whatever a hub, a proxy or a broken line leads to
            raise explain(error, wish.repo, name) from None
        if meta.commit_hash is None or meta.etag is None:
            raise DownloadFailed(
                f"{constants.ENDPOINT} does not answer as a hub of Hugging Face.", "Check HF_ENDPOINT."
            )
        here = try_to_load_from_cache(wish.repo, name, cache_dir=cache_folder(), revision=meta.commit_hash)
        return Ready(wish.repo, wish.revision, name, 0 if isinstance(here, str) else meta.size or 0)
    return None


def _listing(wish: Wish) -> tuple[WantedFile, ...]:
    """The files that a folder, a file with what describes it, or a model needs."""
    try:
        info = HfApi().model_info(wish.repo, revision=wish.revision, timeout=TIMEOUT)
    except Exception as error:  # as above
        raise explain(error, wish.repo, None) from None
    names = [sibling.rfilename for sibling in info.siblings or ()]
    chosen = _of_model(names) if wish.model else _of_folder(names, (wish.folder or "").strip("/"))
    if not any(name.endswith(WEIGHT_SUFFIXES) for name in chosen):
        where = f"{wish.repo}/{wish.folder}" if wish.folder else wish.repo
        what = "model weights" if wish.model else "weights of a dictionary"
        raise DownloadFailed(f"{where} holds no {what} among {len(names)} files.", f"See {_page(wish.repo)}/tree/main.")
    return tuple(WantedFile(name) for name in chosen)


def _of_folder(names: list[str], folder: str) -> list[str]:
    """Weights and settings below a folder, or a file and the settings beside it; settings above them as well."""
    if folder in names:
        parent, _, name = folder.rpartition("/")
        stem = name.rpartition(".")[0]
        beside = [n for n in names if n.rpartition("/")[0] == parent and n.endswith(_SETTINGS)]
        own = [n for n in beside if n.rpartition("/")[2].startswith(stem)]
        return [folder, *(own or beside)]
    inside = f"{folder}/" if folder else ""
    below = [n for n in names if n.startswith(inside) and n.endswith((*WEIGHT_SUFFIXES, *_SETTINGS))]
    parents = {folder.rsplit("/", depth)[0] for depth in range(1, folder.count("/") + 1)} | {""} if folder else set()
    above = [n for n in names if n.rpartition("/")[0] in parents and n.rpartition("/")[2] == "config.json"]
    return [*above, *below]


def _of_model(names: list[str]) -> list[str]:
    """Safetensors where there are any, else what torch saved; nothing of other frameworks and no folders."""
    top = [n for n in names if "/" not in n]
    weights = [n for n in top if n.endswith(".safetensors")] or [n for n in top if n.endswith(WEIGHT_SUFFIXES)]
    return [n for n in top if n.endswith((*_SETTINGS, *_TOKENIZER))] + weights


def check_room(needed: int) -> None:
    """Refuse what the disk of the cache cannot take.

    Raises:
        DownloadFailed: there is too little free.
    """
    folder = cache_folder()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DownloadFailed(
            f"{size(needed)} are to come and {folder} has {size(free)} free.",
            f"Make room, or set HF_HUB_CACHE to another disk (now {cache_folder()}).",
        )


def size(count: int) -> str:
    """A number of bytes as people say it."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _page(repo: str) -> str:
    return f"{constants.ENDPOINT}/{repo}"
