"""The commands that fetch from a hub, and the one that lists what has a name: `get` and `dictionaries`."""

from __future__ import annotations

import fnmatch
import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.commands.common import AsJson, group, one_line_errors, print_result, report_progress, say
from engine.commands.completing import complete_model, complete_release
from engine.text import visible

if TYPE_CHECKING:
    from engine.formats.find import Finder
    from engine.names.registry import Release
    from engine.places import Place

get_app = group("Fetch dictionaries, models and labels onto this machine.", no_args_is_help=True)
Name = Annotated[
    str,
    typer.Argument(
        help="RELEASE, RELEASE/ID, 'RELEASE/PATTERN*' or hf://OWNER/NAME/FOLDER.", autocompletion=complete_release
    ),
]


@get_app.command("dictionary")
@one_line_errors
def get_dictionary(
    name: Name,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", autocompletion=complete_model, help="NAME is a short name of this model's."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Fetch dictionaries by name, after a check of licence, token, files and disk."""
    from engine.hub.finding import find_for_model, find_reference, find_release

    told = _Told()
    if name.startswith("hf://"):
        found = find_reference(name, True, told)
    elif model is not None:
        found = find_for_model(model, name, True, told)
    else:
        found = find_release(name, True, told)
    told.end(name)
    rows = [_describe(place) for place in found]
    print_result(json_module.dumps(rows, indent=1), "\n".join(_line(row) for row in rows), json)


@get_app.command("model")
@one_line_errors
def get_model(
    name: Annotated[
        str, typer.Argument(help="OWNER/NAME, or a short name as gpt2-small.", autocompletion=complete_model)
    ],
    json: AsJson = False,
) -> None:
    """Fetch a model: settings, tokenizer and weights, after the same check."""
    from engine.hub.finding import download_model
    from engine.names.models import repo_of

    told = _Told()
    folder = download_model(name, told)
    told.end(name)
    row = {"name": name, "repo": repo_of(name), "folder": str(folder)}
    print_result(json_module.dumps(row, indent=1), visible(f"{name}  {folder}"), json)


class _Told:
    """Progress, and whether there was any: where all is on this machine nobody is asked."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, text: str, done: int, total: int) -> None:
        self.asked = True
        report_progress(text, done, total)

    def end(self, name: str) -> None:
        report_progress("", 0, 0)
        if not self.asked:
            say(f"{name} is on this machine already; nothing was fetched.")


def _describe(place: Place) -> dict[str, Any]:
    return {
        "name": place.release or str(place.path),
        "source": place.source,
        "hook": place.hook,
        "neuronpedia": place.neuronpedia,
        "folder": str(place.path),
        "bytes": sum(file.stat().st_size for file in place.weights),
    }


def _line(row: dict[str, Any]) -> str:
    return visible(f"{row['name']}  {row['bytes'] / 1e6:.1f} MB  {row['folder']}")


# --- the list -------------------------------------------------------------------------------------------------------


@one_line_errors
def dictionaries(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Part of a release's or model's name, or a release.", autocompletion=complete_release),
    ] = None,
    forms: Annotated[bool, typer.Option("--forms", help="The forms of files that open, instead.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Only what is on this machine.")] = False,
    json: AsJson = False,
) -> None:
    """List the dictionaries that open by name: SAELens' releases, or what one of them holds."""
    from engine.names.registry import is_release, releases, suggestions

    if forms:
        rows, lines = _forms()
    elif pattern is not None and is_release(pattern):
        rows, lines = _ids(pattern, here)
    else:
        rows, lines = _releases([r for r in releases().values() if _matches(r, pattern)], here)
        if not rows and not here:
            near = suggestions(pattern or "")
            lines = [f"No release matches {visible(pattern or '')}.{' Near: ' + ', '.join(near) + '.' if near else ''}"]
    print_result(json_module.dumps(rows, indent=1), "\n".join(lines) or "Nothing is here.", json)


def _matches(release: Release, pattern: str | None) -> bool:
    if pattern is None:
        return True
    wanted = pattern.lower()
    return any(
        wanted in text.lower() or fnmatch.fnmatch(text.lower(), wanted) for text in (release.name, release.model)
    )


def _releases(found: list[Release], only_here: bool) -> tuple[list[dict[str, Any]], list[str]]:
    from engine.names.neuronpedia import corrected
    from engine.names.registry import entries

    rows = []
    for release in found:
        listed = entries(release.name)
        row = {
            "release": release.name,
            "model": release.model,
            "count": len(listed),
            "neuronpedia": sum(corrected(entry) is not None for entry in listed),
            "here": _count_here(release),
        }
        if row["here"] or not only_here:
            rows.append(row)
    lines = []
    if rows:
        width = max(len(str(row["release"])) for row in rows)
        models = max(len(str(row["model"])) for row in rows)
        for row in rows:
            pages = f"  {row['neuronpedia']} on Neuronpedia" if row["neuronpedia"] else ""
            present = f"  {row['here']} here" if row["here"] else ""
            lines.append(f"{row['release']!s:{width}}  {row['model']!s:{models}}  {row['count']:>4}{pages}{present}")
    return rows, lines


def _count_here(release: Release) -> int:
    """How many are on this machine; asked only where something of the repository is."""
    from engine.hub.finding import is_here
    from engine.hub.local import roots
    from engine.names.registry import entries

    return sum(map(is_here, entries(release.name))) if roots(release.repo) else 0


def _ids(name: str, only_here: bool) -> tuple[list[dict[str, Any]], list[str]]:
    from engine.hub.finding import is_here
    from engine.names.layout import hook_of
    from engine.names.neuronpedia import corrected
    from engine.names.registry import look_up

    rows = [
        {
            "name": entry.name,
            "hook": hook_of(entry),
            "neuronpedia": corrected(entry),
            "l0": entry.l0,
            "here": is_here(entry),
        }
        for entry in look_up(name)
    ]
    rows = [row for row in rows if row["here"] or not only_here]
    lines = []
    for row in rows:
        parts = [str(row["name"]), row["hook"] and str(row["hook"]), row["neuronpedia"] and f"{row['neuronpedia']}"]
        parts += [f"L0 {row['l0']:g}" if row["l0"] else None, "here" if row["here"] else None]
        lines.append("  ".join(part for part in parts if part))
    return rows, lines


_BY_NAME = (
    ("released", "RELEASE, RELEASE/ID", "A release of SAELens' registry, by name: `saescope dictionaries` lists them."),
    ("short", "NAME with -m MODEL", "A set of the model's, e.g. res-jb with -m gpt2-small."),
    ("hf", "hf://OWNER/NAME, …/FOLDER, …/FILE, …@REVISION", "Files of a repository of the hub, in any of these forms."),
    ("neurons", "neurons:KIND", "The raw neurons of a kind of place in the model, e.g. neurons:mlp_post."),
)
"""What is no folder: the form, how it is written, and what it is."""


def _forms() -> tuple[list[dict[str, Any]], list[str]]:
    """The forms with the files each needs, then what opens by name."""
    from engine.formats.find import FINDERS
    from engine.formats.unknown import FILES

    rows: list[dict[str, Any]] = [
        {"form": form, "files": FILES[form], "what": (finder.__doc__ or "").strip().splitlines()[0]}
        for finder in FINDERS
        for form in [_form_of(finder)]
    ]
    rows += [{"form": form, "files": written, "what": what} for form, written, what in _BY_NAME]
    width = max(len(row["form"]) for row in rows)
    lines = [f"{row['form']:{width}}  {row['what']}\n{'':{width}}  {row['files']}" for row in rows]
    return rows, [*lines, "Where the files do not say what is read: FOLDER@HOOK, e.g. ./ae@blocks.3.hook_resid_post."]


def _form_of(finder: Finder) -> str:
    """The form a finder is for: its own name, or that of its module where it is that module's `recognise`."""
    name = finder.__name__
    return finder.__module__.rpartition(".")[2].removesuffix("_folders") if name == "recognise" else name
