"""Containers and widgets that are laid out once per change of size."""

from __future__ import annotations

from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.widget import Widget


class Settled(Widget):
    """A widget whose content does not decide its size.

    A Textual widget that got another size asks for one more layout, in case its content grew, and that draws half the
    screen twice.
    """

    def _size_updated(self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True) -> bool:
        return super()._size_updated(size, virtual_size, container_size, layout=False)


class Row(Settled, Horizontal):
    """Side by side."""


class Column(Settled, Vertical):
    """One above the other."""
