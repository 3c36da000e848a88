"""The group `saescope study`; its commands are made when one is asked for, since making them reads all settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer
from typer.core import TyperGroup

from engine.commands.common import group

if TYPE_CHECKING:
    from engine.protocol import Open, StudyResult


class Records(Protocol):
    """Where results are kept: session files, of which the engine knows nothing."""

    def check(self, file: Path) -> None:
        """Raise SessionError where nothing could be added."""

    def add(self, file: Path, opening: Open, result: StudyResult) -> str:
        """Add a result, to a new file where there is none; what is said about it."""


def studies_group(records: Records) -> typer.Typer:
    """The group; `records` is what `--into` means."""

    @cache
    def made() -> dict[str, Any]:
        from engine.commands.study_commands import commands

        return commands(records)

    class Studies(TyperGroup):
        """Finds its commands when they are asked for."""

        def list_commands(self, ctx: Any) -> list[str]:
            return list(made())

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return made().get(cmd_name)

    what = "Studies: analyses over prompts and text, each with figures, tables and plots."
    return group(what, cls=Studies, no_args_is_help=True)
