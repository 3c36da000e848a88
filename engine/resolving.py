"""The one way in: what a model and dictionaries, as a user names them, mean on this machine.

A dictionary is a folder of any known form (`FOLDER@HOOK` where its files do not say what it reads), a release of
SAELens' registry or one id of it, the short name of a set of the model's (`res-sm`), an `hf://` reference, or raw
neurons (`neurons:mlp_post`). Nothing here reads weights or imports torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine import default_model, sets
from engine.errors import BadRequest, DictionaryMissing, ModelMissing
from engine.formats.find import find
from engine.names import models as model_names
from engine.places import Place
from engine.sets import FIELD_SETS, SHORT
from engine.sites import parse_hook

Report = Callable[[str, int, int], object]
NEURONS = "neurons:"

ASKED_HOOK = "asked_hook"
"""In a place's `extra`: the hook that the user named. What the files say otherwise is refused where they are read."""


@dataclass(frozen=True)
class Opening:
    """What is to be opened; a model of None is the default model, which may still have to be fetched."""

    model: Path | None
    dictionaries: tuple[Place, ...]
    name: str | None = None
    """What the model is called, where that is not its folder's name."""
    neurons: tuple[str, ...] = ()
    """Kinds of sites, or hooks, whose raw neurons are wanted; how many there are only the model knows."""


def nothing(text: str, done: int, total: int) -> None:
    """Reports to nobody."""


def resolve(
    model: str | None, dictionaries: Sequence[str], *, download: bool = False, report: Report = nothing
) -> Opening:
    """What a model and dictionaries mean together.

    Raises:
        BadRequest: a model without dictionaries, or a name that means nothing.
        ModelMissing: a model that is not on this machine.
        DictionaryMissing: a dictionary that is not, or a folder that holds none.
        DownloadFailed: it was to be fetched and could not be.
    """
    if "" in dictionaries or (model == "" and dictionaries):
        raise BadRequest("An empty name names nothing.", "Give a folder or a name.")
    if not dictionaries:
        if model is None or sets.is_set(model):
            return _open_set(model or sets.DEFAULT_SET)
        assert model is not None
        dictionaries = _usual(model)
    base = _open_set(model) if model is not None and sets.is_set(model) else None
    if model == default_model.NAME and not Path(model).is_dir():
        base = Opening(None, ())
    place = _find_model(model, download, report) if model is not None and base is None else None
    neurons = tuple(given.removeprefix(NEURONS) for given in dictionaries if given.startswith(NEURONS))
    known = place.name if place is not None else None
    places = [p for d in dictionaries if not d.startswith(NEURONS) for p in _places(d, known, download, report)]
    if place is None and base is None and (made_for := _made_for(places)) is not None:
        place = _find_model(made_for, download, report)
    if place is None:
        return Opening(base.model if base else None, tuple(places), neurons=neurons)
    return Opening(place.folder, tuple(places), place.name, neurons)


# --- sets ---------------------------------------------------------------------------------------------------------


def _open_set(name: str) -> Opening:
    folder, content = sets.read_set(name)
    places = tuple(place for each in content.dictionaries for place in find(folder / each))
    return Opening(None if content.model == sets.DEFAULT_MODEL else Path(content.model), places)


def _usual(model: str) -> tuple[str, ...]:
    """The dictionaries that go without saying for a model.

    Raises:
        BadRequest: there are none.
    """
    is_folder = model != "" and Path(model).expanduser().is_dir()
    repo = model_names.repo_of(model)
    name = model_names.short_name(repo) if repo else None
    if not is_folder and name in FIELD_SETS:
        return FIELD_SETS[name]
    here = ", ".join([*(info.name for info in sets.all_sets()), *FIELD_SETS])
    if is_folder or name in model_names.known_names():
        raise BadRequest(f"Which dictionaries for {model}?", f"Add --dictionary, once for each.{_known_sets(name)}")
    if "/" in model:
        raise ModelMissing(
            f"There is no folder {model}, nor dictionaries that go without saying for a model of that name.",
            f"Give a local model folder or a name, and --dictionary. Sets here: {here}.",
        )
    raise BadRequest(f"There is no set called {model!r}.", f"{_near(model, _openable())}Sets here: {here}.")


def _known_sets(name: str | None) -> str:
    if name is None:
        return ""
    from engine.names.neuronpedia import sets_of

    known = sets_of(name)
    return f" Neuronpedia has {', '.join(known[:8])}{' …' if len(known) > 8 else ''}." if known else ""


# --- models -------------------------------------------------------------------------------------------------------


def _find_model(name: str, download: bool, report: Report) -> model_names.ModelPlace:
    try:
        return model_names.find_model(name)
    except ModelMissing as error:
        if model_names.repo_of(name) is None and (near := _near(name, _openable())):
            raise ModelMissing(error.message, f"{near}{error.remedy}") from None
        if not download or model_names.repo_of(name) is None or Path(name).expanduser().is_dir():
            raise
    from engine.hub.finding import download_model

    download_model(name, report)
    return model_names.find_model(name)


def _openable() -> list[str]:
    """Every short name that opens something."""
    return [*(info.name for info in sets.all_sets()), *model_names.known_names()]


def _near(name: str, known: Iterable[str]) -> str:
    """`Did you mean …? ` of the known names that are nearest; "" where none is near."""
    found = difflib.get_close_matches(name.casefold(), list(known), n=3)
    return f"Did you mean {' or '.join(found)}? " if found else ""


def _made_for(places: Sequence[Place]) -> str | None:
    """The one model that all dictionaries of the registry were made for."""
    made = {place.extra["model"] for place in places if place.release}
    names = {model_names.repo_of(name) or name for name in made}
    return names.pop() if len(names) == 1 and all(place.release for place in places) else None


# --- dictionaries -------------------------------------------------------------------------------------------------


def _places(given: str, model: str | None, download: bool, report: Report) -> list[Place]:
    """The dictionaries that one word of the user means."""
    given = SHORT.get((model or "", given), given)
    if given.startswith("hf://"):
        from engine.hub.finding import find_reference

        reference, hook = _split_hook(given)
        return _at_hook(find_reference(reference, download, report), hook)
    path, hook = _split_hook(given)
    if (folder := Path(path).expanduser()).exists():
        return _at_hook(find(folder), hook)
    if path.startswith((".", "/", "~")):
        raise DictionaryMissing(f"There is no folder {path}.", "Give the folder of a dictionary.")
    from engine.hub.finding import find_for_model, find_release
    from engine.names.registry import is_release

    if is_release(path.partition("/")[0]):
        return _at_hook(find_release(path, download, report), hook)
    if model is not None and "/" not in path:
        try:
            found = find_for_model(model, path, download, report)
        except BadRequest:
            raise _unknown(path, model) from None
        return _at_hook(found, hook)
    raise _unknown(path, model)


def _unknown(name: str, model: str | None) -> DictionaryMissing:
    """What to say of a word that means nothing, with what it may have been meant for."""
    from engine.names.neuronpedia import sets_of
    from engine.names.registry import suggestions

    own = [short for known, short in SHORT if known == model]
    if model is not None:
        own += sets_of(model)
    if own:
        message = f"{name!r} is no folder here, no release, and none of the dictionaries of {model}."
        shown = ", ".join(own[:8]) + (", …" if len(own) > 8 else "")
        return DictionaryMissing(message, f"{_near(name, own)}It has {shown}.")
    others = sorted({known for known, short in SHORT if short == name}) if model is None else []
    near = [f"--model {known} --dictionary {name}" for known in others] or suggestions(name)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Give a folder, or a name from `saescope dictionaries`."
    return DictionaryMissing(f"{name!r} is no folder here and no dictionary that is known by name.", hint)


def _split_hook(given: str) -> tuple[str, str | None]:
    """A path and the hook named after its last `@`, if that is one."""
    path, at, hook = given.rpartition("@")
    if not at or Path(given).expanduser().exists():
        return given, None
    if hook.startswith(("blocks.", "hook_")):
        parse_hook(hook)
        return path, hook
    return given, None


def _at_hook(places: list[Place], hook: str | None) -> list[Place]:
    """The places with the hook the user named.

    Raises:
        BadRequest: one hook was named for several dictionaries.
    """
    if hook is None:
        return places
    if len(places) > 1:
        raise BadRequest(f"{hook} was named for {len(places)} dictionaries.", "Name one of them.")
    return [replace(place, hook=hook, extra={**place.extra, ASKED_HOOK: hook}) for place in places]
