"""The command line. Every action of the screen is also a command with JSON out; heavy libraries load on use."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from engine.errors import BadRequest, Cancelled, SaescopeError
from engine.quiet import quiet_libraries
from engine.text import visible

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    help="A terminal inspector for the sparse-autoencoder features of language models.",
    epilog="Without a command, saescope opens the inspector on the default set.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
)

Model = Annotated[str | None, typer.Option("--model", "-m", help="A Hugging Face model folder, or the name of a set.")]
Dictionaries = Annotated[
    list[str] | None,
    typer.Option("--dictionary", "-d", help="A SAELens folder, or a folder of them; may be repeated."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16. auto is float32 on a CPU.")]
Bos = Annotated[str, typer.Option(help="Begin prompts with BOS: auto (as the dictionaries were trained), on or off.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Chat = Annotated[bool, typer.Option("--chat/--no-chat", help="Wrap the prompt in the model's chat template.")]


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Print what went wrong on one line of standard error; a traceback is for our mistakes, not the user's."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SaescopeError as error:
            _say(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read our output has seen enough
                raise
            _say(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}.")
            raise typer.Exit(1) from None
        except (Cancelled, KeyboardInterrupt):
            _say("stopped.")
            raise typer.Exit(1) from None

    return wrapped


def _say(text: str) -> None:
    """One line on standard error; names in it may come from a model's files, and a terminal would obey them."""
    typer.echo(f"saescope: {visible(' '.join(text.split()))}", err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"saescope {version('saescope')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
@one_line_errors
def inspect_default(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """A terminal inspector for the sparse-autoencoder features of language models."""
    if context.invoked_subcommand is None:
        from tui.launch import launch

        launch()


@app.command("open")
@one_line_errors
def open_inspector(
    name: Annotated[str | None, typer.Argument(help="A set, see `saescope sets`.")] = None,
    model: Model = None,
    dictionary: Dictionaries = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bos: Bos = "auto",
    session: Annotated[Path | None, typer.Option(help="Read and write this session file.")] = None,
    theme: Annotated[str | None, typer.Option(help="saescope-dark or saescope-light.")] = None,
    color: Annotated[str, typer.Option(help="auto, truecolor, 256, 16 or none.")] = "auto",
    mouse: Annotated[bool, typer.Option("--mouse/--no-mouse", help="Follow the mouse.")] = True,
) -> None:
    """Open the inspector on a set, or on a model and dictionaries of your own."""
    from engine.protocol import Open
    from tui.launch import launch

    if name and model:
        raise BadRequest(f"Both the set {name!r} and --model {model} were given.", "Give one of them.")
    request = Open(
        id=0,
        model=name or model,
        dictionaries=tuple(dictionary or ()),
        device=device,
        dtype=dtype,
        bos=_bos(bos),
    )
    launch(request, session=session, theme=theme, color=color, mouse=mouse)


@app.command()
@one_line_errors
def replay(
    file: Annotated[Path, typer.Argument(help="A session file.")],
    theme: Annotated[str | None, typer.Option(help="saescope-dark or saescope-light.")] = None,
    color: Annotated[str, typer.Option(help="auto, truecolor, 256, 16 or none.")] = "auto",
    mouse: Annotated[bool, typer.Option("--mouse/--no-mouse")] = True,
) -> None:
    """Look at a recorded session; no model is loaded."""
    from tui.launch import launch_replay

    launch_replay(file, theme=theme, color=color, mouse=mouse)


@app.command()
@one_line_errors
def features(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    top: Annotated[int, typer.Option(min=1, help="How many features.")] = 10,
    rank: Annotated[str, typer.Option(help="Rank by max, sum or mean over the prompt.")] = "max",
    per_token: Annotated[bool, typer.Option("--per-token", help="Also the top features of every token.")] = False,
    site: Annotated[list[str] | None, typer.Option(help="Read only this source or hook; may be repeated.")] = None,
    keep_first: Annotated[bool, typer.Option(help="Rank the first token (an attention sink) too.")] = False,
    chat: Chat = False,
    model: Model = None,
    dictionary: Dictionaries = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bos: Bos = "auto",
    json: AsJson = False,
) -> None:
    """The features that fire most on a prompt."""
    from engine import headless, reports

    request = _open_request(model, dictionary, device, dtype, bos)
    result = headless.features(
        request, _prompt(prompt), top=top, rank=rank, per_token=per_token, sites=site or [],
        keep_first=keep_first, chat=chat, report=_report,
    )  # fmt: skip
    _print(headless.features_json(result, per_token), reports.features_text(result, per_token), json)


@app.command()
@one_line_errors
def steer(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    feature: Annotated[list[str], typer.Option(help="SOURCE:INDEX; may be repeated, each with an --add.")],
    add: Annotated[list[float], typer.Option(help="Strength: how much of the decoder row is added.")],
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to generate.")] = 40,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random numbers both arms share.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens up to this mass.")] = 1.0,
    chat: Chat = False,
    model: Model = None,
    dictionary: Dictionaries = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bos: Bos = "auto",
    json: AsJson = False,
) -> None:
    """Continue a prompt plain and with features turned up or down, from the same random numbers."""
    from engine import headless, reports

    request = _open_request(model, dictionary, device, dtype, bos)
    result = headless.steer(
        request, _prompt(prompt), feature, add, tokens=tokens, seed=seed, temperature=temperature, top_p=top_p,
        chat=chat, report=_report,
    )  # fmt: skip
    _print(headless.to_json(result), reports.steer_text(result), json)


@app.command()
@one_line_errors
def card(
    feature: Annotated[str, typer.Argument(help="SOURCE:INDEX")],
    model: Model = None,
    dictionary: Dictionaries = None,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """What is known about one feature: where it fires, what it promotes."""
    from engine import headless, reports

    result = headless.card(_open_request(model, dictionary, device, "auto", "auto"), feature, report=_report)
    _print(headless.to_json(result), reports.card_text(result), json)


@app.command("sets")
@one_line_errors
def list_sets(json: AsJson = False) -> None:
    """What can be opened, where it lies and how large it is."""
    from engine import headless, reports
    from engine.sets import all_sets

    found = all_sets()
    _print(headless.to_json(found), reports.sets_text(found), json)


@app.command()
@one_line_errors
def export(
    file: Annotated[Path, typer.Argument(help="A session file.")],
    to: Annotated[str, typer.Option(help="quicklist")] = "quicklist",
    name: Annotated[str | None, typer.Option(help="The list's name; the session's title otherwise.")] = None,
    json: AsJson = False,
) -> None:
    """Print a session's marked features as Neuronpedia quicklist addresses."""
    from engine.headless import to_json
    from sessions.export import export_quicklist
    from sessions.store import read_session

    if to != "quicklist":
        raise BadRequest(f"{to!r} is not a format.", "Use --to quicklist.")
    exported = export_quicklist(read_session(file), name)
    for line in exported.notes:
        _say(line)
    _print(to_json(exported), "\n".join(exported.urls), json)


@app.command()
@one_line_errors
def locate(json: AsJson = False) -> None:
    """Where everything lies."""
    from engine import headless

    places = headless.places()
    pairs = [(key, v) for key, value in places.items() for v in (value if isinstance(value, list) else [value])]
    lines = [f"{key:<13} {visible(v)}" for key, v in pairs]
    _print(headless.to_json(places), "\n".join(lines), json)


@app.command()
@one_line_errors
def doctor(json: AsJson = False) -> None:
    """Versions, devices, terminal and paths, and what is missing."""
    from engine.doctor import examine, report

    found = examine()
    from engine.headless import to_json

    _print(to_json(found), report(found), json)


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
        work=work, model=model, device=device, dtype=dtype, report=_report,
    )  # fmt: skip


def _open_request(model: str | None, dictionary: list[str] | None, device: str, dtype: str, bos: str) -> Any:
    from engine.protocol import Open

    return Open(id=1, model=model, dictionaries=tuple(dictionary or ()), device=device, dtype=dtype, bos=_bos(bos))


def _bos(rule: str) -> Any:
    if rule not in {"auto", "on", "off"}:
        raise typer.BadParameter("use auto, on or off", param_hint="--bos")
    return rule


def _prompt(given: str) -> str:
    if given != "-":
        return given
    if sys.stdin is None:
        raise BadRequest("Standard input is closed.", "Give the prompt as an argument.")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")  # exact, line endings too


def _print(as_json: str, as_text: str, json: bool) -> None:
    typer.echo(as_json if json else as_text)


def _report(text: str, done: int, total: int) -> None:
    """Progress on one line of standard error, where that is a terminal."""
    if sys.stderr.isatty():
        share = f" {100 * done // total:3d} %" if total else ""
        bar = f" [{'━' * (20 * done // total):<20}]" if total else ""
        typer.echo(f"\r\x1b[2K{visible(text)}{bar}{share}" if text else "\r\x1b[2K", nl=False, err=True)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without our glyphs is no reason to stop
    quiet_libraries()
    app()


if __name__ == "__main__":
    main()
