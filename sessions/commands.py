"""`saescope export` and `link`: what leaves for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.commands.common import AsJson, check_writable, one_line_errors, print_result, say
from engine.errors import BadRequest
from engine.text import visible


@one_line_errors
def export(
    file: Annotated[
        Path, typer.Argument(help="A session, or what `saescope circuit` or `saescope study` wrote with --out.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="quicklist of the marks or of a --set, presets; of a circuit: svg, dot, graph (Neuronpedia's), json, "
            "quicklist; of a --study: json, csv (a --table) or svg (its plots)."
        ),
    ] = "quicklist",
    circuit: Annotated[
        int | None, typer.Option(min=1, help="Which circuit of the session, from 1; the last otherwise.")
    ] = None,
    study: Annotated[
        int | None, typer.Option(min=1, help="Which study of the session, from 1; of a circuit or study file none.")
    ] = None,
    set: Annotated[str | None, typer.Option(help="A named set of a study, as a quicklist.")] = None,
    table: Annotated[str | None, typer.Option(help="Of a study as csv: this table; the first otherwise.")] = None,
    plot: Annotated[
        str | None, typer.Option(help="Of a study as svg: the plot of this number or title; all otherwise.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The list's name; the session's title otherwise.")] = None,
    form: Annotated[
        str, typer.Option(help="Of a quicklist: auto, published, compact or nested (short, grouped by source).")
    ] = "auto",
    node_threshold: Annotated[float, typer.Option(min=0, help="Of a circuit: nodes with a larger |effect|.")] = 0.0,
    edge_threshold: Annotated[float, typer.Option(min=0, help="Of a circuit: edges with a larger |weight|.")] = 0.0,
    annotations: Annotated[
        Path | None, typer.Option(help="Labels of a circuit's features: feature-circuits' annotation JSON lines.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    json: AsJson = False,
) -> None:
    """Print marks or a set as a Neuronpedia quicklist, presets, or a circuit or a study in one of many forms."""
    from engine.documents import to_json, write_whole
    from sessions import circuit_export, study_export
    from sessions.annotations import read_annotations
    from sessions.export import Exported, export_quicklist
    from sessions.quicklist import form_choice
    from sessions.store import read_session

    chosen = form_choice(form)
    formats = (*circuit_export.FORMATS, "csv", "presets")
    if to not in formats:
        raise BadRequest(f"{to!r} is not a format.", f"Use --to {', '.join(formats[:-1])} or {formats[-1]}.")
    of_study = study is not None or plot is not None or study_export.is_study(file)
    if plot is not None and to != "svg":
        raise BadRequest(f"A plot is exported as svg, not as {to}.", "Use --to svg.")
    exported: str | Exported
    if set is not None or (of_study and to == "quicklist"):
        if to != "quicklist":
            raise BadRequest(f"A set is exported as a quicklist, not as {to}.", "Use --to quicklist.")
        exported = study_export.export_set(file, set or "", name, chosen, study)
    elif of_study or to == "csv":
        found = study_export.find_study(file, study)
        exported = study_export.export_study(found, to, table, plot)
        if to == "csv" and table is None and len(found.tables) > 1:
            first, *others = (known.name for known in found.tables)
            say(f"table {first}; --table {', '.join(others)} for another.")
    elif to == "presets":
        from sessions.presets import export_presets

        exported = export_presets(read_session(file))
    elif to == "quicklist" and circuit is None and not circuit_export.is_circuit(file):
        exported = export_quicklist(read_session(file), name, chosen)
    else:
        labels = read_annotations(annotations) if annotations is not None else None
        if labels is not None and str(labels.dirt):
            say(str(labels.dirt))
        exported = circuit_export.export_circuit(
            circuit_export.find_circuit(file, circuit), to, name=name, node_threshold=node_threshold,
            edge_threshold=edge_threshold, annotations=labels, form=chosen,
        )  # fmt: skip
    check_writable(out)
    if isinstance(exported, Exported):
        for line in exported.notes:
            say(line)
        exported = to_json(exported) if json else "\n".join(exported.urls)
    if out is not None:
        write_whole(out, exported)
    else:
        on_terminal = to == "csv" and sys.stdout.isatty()  # what is piped stays as it is
        typer.echo("\n".join(map(visible, exported.split("\n"))) if on_terminal else exported)


@one_line_errors
def link(
    feature: Annotated[str, typer.Argument(help="SOURCE:INDEX, MODEL@SOURCE:INDEX, or an address of the feature.")],
    steer: Annotated[float | None, typer.Option(help="The steering page with this strength.")] = None,
    embed: Annotated[bool, typer.Option("--embed", help="The page for a frame in another page.")] = False,
    hide: Annotated[
        list[str] | None,
        typer.Option(help="Of an embedded page: explanation, plots, test, testfield, activations, link or steer."),
    ] = None,
    search: Annotated[str | None, typer.Option(help="Search the source's features on this text.")] = None,
    session: Annotated[Path | None, typer.Option(help="Sources are those of this session's dictionaries.")] = None,
    json: AsJson = False,
) -> None:
    """Print the Neuronpedia address of a feature: its page, its steering page, or a search in its dictionary."""
    from engine.documents import to_json
    from sessions import listing
    from sessions.store import read_session

    opened = read_session(session).dictionaries if session is not None else ()
    made = listing.link(feature, opened, steer=steer, embed=embed, hide=hide or (), search=search)
    print_result(to_json(made), made.url, json)
