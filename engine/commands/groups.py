"""Options that come in groups: `--feature` begins one, and what follows belongs to it.

An option parser hands over what each option was given, not in which order different options came; `Grouped` keeps
that too, for commands that are registered with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from engine.errors import BadRequest

if TYPE_CHECKING:
    from engine.typed_interventions import ReadPreset, Typed

_ORDER = "saescope.order"
_declared = typer.Typer(add_completion=False)
Words = list[str] | None


@_declared.command()
def _options(
    feature: Annotated[
        Words, typer.Option(metavar="SOURCE:INDEX", help="Begins a group; what is done to the feature follows.")
    ] = None,
    add: Annotated[
        Words, typer.Option(metavar="S", help="Add S times the decoder row; 2x: twice the feature's maximum.")
    ] = None,
    clamp: Annotated[Words, typer.Option(metavar="V", help="Set the activation to V, or to 2x the maximum.")] = None,
    scale: Annotated[Words, typer.Option(metavar="C", help="Multiply the activation by C.")] = None,
    ablate: Annotated[
        Words, typer.Option(metavar="TO", help="Set the activation to zero, mean (of the corpus), noise or patch.")
    ] = None,
    rescale: Annotated[
        Words, typer.Option(metavar="C", help="Multiply what lies along the decoder row by C (Neuronpedia's).")
    ] = None,
    cap: Annotated[Words, typer.Option(metavar="V", help="Cap what lies along the decoder row at V.")] = None,
    unit_norm: Annotated[bool, typer.Option("--unit-norm", help="Of --add: along the row's unit vector.")] = False,
    positions: Annotated[
        Words, typer.Option(metavar="WHERE", help="all, prompt, generated, 7, 2:9 (to before 9) or 2:.")
    ] = None,
    no_special: Annotated[bool, typer.Option("--no-special", help="Not at special tokens.")] = False,
    patch: Annotated[
        Words, typer.Option(metavar="PROMPT", help="Of --ablate patch: as on this prompt of the same length.")
    ] = None,
    noise_seed: Annotated[Words, typer.Option(metavar="N", help="Of --ablate noise.")] = None,
    preset: Annotated[
        Words, typer.Option(metavar="FILE[:NAME]", help="The interventions of a preset: of a session, or exported.")
    ] = None,
) -> None:
    """The options of a group, declared once for all commands that steer."""


class Grouped(TyperCommand):
    """A command with the options of groups beside its own; `interventions` reads them."""

    def __init__(self, *arguments: Any, params: list[Any] | None = None, **settings: Any) -> None:
        own = params or []
        self._grouped: list[Any] = typer.main.get_command(_declared).params
        for param in self._grouped:
            param.expose_value = False
        first = [param for param in own if param.param_type_name == "argument"]
        rest = [param for param in own if param not in first]
        super().__init__(*arguments, params=[*first, *self._grouped, *rest], **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from engine.typed_interventions import Typed

        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        left = {param.name: iter(values.get(param.name) or ()) for param in self._grouped if param.multiple}
        ctx.meta[_ORDER] = tuple(
            Typed(str(param.name).replace("_", "-"), next(left[param.name]) if param.multiple else "")
            for param in order
            if param in self._grouped
        )
        return super().parse_args(ctx, args)


def typed(context: typer.Context) -> tuple[Typed, ...]:
    """The options of groups, in the order in which they were typed."""
    found: tuple[Typed, ...] = context.meta[_ORDER]
    return found


def preset_reader(context: typer.Context) -> ReadPreset:
    """Who reads presets: the engine knows no sessions, so `main` says it in the context's object."""
    if not callable(context.obj):
        raise BadRequest("Presets cannot be read here.", "Use --feature.")
    reader: ReadPreset = context.obj
    return reader
