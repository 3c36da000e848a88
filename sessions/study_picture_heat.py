"""Grids of values as pictures: numbers on colours where cells have room for them, else colours with a scale."""

from __future__ import annotations

from engine.study_results import Heat, Table
from sessions.circuit_layout import columns_of
from sessions.study_picture_cells import Cells, NothingToDraw, needed
from sessions.study_picture_frame import CHARACTER, GREY, RIGHT, Drawn, Key, fill, fit, text, titled
from sessions.study_picture_scale import Scale, number, raw, scale_over

_MOST_ROWS, _MOST_COLUMNS = 200, 150
_MOST_TITLED = 3000
_SMALL = 6.1
"""The width of a character of 10 pixels."""
_FAINT, _DEEP = (242, 246, 251), (8, 48, 107)
_TOP = 34


def draw_heat(view: Heat, table: Table) -> Drawn:
    """A cell for each value of row and column, in the order first met; of several rows for one cell the last.

    Raises:
        NothingToDraw: there is no number, or no column to place it by.
    """
    down, across, values = (needed(table, name)[0] for name in (view.row, view.column, view.value))
    rows, columns = _places(down), _places(across)
    cells = {(rows[down.words(n)], columns[across.words(n)]): n for n in range(len(table.rows))}
    shown = {place: n for place, n in cells.items() if place[0] < _MOST_ROWS and place[1] < _MOST_COLUMNS}
    known = [value for n in shown.values() if (value := values.numbers[n]) is not None]
    if not known:
        raise NothingToDraw("no row has a number")
    most = max(map(abs, known))
    scale = Scale(-(raw(most, "linear") or 1.0), raw(most, "linear") or 1.0) if view.diverging else scale_over(known)
    grid = _Grid(
        [*rows][:_MOST_ROWS], [*columns][:_MOST_COLUMNS], max(columns_of(values.value(n)) for n in shown.values())
    )
    parts = [*_ramp(scale, view.diverging, values.name), *grid.names(), *grid.missing(set(shown), values)]
    for (row, column), n in shown.items():
        value = values.numbers[n]
        if value is None:
            parts += grid.cell(row, column, fill(-1), "", "–", None)
            continue
        background, ink = _colours(scale.at(value), view.diverging)
        hatched = "url(#negative)" if view.diverging and value < 0 and not grid.has_numbers else None
        tip = (
            f"{fit(down.words(n), 40)} · {fit(across.words(n), 40)} · {value:.6g}" if len(shown) <= _MOST_TITLED else ""
        )
        parts += grid.cell(row, column, background, tip, values.value(n), hatched, ink)
    keys = [Key("fill", -1, "no number")] if len(known) < len(grid.rows) * len(grid.columns) else []
    notes = []
    for kind, all_of, drawn in (("rows", rows, grid.rows), ("columns", columns, grid.columns)):
        if len(all_of) > len(drawn):
            notes.append(f"the first {len(drawn):,} of {len(all_of):,} {kind}")
    if view.diverging and not grid.has_numbers:
        notes.append("hatched: below zero")
    return Drawn(parts, grid.height, keys, notes)


def _places(cells: Cells) -> dict[str, int]:
    """The place of each name, in the order first met."""
    found: dict[str, int] = {}
    for row in range(len(cells.all)):
        found.setdefault(cells.words(row), len(found))
    return found


class _Grid:
    """Where cells lie, and which names have room."""

    def __init__(self, rows: list[str], columns: list[str], digits: int) -> None:
        self.rows, self.columns = [fit(name, 34) for name in rows], [fit(name, 24) for name in columns]
        self.left = 26 + max(map(columns_of, self.rows)) * CHARACTER
        named = max(map(columns_of, self.columns)) * CHARACTER + 8
        self.wide = min((RIGHT - self.left) / len(columns), max(digits * _SMALL + 12, named, 46))
        self.tall = 20.0 if len(rows) <= 60 else 10.0
        self.has_numbers = self.wide >= digits * _SMALL + 2 and self.tall >= 14
        self.bottom = _TOP + len(rows) * self.tall
        self.is_level = named - 4 <= self.wide
        slant = max(map(columns_of, self.columns)) * CHARACTER * 0.71
        self.height = self.bottom + (30 if self.is_level else slant + 30)

    def names(self) -> list[str]:
        """Of rows on the left, of columns below; of narrow columns every so many."""
        parts = []
        for n, name in enumerate(self.rows):
            y = _TOP + (n + 0.5) * self.tall + 4
            size = "" if self.tall > 12 else ' font-size="9"'
            parts.append(text(self.left - 6, y, name, f'class="row" text-anchor="end"{size}'))
        every = max(1, -int(-12 // self.wide))
        for n, name in enumerate(self.columns):
            x, y = self.left + (n + 0.5) * self.wide, self.bottom + 15
            if self.is_level:
                parts.append(text(x, y, name, 'class="column" text-anchor="middle"'))
            elif n % every == 0:
                turned = f'class="column" text-anchor="end" transform="rotate(-45 {x + 3:.1f} {y:.1f})"'
                parts.append(text(x + 3, y, name, turned))
        return parts

    def missing(self, known: set[tuple[int, int]], values: Cells) -> list[str]:
        """One field under all cells, seen where there are none."""
        if len(known) == len(self.rows) * len(self.columns):
            return []
        size = f'width="{len(self.columns) * self.wide:.2f}" height="{len(self.rows) * self.tall:.2f}"'
        return [f'<rect x="{self.left:.2f}" y="{_TOP}" {size} fill="{fill(-1)}"/>']

    def cell(
        self, row: int, column: int, background: str, tip: str, words: str, hatched: str | None, ink: str = GREY
    ) -> list[str]:
        """A cell, its pattern and its number."""
        x, y = self.left + column * self.wide, _TOP + row * self.tall
        box = f'x="{x:.2f}" y="{y:.2f}" width="{self.wide:.2f}" height="{self.tall:.0f}"'
        shape = f'<rect class="cell" {box} fill="{background}"/>'
        parts = [titled(shape, tip) if tip else shape]
        if hatched:
            parts.append(f'<rect {box} fill="{hatched}"/>')
        if self.has_numbers:
            middle = f'text-anchor="middle" font-size="10" fill="{ink}"'
            parts.append(text(x + self.wide / 2, y + self.tall / 2 + 3.5, words, middle))
        return parts


def _ramp(scale: Scale, diverging: bool, name: str) -> list[str]:
    """The colours from the lowest to the highest number, with both."""
    low, high = number(scale.low), number(scale.high)
    start = 26 + columns_of(low) * CHARACTER
    parts = [text(20, 17, low)]
    for n in range(32):
        place = (n + 0.5) / 32
        background, _ = _colours(place, diverging)
        parts.append(f'<rect x="{start + n * 6:.1f}" y="7" width="6.3" height="13" fill="{background}"/>')
        if diverging and place < 0.5:
            parts.append(f'<rect x="{start + n * 6:.1f}" y="7" width="6.3" height="13" fill="url(#negative)"/>')
    return [*parts, text(start + 198, 17, f"{high}   {fit(name, 60)}")]


def _colours(place: float, diverging: bool) -> tuple[str, str]:
    """Of a place from 0 to 1: pale to deep blue, or diverging red over white to blue; and an ink read on it."""
    if diverging:
        share = max(-1.0, min(2 * place - 1, 1.0))
        deep = (24, 72, 172) if share >= 0 else (190, 40, 30)
        rgb = [round(255 + (end - 255) * abs(share)) for end in deep]
    else:
        share = max(0.0, min(place, 1.0))
        rgb = [round(a + (b - a) * share) for a, b in zip(_FAINT, _DEEP, strict=True)]
    red, green, blue = rgb
    dark = 0.299 * red + 0.587 * green + 0.114 * blue <= 140
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if dark else "#111111"
