"""From a name to dictionaries on this machine: releases of the registry, short names of a model's sets, `hf://`.

What is not here is an error at once, unless a download was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import BadRequest, DictionaryMissing, DownloadFailed, ModelMissing
from engine.formats.find import find
from engine.hub.asked import MAIN, Report, WantedFile, Wish
from engine.hub.fetch import fetch
from engine.hub.local import Located, from_elsewhere, locate, roots
from engine.jsonfile import read_object
from engine.names import models as model_names
from engine.names.layout import Wanted, files_of, hook_of
from engine.names.neuronpedia import corrected, entries_for_set, model_of, models_with, sets_of
from engine.names.registry import Entry, entries, is_release, look_up, release_of
from engine.places import Place
from engine.text import visible

FORM = "released"
"""The form of a place whose files SAELens' loader of the release explains."""
_SHOWN, _FILES_SHOWN = 4, 2
_REFERENCE = re.compile(r"hf://([^/@]+/[^/@]+)(?:/([^@]*))?(?:@(.+))?\Z")


def find_release(name: str, download: bool, report: Report) -> list[Place]:
    """The dictionaries that `release`, `release/id`, a folder of ids or a pattern means, in the registry's order.

    Raises:
        BadRequest: it is the short name of a set, which means something only with a model.
        DictionaryMissing: no such name, or some of them are not here and were not to be downloaded.
        DownloadFailed: they were, and could not be.
    """
    if not is_release(name) and (known := models_with(name)):
        shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        raise BadRequest(f"{name} is a short name, of dictionaries of {shown}.", f"Add the model: -m {known[0]}.")
    return _places(look_up(name), name, download, report)


def find_for_model(model: str, short: str, download: bool, report: Report) -> list[Place]:
    """The dictionaries that a short name means for a model: `res-jb` or `7-res-jb` for gpt2-small.

    Raises:
        BadRequest: the model has no dictionaries of that name.
        DictionaryMissing, DownloadFailed: as `find_release`.
    """
    known = model_of(model) or model
    found = entries_for_set(known, short)
    if not found and is_release(name := f"{known}-{short}"):
        found = entries(name)
    if not found:
        sets = sets_of(known)
        shown = f"It has {', '.join(sets[:8])}{', …' if len(sets) > 8 else ''}." if sets else ""
        raise BadRequest(f"{model} has no dictionaries called {short!r}.", shown)
    return _places(found, f"{short} of {model}", download, report)


def find_reference(reference: str, download: bool, report: Report) -> list[Place]:
    """The dictionaries in `hf://OWNER/NAME[/FOLDER or FILE][@REVISION]`, in whichever form they are.

    Raises:
        BadRequest: it is not written so.
        DictionaryMissing: it is not here, or holds no dictionary of a form that is known.
        DownloadFailed: it was to be downloaded and could not be.
    """
    repo, folder, revision = parse_reference(reference)
    here = _whole(repo, folder, revision)
    if download:
        try:
            fetch([Wish(repo, revision, folder=folder)], report)
        except DownloadFailed:
            if here is None:
                raise
        here = _whole(repo, folder, revision)
    if here is None:
        where = f"{repo}/{folder}" if folder else repo
        raise DictionaryMissing(f"{visible(where)} is not on this machine.", _remedy(reference, repo))
    return here


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Repository, folder and revision of an `hf://` reference.

    Raises:
        BadRequest: it is not written so.
    """
    match = _REFERENCE.match(reference)
    if match is None or ".." in reference.split("@")[0].split("/"):
        raise BadRequest(
            f"{reference!r} is no reference.", "Write hf://OWNER/NAME/FOLDER, with @REVISION where needed."
        )
    return match[1], (match[2] or "").strip("/"), match[3] or MAIN


def download_model(name: str, report: Report) -> Path:
    """The folder of a model by name, fetched where it is not whole on this machine: settings, tokenizer and weights.

    Raises:
        BadRequest: the name is no model's.
        DownloadFailed: it could not be fetched.
        ModelMissing: what came is no model that can be opened.
    """
    if (repo := model_names.repo_of(name)) is None:
        raise BadRequest(f"{name!r} is no model's name.", "Write OWNER/NAME, or a short name as gpt2-small.")
    if not _model_is_here(repo):
        fetch([Wish(repo, model=True)], report)
    if (tokenizer := _tokenizer_elsewhere(repo)) is not None and locate(tokenizer, (Wanted("tokenizer.json"),)).missing:
        files = (WantedFile("tokenizer.json"), WantedFile("tokenizer_config.json", optional=True))
        fetch([Wish(tokenizer, files=files)], report)
    return model_names.find_model(repo).folder


def _model_is_here(repo: str) -> bool:
    try:
        model_names.find_model(repo)
    except ModelMissing:
        return False
    return True


def _tokenizer_elsewhere(repo: str) -> str | None:
    """The repository whose tokenizer a TransformerLens checkpoint says it uses."""
    for root in roots(repo):
        if not (root / model_names.HOOKED_WEIGHTS).is_file() or (root / "tokenizer.json").is_file():
            continue
        try:
            named = read_object(root / "config.json").get("tokenizer_name")
        except (OSError, ValueError):
            return None
        return named if isinstance(named, str) and "/" in named else None
    return None


# --- places ---------------------------------------------------------------------------------------------------------


def is_here(entry: Entry) -> bool:
    """Whether all files of a published dictionary are on this machine."""
    return not locate(release_of(entry).repo, files_of(entry)).missing


def _places(found: Sequence[Entry], name: str, download: bool, report: Report) -> list[Place]:
    located = [_locate(entry) for entry in found]
    absent = [entry for entry, here in zip(found, located, strict=True) if here.missing]
    if absent and not download:
        raise _absent(absent, len(found), name)
    if absent:
        fetch([_wish(entry) for entry in absent], report)
        located = [_locate(entry) for entry in found]
        if still := [entry for entry, here in zip(found, located, strict=True) if here.missing]:
            raise _absent(still, len(found), name)
    return [_place(entry, here) for entry, here in zip(found, located, strict=True)]


def _locate(entry: Entry) -> Located:
    return locate(release_of(entry).repo, files_of(entry))


def _wish(entry: Entry) -> Wish:
    files = tuple(WantedFile(want.name, want.optional, want.otherwise) for want in files_of(entry))
    return Wish(release_of(entry).repo, files=files)


def _place(entry: Entry, here: Located) -> Place:
    release = release_of(entry)
    weights = tuple(here.files[want.name] for want in files_of(entry) if want.weights)
    neuronpedia = corrected(entry)
    return Place(
        form=FORM,
        path=weights[0].parent,
        source=neuronpedia.split("/", 1)[1] if neuronpedia else re.sub(r"[\s:@/]+", "-", entry.id),
        hook=hook_of(entry),
        neuronpedia=neuronpedia,
        release=entry.name,
        extra={
            "loader": release.loader,
            "model": release.model,
            "repo": release.repo,
            "path": entry.path,
            "norm_scaling_factor": entry.norm_scaling_factor,
            "config_overrides": dict(release.overrides),
            "files": {name: str(path) for name, path in here.files.items()},
        },
        weights=weights,
    )


def _absent(absent: Sequence[Entry], of: int, name: str) -> DictionaryMissing:
    first = absent[0]
    repo = release_of(first).repo
    missing = [file for entry in absent for file in _locate(entry).missing]
    files = ", ".join(missing[:_FILES_SHOWN])
    if len(missing) > _FILES_SHOWN:
        files = f"{len(missing)} files, {files}, …"
    if of == 1:
        message = f"{name} is not on this machine: {repo} holds its {files}."
    else:
        here = of - len(absent)
        count = f"Only {here}" if here else "None"
        verb = "are" if here > 1 else "is"
        message = f"{count} of the {of} dictionaries of {name} {verb} on this machine; {repo} holds {files}."
    return DictionaryMissing(message, _remedy(first.name if of == 1 else first.release, repo))


def _remedy(name: str, repo: str) -> str:
    return from_elsewhere(repo, f"saescope get dictionary {visible(name)}")


def _whole(repo: str, folder: str, revision: str) -> list[Place] | None:
    """The dictionaries of a folder of a repository, from the first place that has their weights."""
    for root in roots(repo, revision):
        if not (root / folder).exists():
            continue
        try:
            found = find(root / folder)
        except DictionaryMissing:
            continue
        if all(weights.is_file() for place in found for weights in place.weights):
            return [_named(place, root, repo) for place in found]
    return None


def _named(place: Place, root: Path, repo: str) -> Place:
    """A dictionary that is the whole repository is called as that, not by the commit its folder is named after."""
    if place.source is None and place.path == root:
        return replace(place, source=repo.split("/")[1])
    return place
