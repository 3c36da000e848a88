"""The sections of a result, and the line of tabs that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from rich.style import Style
from rich.text import Text

from engine.protocol import StudyResult
from tui.text import cell_len, visible
from tui.widgets.bar import shortened

SectionKind = Literal["figures", "plot", "table", "set"]
_NAME, _LEAST = 24, 12
_SIGNS: dict[SectionKind, str] = {"figures": "", "plot": "plot ", "table": "table ", "set": "set "}


SectionKey: TypeAlias = tuple[SectionKind, str]
"""What a section is told by while results grow, and from one opening of a page to the next."""


class Section(msgspec.Struct, frozen=True):
    """One of them."""

    kind: SectionKind
    place: int
    """Which of its kind."""
    title: str
    name: str = ""
    """As the study calls it; its title may tell how much is there so far."""

    @property
    def key(self) -> SectionKey:
        return self.kind, self.name or self.title


FIGURES = Section("figures", 0, "summary")


def sections_of(result: StudyResult) -> tuple[Section, ...]:
    """Figures first, then plots, tables and sets as the study gives them; a plot without its table is left out."""
    known = {table.name for table in result.tables}
    return (
        FIGURES,
        *(Section("plot", n, view.title) for n, view in enumerate(result.views) if view.table in known),
        *(Section("table", n, table.title or table.name, table.name) for n, table in enumerate(result.tables)),
        *(Section("set", n, chosen.name) for n, chosen in enumerate(result.sets)),
    )


def place_of(sections: Sequence[Section], key: SectionKey, before: int = 0) -> int:
    """Where a section stands now; where there is none of this name any more, what took its place."""
    found = [n for n, section in enumerate(sections) if section.key == key]
    return min(found, key=lambda n: abs(n - before), default=max(min(before, len(sections) - 1), 0))


def tabs(sections: Sequence[Section], at: int, width: int, dim: Style, accent: Style) -> Text:
    """`1 figures · ‹2 plot Rates› · 3 table …`: names nearest to the one that shows, as far as there is room."""
    order = sorted(range(len(sections)), key=lambda n: (abs(n - at), n < at))
    room = width - cell_len(_tabs(sections, at, frozenset(), 0, dim, accent).plain) - 1
    line = Text()
    for most in range(1, len(sections) + 1):
        longer = _tabs(sections, at, frozenset(order[:most]), room, dim, accent)
        if room < _LEAST or cell_len(longer.plain) > width:
            break
        line = longer
    if line.plain:
        return line
    name = shortened(_named(sections[at]), width - 16)
    return Text.assemble((f" {at + 1} of {len(sections)} ", dim), (f"‹{name}›", accent + Style(bold=True)))


def _tabs(sections: Sequence[Section], at: int, named: frozenset[int], room: int, dim: Style, accent: Style) -> Text:
    """`room` is what the name of the section that shows may take."""
    line = Text(" ")
    for n, section in enumerate(sections):
        line.append("  " if n else "", dim)
        title = shortened(_named(section), room if n == at else _NAME)
        name = f"{n + 1} {title}" if n in named else str(n + 1)
        line.append(*((f"‹{name}›", accent + Style(bold=True)) if n == at else (name, dim)))
    return line


def _named(section: Section) -> str:
    return f"{_SIGNS[section.kind]}{visible(section.title)}"
