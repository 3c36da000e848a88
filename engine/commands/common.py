"""What all commands share: options, errors on one line, progress, and printing."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from engine.errors import BadRequest, Cancelled, SaescopeError
from engine.text import visible

P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Chat = Annotated[bool, typer.Option("--chat/--no-chat", help="Wrap the prompt in the model's chat template.")]


def group(what: str, **more: Any) -> typer.Typer:
    """A group of commands, with what all of them have: `-h`, and neither markup nor tracebacks of Typer's."""
    return typer.Typer(
        help=what,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **more,
    )


def set_parameters(command: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> None:
    """Have Typer read these in place of a function's own parameters."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}


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
