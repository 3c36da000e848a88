"""The options by which a model and dictionaries are opened, declared once for every command that opens them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from engine.commands.common import set_parameters
from engine.commands.completing import complete_dictionary, complete_model

if TYPE_CHECKING:
    from engine.protocol import Open

R = TypeVar("R")

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", autocompletion=complete_model,
        help="A Hugging Face model folder or id, a short name like gpt2-small, or the name of a set.",
    ),
]  # fmt: skip
Dictionaries = Annotated[
    list[str] | None,
    typer.Option(
        "--dictionary", "-d", autocompletion=complete_dictionary,
        help="A folder of any known form (with @HOOK where it does not say what it reads), a SAELens release, "
        "hf://OWNER/REPO/PATH, or neurons:KIND; may be repeated. `saescope dictionaries` lists what has a name.",
    ),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16. auto is float32 on a CPU.")]
Bos = Annotated[str, typer.Option(help="Begin prompts with BOS: auto (as the dictionaries were trained), on or off.")]
Fold = Annotated[bool, typer.Option("--fold", help="Activations are f·‖W_dec‖, as Neuronpedia shows them; raw f else.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch what is not on this machine from the hub.")]
Keep = Annotated[
    str,
    typer.Option(metavar="WHERE", help="Keep dictionaries on the device, in host memory or on disk; auto: what fits."),
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": (Model, None),
    "dictionary": (Dictionaries, None),
    "device": (Device, "auto"),
    "dtype": (Dtype, "auto"),
    "bos": (Bos, "auto"),
    "fold": (Fold, False),
    "download": (Download, False),
    "keep": (Keep, "auto"),
}


def opens_model(*without: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Hand a command what to open as `opening`; it gets the options for it where that parameter stands.

    `without` names options that mean something else to this command.
    """
    options = {name: option for name, option in _OPTIONS.items() if name not in without}

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def wrapped(**given: Any) -> R:
            chosen = {name: given.pop(name) for name in options}
            return command(**given, opening=open_request(**chosen))

        parameters: list[inspect.Parameter] = []
        hints = get_type_hints(command, localns={"Open": object}, include_extras=True)
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "opening":
                parameters += [
                    inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                    for option, (kind, default) in options.items()
                ]
            else:
                parameters.append(
                    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(name, parameter.empty))
                )
        set_parameters(wrapped, parameters)
        return wrapped

    return decorate


def open_request(
    model: str | None = None,
    dictionary: list[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    bos: str = "auto",
    fold: bool = False,
    download: bool = False,
    keep: str = "auto",
) -> Open:
    """What to open, from the options as typed."""
    from engine.protocol import Open, Residency

    return Open(
        id=1,
        model=model,
        dictionaries=tuple(dictionary or ()),
        device=device,
        dtype=dtype,
        bos=_one_of("--bos", bos, ("auto", "on", "off")),
        fold=fold,
        download=download,
        residency=_one_of("--keep", keep, ("auto", *get_args(Residency))),
    )


def _one_of(option: str, given: str, words: tuple[str, ...]) -> Any:
    if given not in words:
        raise typer.BadParameter(f"use {', '.join(words[:-1])} or {words[-1]}", param_hint=option)
    return given
