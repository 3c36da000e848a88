"""The commands of `saescope study`, one for each study, made from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.main import get_group

from engine.commands.common import (
    AsJson,
    check_writable,
    group,
    one_line_errors,
    print_result,
    report_progress,
    say,
    set_parameters,
)
from engine.commands.opening import opens_model
from engine.commands.studies import Records
from engine.documents import to_json, write_whole
from engine.errors import BadRequest
from engine.headless_studies import option_of, study, study_settings, words_of
from engine.study_reports import study_text, table_csv
from engine.study_settings import POSITIONAL, STUDIES

if TYPE_CHECKING:
    from engine.protocol import Open, StudyResult
    from engine.study_settings import StudySettings

Out = Annotated[Path | None, typer.Option(help="Write the result's JSON to this file too.")]
Into = Annotated[Path | None, typer.Option(help="Add the result to this session file; it is made if it is not there.")]
Csv = Annotated[Path | None, typer.Option(help="Write every table as CSV into this folder.")]


def commands(records: Records) -> dict[str, Any]:
    """The commands by name; `records` is what `--into` means."""
    app = group("")
    for name, kind in STUDIES.items():
        app.command(name)(_command(name, kind, records))
    return dict(get_group(app).commands)


def _command(name: str, kind: type[StudySettings], records: Records) -> Callable[..., None]:
    def command(*, opening: Open, out: Out = None, into: Into = None, csv: Csv = None, json: AsJson = False, **given: Any) -> None:  # fmt: skip  # noqa: E501
        check_writable(out)
        check_writable(into)
        if csv is not None:
            _make_folder(csv)
        if into is not None:
            records.check(into)
        result = study(opening, study_settings(name, given), report=report_progress)
        if out is not None:
            write_whole(out, to_json(result))
        if csv is not None:
            _write_tables(csv, result)
        if into is not None:
            say(records.add(into, opening, result))
        print_result(to_json(result), study_text(result), json)
        if not result.finished:
            say("stopped: the result is what was found until then.")
            raise typer.Exit(1)

    command.__doc__ = kind.__doc__
    command.__name__ = name.replace("-", "_")
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = _parameters(kind)
    set_parameters(command, [*fields, *own])
    without = ("dtype",) if any(p.name == "dtype" for p in fields) else ()
    return one_line_errors(opens_model(*without)(command))


def _parameters(kind: type[StudySettings]) -> list[inspect.Parameter]:
    """The settings as parameters that Typer understands; None stands for what is not given."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = dict(
        zip(kind.__struct_fields__[-len(kind.__struct_defaults__) :], kind.__struct_defaults__, strict=True)
    )
    found = []
    for field in kind.__struct_fields__:
        plain, text, positional = _plain(hints[field])
        shown = defaults[field]
        words = words_of(hints[field])
        text = f"{text.rstrip('.')}: {', '.join(words)}." if words else text
        if shown not in (None, (), "") and not positional:
            text += f" [default: {', '.join(shown) if isinstance(shown, tuple) else shown}]"
        info = typer.Argument(help=text) if positional else typer.Option(_flag(field, plain), help=text)
        found.append(
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[plain | None, info],
            )
        )
    return found


def _flag(field: str, plain: Any) -> str:
    option = option_of(field)
    return f"--{option}/--no-{option}" if plain is bool else f"--{_singular(option)}" if get_origin(plain) is list else f"--{option}"  # fmt: skip  # noqa: E501


def _singular(option: str) -> str:
    """What may be repeated is named once each time: `--feature A --feature B`."""
    return {"features": "feature", "sources": "source", "ways": "way", "templates": "template",
            "categories": "category", "concepts": "concept"}.get(option, option)  # fmt: skip


def _plain(kind: Any) -> tuple[Any, str, bool]:
    """The type Typer is to read, the description, and whether it is an argument."""
    text, positional = "", False
    while get_origin(kind) is Annotated:
        inner, *metadata = get_args(kind)
        for meta in metadata:
            text = getattr(meta, "description", None) or text
            positional = positional or bool((getattr(meta, "extra", None) or {}).get(POSITIONAL))
        kind = inner
    if type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
        kind = _plain(kind)[0]
    if get_origin(kind) is tuple:
        return list[str], text, positional
    return (str if words_of(kind) else kind), text, positional


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"{folder} is a file.", "Give a folder.")
    folder.mkdir(parents=True, exist_ok=True)


def _write_tables(folder: Path, result: StudyResult) -> None:
    for table in result.tables:
        write_whole(folder / f"{table.name}.csv", table_csv(table))
