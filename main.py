"""The command line. Every action of the screen is also a command with JSON out; heavy libraries load on use."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.commands import circuits, getting, labels, prompts, steering, studies
from engine.commands.common import (
    AsJson,
    Chat,
    check_writable,
    group,
    one_line_errors,
    print_result,
    read_prompt,
    report_progress,
    say,
)
from engine.commands.completing import complete_model
from engine.commands.groups import Grouped
from engine.commands.opening import Device, opens_model
from engine.documents import to_json
from engine.errors import BadRequest
from engine.quiet import quiet_libraries
from engine.text import visible
from sessions import commands as exchange

if TYPE_CHECKING:
    from engine.protocol import Intervention, Open, StudyResult

app = group(
    "A terminal inspector for the sparse-autoencoder features of language models.",
    epilog="Without a command, saescope opens the inspector on the default set.",
)
app.command("circuit")(circuits.circuit)
app.command("faithfulness")(circuits.faithfulness)
app.command("export")(exchange.export)
app.command("link")(exchange.link)
app.command("steer", cls=Grouped)(steering.steer)
app.command("sweep", cls=Grouped)(steering.sweep)
app.command("impact", cls=Grouped)(steering.impact)
app.command("ablate")(steering.ablate)
app.command("dictionaries")(getting.dictionaries)
app.add_typer(getting.get_app, name="get")
app.add_typer(labels.app, name="labels")
app.add_typer(prompts.app, name="prompts")
getting.get_app.command("labels")(labels.get_labels)


_INTERRUPTED = 130
"""Typer's own exit code for Ctrl-C."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"saescope {version('saescope')}")
        raise typer.Exit


def _read_preset(given: str) -> tuple[Intervention, ...]:
    """The interventions of a preset, given as FILE:NAME, or as FILE where that holds one; either may have colons."""
    from sessions.presets import find_preset, read_presets

    whole = len(given)
    ends = [whole, *(place for place in range(whole - 1, 0, -1) if given[place] == ":")]
    end = next((end for end in ends if Path(given[:end]).is_file()), ends[:2][-1])
    presets = read_presets(Path(given[:end]))
    if end == whole and len(presets) != 1:
        names = ", ".join(repr(preset.name) for preset in presets) or "none"
        raise BadRequest(f"{given} holds {len(presets)} presets: {names}.", "Name one, as FILE:NAME.")
    return (find_preset(presets, given[end + 1 :]) if end < whole else presets[0]).interventions


class _Records:
    """Results of studies go into session files."""

    def check(self, file: Path) -> None:
        from sessions.studies import check_free

        check_free(file)

    def add(self, file: Path, opening: Open, result: StudyResult) -> str:
        from sessions.studies import record_study

        return record_study(file, opening, result)


app.add_typer(studies.studies_group(_Records()), name="study")


@app.callback(invoke_without_command=True)
@one_line_errors
def inspect_default(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """A terminal inspector for the sparse-autoencoder features of language models."""
    context.obj = _read_preset
    if context.invoked_subcommand is None:
        from tui.launch import launch

        launch()


@app.command("open")
@one_line_errors
@opens_model()
def open_inspector(
    name: Annotated[
        str | None,
        typer.Argument(help="A set (`saescope sets`), or a model as with --model.", autocompletion=complete_model),
    ] = None,
    *,
    opening: Open,
    session: Annotated[Path | None, typer.Option(help="Read and write this session file.")] = None,
    theme: Annotated[str | None, typer.Option(help="saescope-dark or saescope-light.")] = None,
    color: Annotated[str, typer.Option(help="auto, truecolor, 256, 16 or none.")] = "auto",
    mouse: Annotated[bool, typer.Option("--mouse/--no-mouse", help="Follow the mouse.")] = True,
) -> None:
    """Open the inspector on a set, or on a model and dictionaries of your own."""
    from msgspec.structs import replace

    from tui.launch import launch

    if name and opening.model:
        raise BadRequest(f"Both {name!r} and --model {opening.model} were given.", "Give one of them.")
    opening = replace(opening, id=0, model=name or opening.model)
    # The default set and what is still to be fetched are for the engine, which says how far it is.
    if (opening.model or opening.dictionaries) and not opening.download:
        from engine.resolving import resolve

        resolve(opening.model, opening.dictionaries)  # without torch: what means nothing is told before a screen opens
    launch(opening, session=session, theme=theme, color=color, mouse=mouse)


@app.command()
@one_line_errors
def replay(
    file: Annotated[Path, typer.Argument(help="A session file, or faith: the example of the README.")],
    theme: Annotated[str | None, typer.Option(help="saescope-dark or saescope-light.")] = None,
    color: Annotated[str, typer.Option(help="auto, truecolor, 256, 16 or none.")] = "auto",
    mouse: Annotated[bool, typer.Option("--mouse/--no-mouse")] = True,
) -> None:
    """Look at a recorded session; no model is loaded."""
    from sessions.store import example_or_file
    from tui.launch import launch_replay

    launch_replay(example_or_file(file), theme=theme, color=color, mouse=mouse)


@app.command()
@one_line_errors
@opens_model()
def features(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    top: Annotated[int, typer.Option(min=1, help="How many features.")] = 10,
    rank: Annotated[str, typer.Option(help="Rank by max, sum or mean over the prompt.")] = "max",
    per_token: Annotated[bool, typer.Option("--per-token", help="Also the top features of every token.")] = False,
    site: Annotated[list[str] | None, typer.Option(help="Read only this source or hook; may be repeated.")] = None,
    keep_first: Annotated[bool, typer.Option(help="Rank the first token (an attention sink) too.")] = False,
    chat: Chat = False,
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """The features that fire most on a prompt."""
    from engine import headless, reports

    result = headless.features(
        opening, read_prompt(prompt), top=top, rank=rank, per_token=per_token, sites=site or [],
        keep_first=keep_first, chat=chat, report=report_progress,
    )  # fmt: skip
    print_result(headless.features_json(result, per_token), reports.features_text(result, per_token), json)


@app.command()
@one_line_errors
@opens_model()
def card(
    feature: Annotated[str, typer.Argument(help="SOURCE:INDEX")],
    *,
    opening: Open,
    json: AsJson = False,
) -> None:
    """What is known about one feature: where it fires, what it promotes."""
    from engine import headless, reports

    result = headless.card(opening, feature, report=report_progress)
    print_result(to_json(result), reports.card_text(result), json)


@app.command("sets")
@one_line_errors
def list_sets(json: AsJson = False) -> None:
    """What can be opened, where it lies and how large it is."""
    from engine import reports
    from engine.sets import FieldSet, SetInfo, all_sets, field_sets

    found: list[SetInfo | FieldSet] = [*all_sets(), *field_sets()]
    print_result(to_json(found), reports.sets_text(found), json)


@app.command("import")
@one_line_errors
def import_what(
    what: Annotated[
        str,
        typer.Argument(
            help="The address of a quicklist or of a feature, in quotes, or MODEL@SOURCE:INDEX; - reads some, one a "
            "line; or a circuit that feature-circuits wrote, .pt."
        ),
    ],
    into: Annotated[Path | None, typer.Option(help="Mark the features in this session file.")] = None,
    node_threshold: Annotated[float, typer.Option(min=0, help="Of a circuit: nodes with a larger |effect|.")] = 0.01,
    edge_threshold: Annotated[float, typer.Option(min=0, help="Of a circuit: edges with a larger |weight|.")] = 0.001,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Of a circuit: the model, if the file's name does not say.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a circuit's JSON, or the features, to this file too.")] = None,
    json: AsJson = False,
) -> None:
    """Read the features of a quicklist, or a circuit of feature-circuits; nothing in a file is executed."""
    from sessions import circuit_export, listing, marks, quicklist

    if not listing.means_features(what):
        if not Path(what).exists() and Path(what).suffix != ".pt":
            raise BadRequest(f"{what!r} is no address, no feature and no file here.", quicklist.accepted(what))
        if into is not None:
            raise BadRequest("--into takes the features of addresses.", "A circuit is exported with `saescope export`.")
        circuits.import_circuit(Path(what), node_threshold, edge_threshold, model, out, json)
        return
    check_writable(out)
    listed = listing.read_features(read_prompt(what))
    text, document = listing.listed_text(listed), to_json(listed)
    if into is not None:
        if circuit_export.is_circuit(into):
            raise BadRequest(f"{into} is a circuit, not a session.", "Give a session: `saescope locate` says where.")
        imported = marks.import_into(into, listed.features)
        for line in imported.notes:
            say(line)
        text, document = "\n".join(visible(str(ref)) for ref in imported.marks), to_json(imported)
    if out is not None:
        out.write_text((document if json else text) + "\n", encoding="utf-8")
    print_result(document, text, json)


@app.command()
@one_line_errors
def locate(json: AsJson = False) -> None:
    """Where everything lies."""
    from engine import headless

    places = headless.places()
    pairs = [(key, v) for key, value in places.items() for v in (value if isinstance(value, list) else [value])]
    lines = [f"{key:<13} {visible(v)}" for key, v in pairs]
    print_result(to_json(places), "\n".join(lines), json)


@app.command()
@one_line_errors
@opens_model()
def doctor(
    *,
    opening: Open,
    text: Annotated[
        Path | None, typer.Option(help="With --dictionary: text to measure on; a sample of ours otherwise.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|neuronpedia",
            help="With --dictionary: stored activations to compare with, from a file that Neuronpedia exported, or of "
            "a few features from its site.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Versions, devices, terminal and paths; with --dictionary, whether dictionaries belong to their model.

    Exit code 1 where a dictionary reads better at another hook, does not fit, or is far from what was published.
    """
    if opening.model is not None or opening.dictionaries:
        from engine.checkup.headless import check_dictionaries
        from engine.checkup.report import report as checkup_text

        checked = check_dictionaries(opening, text, activations, report_progress)
        print_result(to_json(checked), checkup_text(checked), json)
        if not all(one.belongs for one in checked):
            raise typer.Exit(1)
        return
    if text is not None or activations is not None:
        raise BadRequest("--text and --activations go with --dictionary.", "Name a dictionary to check.")
    from engine.doctor import examine, report

    found = examine()
    print_result(to_json(found), report(found), json)


@app.command()
@one_line_errors
def train(
    text: Annotated[list[Path], typer.Option(help="Text to train on: .txt or .jsonl, also .xz and .gz.")],
    layers: Annotated[str, typer.Option(help="Layers whose output to read, e.g. 4,9,14.")],
    name: Annotated[str, typer.Option(help="Name of the set; dictionaries are called LAYER-NAME.")] = "res-own",
    out: Annotated[Path | None, typer.Option(help="Where the set goes; the user's sets otherwise.")] = None,
    held_out: Annotated[list[Path] | None, typer.Option(help="Text to measure on.")] = None,
    card_text: Annotated[
        list[Path] | None, typer.Option(help="Text for feature cards; the held-out text otherwise.")
    ] = None,
    card_source: Annotated[list[str] | None, typer.Option(help="Only these sources of the card text.")] = None,
    cap: Annotated[
        list[str] | None, typer.Option(help="SOURCE=TOKENS, at most so many tokens; * for the others.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="At most so many tokens of text.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Activations seen per dictionary.")] = 8_000_000,
    latents: Annotated[int, typer.Option(min=1, help="Features per dictionary.")] = 4096,
    k: Annotated[int, typer.Option(min=1, help="Features active per token.")] = 32,
    seed: int = 0,
    work: Annotated[Path | None, typer.Option(help="Where activations are kept; the cache otherwise.")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A model folder; the default model otherwise.")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="The model's precision while harvesting.")] = "bfloat16",
) -> None:
    """Train TopK dictionaries on your own text, measure them, and make their feature cards."""
    from engine.headless import train_set

    train_set(
        text=text, layers=layers, name=name, out=out, held_out=held_out or [], card_text=card_text or [],
        card_sources=card_source or [], caps=cap or [], tokens=tokens, samples=samples, latents=latents, k=k, seed=seed,
        work=work, model=model, device=device, dtype=dtype, report=report_progress,
    )  # fmt: skip


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without our glyphs is no reason to stop
    quiet_libraries()
    try:
        app()
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        say("stopped.")  # outside of any command: while its arguments are read, or its modules
        sys.exit(1)


if __name__ == "__main__":
    main()
