"""Models by name: a folder, a Hugging Face id, or a short name of the field, to the folder on this machine.

Needs neither torch nor a network: what is not here is an error at once, with the command that fetches it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import ModelMissing
from engine.hub.local import from_elsewhere, roots
from engine.jsonfile import read_object
from engine.names.model_table import OTHER_IDS, SHORT_NAMES
from engine.text import visible

HOOKED_WEIGHTS = "model_final.pth"
"""The weights of a model that exists only as a TransformerLens checkpoint."""

_REPO = re.compile(r"[\w.-]+/[\w.-]+\Z", re.ASCII)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)\Z", re.ASCII)


@dataclass(frozen=True)
class ModelPlace:
    """A model that can be opened."""

    folder: Path
    name: str
    """As shown, and as Neuronpedia and SAELens call it where they do."""
    repo: str | None
    """Its Hugging Face id, where it is known."""


def known_names() -> tuple[str, ...]:
    """Every short name, sorted: what a command line completes."""
    return tuple(sorted(SHORT_NAMES))


def repo_of(name: str) -> str | None:
    """The Hugging Face id that a name means; None where it is neither a short name nor of the form `ORG/NAME`."""
    if known := _aliases().get(name.casefold()):
        return known
    return name if _REPO.match(name) and not name.startswith(".") else None


def short_name(repo: str) -> str:
    """The field's name of a Hugging Face id, else its last part."""
    return _shortest().get(repo.casefold()) or repo.rpartition("/")[2]


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: `gpt2`, `gpt2-small` and `openai-community/gpt2` do."""
    return _canonical(a) == _canonical(b)


def mismatch(opened: str, made_for: str | None) -> str | None:
    """A sentence where a dictionary says it was made for another model than the one that is open; else None.

    A folder may have any name, so nothing is said of an open model whose name is not known.
    """
    if not made_for or not _is_known(opened) or same_model(opened, made_for):
        return None
    return f"It was made for {visible(made_for)}; the model that is open is {visible(opened)}."


# --- finding it -----------------------------------------------------------------------------------------------------


def find_model(name: str) -> ModelPlace:
    """The model that a folder or a name means, whole and on this machine.

    Raises:
        ModelMissing: it is not here, or part of it is missing; says which part, and how to get it.
    """
    given = Path(name).expanduser()
    if given.is_dir():
        repo = _repo_of_cached(given)
        folder = next(iter(roots(repo)), given) if repo is not None and _CACHED.match(given.name) else given
        check_whole(folder, name if repo is None else repo)
        return ModelPlace(folder, given.resolve().name if repo is None else short_name(repo), repo)
    repo = repo_of(name)
    if repo is None:
        raise ModelMissing(
            f"There is no folder and no model called {visible(name)}.",
            "Give a model folder, a Hugging Face id such as EleutherAI/pythia-70m-deduped, or a name such as "
            "gpt2-small.",
        )
    if not (found := roots(repo)):
        raise ModelMissing(
            f"The model {visible(repo)} is not on this machine.",
            f"Give the folder of a copy. {from_elsewhere(visible(repo), f'saescope get model {visible(name)}')}",
        )
    whole = next((folder for folder in found if _is_whole(folder)), found[0])
    check_whole(whole, repo)
    return ModelPlace(whole, short_name(repo), repo)


def check_whole(folder: Path, name: str) -> None:
    """Refuse a folder in which a part of the model is missing.

    Raises:
        ModelMissing: names the first part that is missing.
    """
    again = "Give a folder written by save_pretrained(); pickled weights are not opened."
    if _REPO.match(name):
        again = f"Fetch it again with `saescope get model {visible(name)}`, or give the folder of a whole copy."
    if not (folder / "config.json").is_file():
        raise ModelMissing(f"{folder} has no config.json.", again)
    if missing := _missing_weights(folder):
        raise ModelMissing(f"{folder} is incomplete: {missing}.", again)
    if not (folder / "tokenizer.json").is_file() and not (folder / HOOKED_WEIGHTS).is_file():
        raise ModelMissing(
            f"{folder} has no tokenizer.json.",
            f"Save a fast tokenizer there with AutoTokenizer.from_pretrained({visible(name)!r}).save_pretrained(…).",
        )


def _is_whole(folder: Path) -> bool:
    try:
        check_whole(folder, folder.name)
    except ModelMissing:
        return False
    return True


def _missing_weights(folder: Path) -> str | None:
    """What is missing of the weights, in words; None where they are all there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = read_object(index)["weight_map"].values()
            here = {file.name for file in folder.iterdir() if file.is_file()}
            absent = sorted({shard for shard in shards if isinstance(shard, str)} - here)
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} cannot be read"
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        return f"of its weights {visible(absent[0])}{more} {'are' if more else 'is'} missing" if absent else None
    if any(file.is_file() for file in folder.glob("*.safetensors")) or (folder / HOOKED_WEIGHTS).is_file():
        return None
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        return "its weights are pickled, which are not opened, and there is no .safetensors file"
    return "it has config.json but no weights"


def _repo_of_cached(folder: Path) -> str | None:
    """The id of a repository from the name of its folder in a Hugging Face cache."""
    parts = folder.absolute().parts
    for part in (parts[-1:], parts[-3:-2]):
        if part and (match := _CACHED.match(part[0])):
            return repo_of(f"{match[1]}/{match[2]}")
    return None


# --- one model, many names ------------------------------------------------------------------------------------------


@cache
def _aliases() -> dict[str, str]:
    """Every name in lower case → its id."""
    table: dict[str, str] = {}
    for repo in SHORT_NAMES.values():
        table[repo.casefold()] = repo
        table.setdefault(repo.rpartition("/")[2].casefold(), repo)
    table |= {name.casefold(): repo for name, repo in {**OTHER_IDS, **SHORT_NAMES}.items()}
    return table


@cache
def _shortest() -> dict[str, str]:
    """Every id in lower case → the first short name that means it."""
    table: dict[str, str] = {}
    for name, repo in SHORT_NAMES.items():
        table.setdefault(repo.casefold(), name)
    return table


def _canonical(name: str) -> str:
    return (repo_of(name) or name).casefold()


def _is_known(name: str) -> bool:
    return name.casefold() in _aliases() or bool(_REPO.match(name))
