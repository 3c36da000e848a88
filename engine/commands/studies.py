"""The group `saescope study`; its commands are made when one is asked for, since making them reads all settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from engine.commands.common import group

if TYPE_CHECKING:
    from engine.protocol import Open, StudyResult

RecordStudy = Callable[[Path, "Open", "StudyResult"], str]
"""Adds a result to a session file, made where there is none; what is said about it."""


def studies_group(record: RecordStudy) -> typer.Typer:
    """The group; `record` is what `--into` does."""

    class Studies(TyperGroup):
        """Finds its commands when they are asked for."""

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self._made())

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._made().get(cmd_name)

        def _made(self) -> dict[str, Any]:
            from engine.commands.study_commands import commands

            return commands(record)

    what = "Studies: analyses over prompts and text, each with figures, tables and plots."
    return group(what, cls=Studies, no_args_is_help=True)
