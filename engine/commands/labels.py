"""`saescope labels …` and `saescope get labels`: what features are said to be; no model is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.commands.common import AsJson, check_writable, group, one_line_errors, print_result, report_progress, say
from engine.errors import BadRequest

app = group("Find, import, write and export labels of features.", no_args_is_help=True)

Feature = Annotated[
    str, typer.Argument(metavar="FEATURE", help="MODEL@SOURCE:INDEX; SOURCE:INDEX where one model has labels of it.")
]


@app.command("find")
@one_line_errors
def find(
    words: Annotated[
        list[str] | None, typer.Argument(help="All must be in the label; the last may be a beginning; quotes hold.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="FEATURE", help="Labels that mean something near this feature's instead.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Look only in this MODEL/SOURCE, source or model; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: AsJson = False,
) -> None:
    """Find features by what their labels say, in all dictionaries that have labels."""
    from engine.documents import to_json
    from engine.labels.names import place_and_index, places_called
    from engine.labels.reports import Search, search_text
    from engine.labels.store import LabelStore
    from engine.labels.words import match_expression

    if bool(words) == bool(like):
        raise BadRequest("Give either words or --like FEATURE.", "E.g. saescope labels find plural nouns")
    store = LabelStore()
    places = places_called(store, source or [])
    if like is not None:
        feature = place_and_index(store, like)
        query, hits, total = store.like(*feature, places, top)
        result = Search(query, tuple(hits), total, "{}@{}:{}".format(*feature))
    else:
        query = " ".join(words or [])
        if match_expression(query) is None:
            raise BadRequest(
                "There is no word to look for.", "Give at least one word or number: saescope labels find plural nouns"
            )
        hits, total = store.search(query, places, top)
        result = Search(query, tuple(hits), total)
    print_result(to_json(result), search_text(result), json)


@app.command("show")
@one_line_errors
def show(feature: Feature, json: AsJson = False) -> None:
    """All labels of one feature, your own first."""
    from engine.documents import to_json
    from engine.labels.names import place_and_index
    from engine.labels.reports import labels_text
    from engine.labels.store import LabelStore

    store = LabelStore()
    labels = store.labels(*place_and_index(store, feature))
    print_result(to_json(labels), labels_text(labels), json)


@app.command("set")
@one_line_errors
def set_label(
    feature: Feature,
    text: Annotated[str, typer.Argument(help='Your label; "" takes it away.')],
    force: Annotated[
        bool, typer.Option("--force", help="Even where no dictionary of that name, or with so many features, is known.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Keep your own label of a feature."""
    from engine.documents import to_json
    from engine.labels.known import check_known
    from engine.labels.names import place_and_index
    from engine.labels.reports import labels_text
    from engine.labels.store import LabelStore

    store = LabelStore()
    model, source, index = place_and_index(store, feature)
    if not force and text.strip():
        check_known(store, model, source, index)
    store.set_user(model, source, index, text)
    labels = store.labels(model, source, index)
    print_result(to_json(labels), labels_text(labels), json)


@app.command("list")
@one_line_errors
def list_labels(json: AsJson = False) -> None:
    """Which dictionaries have labels, how many, and where they are from."""
    from engine.documents import to_json
    from engine.labels.reports import counts_text
    from engine.labels.store import LabelStore

    store = LabelStore()
    counts = store.counts()
    print_result(to_json(counts), counts_text(counts, str(store.file)), json)


@app.command("import")
@one_line_errors
def import_file(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER",
            help="Neuronpedia's explanations (.jsonl or .jsonl.gz), annotations of feature-circuits, or your own.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Whose labels they are, where the file does not say or says it otherwise.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The same for the source, of a file with one source.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COMPONENT=SET",
            help="For annotations: resid=res-sm makes resid_5 the source 5-res-sm; resid=out_{} makes it out_5.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Import labels; what came from the same file before is replaced, your own labels stay."""
    from engine.documents import to_json
    from engine.labels.imports import import_labels
    from engine.labels.names import component_map
    from engine.labels.reports import imported_text
    from engine.labels.store import LabelStore

    sets = component_map(mapping or [])
    imported = import_labels(LabelStore(), path, model, source, sets, report_progress)
    report_progress("", 0, 0)
    print_result(to_json(imported), imported_text(imported), json)
    if refused := sum(bool(each.refused) for each in imported):
        say(f"{refused} of {len(imported)} files could not be read; the others were imported.")
        raise typer.Exit(1)


@app.command("export")
@one_line_errors
def export(
    file: Annotated[Path | None, typer.Argument(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Your own labels as JSON lines, which `saescope labels import` reads."""
    from engine.labels.store import LabelStore
    from engine.text import terminal_safe_json

    check_writable(file)
    written = terminal_safe_json(LabelStore().export_user())
    if file is None:
        typer.echo(written, nl=False)
    else:
        file.write_text(written, encoding="utf-8")


@app.command("remove")
@one_line_errors
def remove(
    name: Annotated[str, typer.Argument(metavar="MODEL/SOURCE", help="As `saescope labels list` names it.")],
) -> None:
    """Take away what was imported or fetched for a dictionary; your own labels stay."""
    from engine.labels.names import place_called
    from engine.labels.store import LabelStore

    gone = LabelStore().forget(*place_called(name))
    if not gone:
        raise BadRequest(f"There are no labels of {name} but your own.", "`saescope labels list` says what has labels.")
    say(f"{gone:,} label{'' if gone == 1 else 's'} of {name} removed.")


@one_line_errors
def get_labels(
    name: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Neuronpedia's MODEL/SOURCE, or a RELEASE or RELEASE/ID of SAELens.")
    ],
    json: AsJson = False,
) -> None:
    """Fetch the labels that Neuronpedia has of a dictionary, with their embeddings."""
    from engine.documents import to_json
    from engine.labels.fetch import fetch_labels
    from engine.labels.names import published
    from engine.labels.reports import fetched_text
    from engine.labels.store import LabelStore

    store = LabelStore()
    try:
        fetched = [fetch_labels(store, each, report_progress) for each in published(name)]
    finally:
        report_progress("", 0, 0)
    print_result(to_json(fetched), fetched_text(fetched), json)
