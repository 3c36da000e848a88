"""What all commands share: options, errors on one line, progress, and printing."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from engine.errors import BadRequest, Cancelled, SaescopeError
from engine.text import visible

if TYPE_CHECKING:
    from engine.protocol import Open

P = ParamSpec("P")
R = TypeVar("R")

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
            say(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read our output has seen enough
                raise
            say(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}.")
            raise typer.Exit(1) from None
        except (Cancelled, KeyboardInterrupt):
            say("stopped.")
            raise typer.Exit(1) from None

    return wrapped


def say(text: str) -> None:
    """One line on standard error; names in it may come from a model's files, and a terminal would obey them."""
    typer.echo(f"saescope: {visible(' '.join(text.split()))}", err=True)


def open_request(model: str | None, dictionary: list[str] | None, device: str, dtype: str, bos: str) -> Open:
    """What to open, from the options every command has."""
    from engine.protocol import Open

    return Open(id=1, model=model, dictionaries=tuple(dictionary or ()), device=device, dtype=dtype, bos=bos_rule(bos))


def bos_rule(rule: str) -> Any:
    """A BOS rule as typed, or typer's error."""
    if rule not in {"auto", "on", "off"}:
        raise typer.BadParameter("use auto, on or off", param_hint="--bos")
    return rule


def read_prompt(given: str) -> str:
    """The prompt as typed; `-` reads standard input."""
    if given != "-":
        return given
    if sys.stdin is None:
        raise BadRequest("Standard input is closed.", "Give the prompt as an argument.")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")  # exact, line endings too


def check_writable(file: Path | None) -> None:
    """Complain before the work rather than after it where a file cannot be written."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        what = "is a folder" if file.is_dir() else "is in a folder that does not exist"
        raise BadRequest(f"{file} {what}.", "Give the path of a file.")


def print_result(as_json: str, as_text: str, json: bool) -> None:
    """One of the two forms of a result."""
    typer.echo(as_json if json else as_text)


def report_progress(text: str, done: int, total: int) -> None:
    """Progress on one line of standard error, where that is a terminal."""
    if sys.stderr.isatty():
        share = f" {100 * done // total:3d} %" if total else ""
        bar = f" [{'━' * (20 * done // total):<20}]" if total else ""
        typer.echo(f"\r\x1b[2K{visible(text)}{bar}{share}" if text else "\r\x1b[2K", nl=False, err=True)
