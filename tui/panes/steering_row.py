"""One intervention as one line: where its parts stand at a width, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style

from engine.protocol import Intervention
from tui.state import State
from tui.steering_state import FACTORS, SteerRow, mark_of, reach_of, strength_of
from tui.text import cell_len, fit, number, signed, visible
from tui.widgets.slider import slider

BOX = 1
"""Where `[x]` begins, after the mark of the cursor."""
_FIRST = 5
_LONGEST_SLIDER = 41
_SHORTEST_SLIDER = 5
_USUAL_SLIDER = 15
_LABEL, _LONGEST_LABEL = 10, 30
"""Cells from which a label says something; with fewer the slider takes them."""


@dataclass(frozen=True)
class Columns:
    """Widths of the parts of every row, and where the slider begins."""

    name: int
    label: int
    kind: int
    slider: int
    value: int
    positions: int

    @property
    def slider_at(self) -> int:
        return _FIRST + self.name + 1 + (self.label + 1 if self.label else 0) + self.kind + 1


def columns(state: State, width: int) -> Columns:
    """What has room: numbers stay whole, labels shorten first, then the slider, then the name of the source."""
    rows = [row.intervention for row in state.steering.rows]
    scales = [state.scale_of(one.feature) for one in rows]
    name = max((cell_len(str(one.feature)) for one in rows), default=8)
    kind = max((cell_len(kind_of(one)) for one in rows), default=3)
    for style, least in ((_full, 21), (_short, 13), (_shortest, 6)):
        value = max(cell_len(style(one, scale)) for one, scale in zip(rows, scales, strict=True)) if rows else 0
        value = max(value, least)  # a slider that grew and shrank with its number could not be dragged
        positions = max((cell_len(positions_of(one, width)) for one in rows), default=3)
        room = width - _FIRST - name - 1 - kind - 1 - 1 - value - 1 - positions - 1
        if room >= (_USUAL_SLIDER + 1 + _LABEL if style is _full else _SHORTEST_SLIDER):
            break
    if room < _SHORTEST_SLIDER:
        name = max(6, name - (_SHORTEST_SLIDER - room))
        room = width - _FIRST - name - 1 - kind - 1 - 1 - value - 1 - positions - 1
    label = min(room - _USUAL_SLIDER - 1, _LONGEST_LABEL)
    if label < _LABEL:
        label = 0
    bar = min(room - (label + 1 if label else 0), _LONGEST_SLIDER)
    return Columns(name, label, kind, bar - 1 + bar % 2 if bar >= 3 else 0, value, positions)


def draw(
    state: State, row: SteerRow, columns: Columns, width: int, style: Callable[[str], Style], *, marked: bool
) -> list[Segment]:
    """The line of one intervention; `style` knows dim, accent, link, positive and negative."""
    one, dim = row.intervention, style("dim")
    scale = state.scale_of(one.feature)
    plain = Style() if row.on else dim
    segments = [
        Segment("▌" if marked else " ", style("accent")),
        Segment("[x] " if row.on else "[ ] ", Style(bold=True) if row.on else dim),
        Segment(_name(str(one.feature), columns.name) + " ", plain),
    ]
    if columns.label:
        segments.append(Segment(fit(visible(state.hints.get(str(one.feature), "")), columns.label) + " ", dim))
    segments.append(Segment(fit(kind_of(one), columns.kind) + " ", plain))
    if one.has_strength and columns.slider:
        share = (strength_of(one, scale) - mark_of(one)) / reach_of(one, scale)
        segments += slider(share, columns.slider, style if row.on else lambda _: dim)
    else:
        segments.append(Segment(" " * columns.slider))
    value = next((t for t in (f(one, scale) for f in (_full, _short, _shortest)) if cell_len(t) <= columns.value), "")
    segments.append(Segment(" " + fit(value, columns.value), plain + Style(bold=row.on)))
    segments.append(Segment(" " + fit(positions_of(one, width), columns.positions), dim))
    return segments


def _name(name: str, width: int) -> str:
    """A feature's name; the index stays whole."""
    if cell_len(name) <= width:
        return fit(name, width)
    source, _, index = name.rpartition(":")
    return fit(source, max(width - cell_len(index) - 1, 1)) + ":" + index


def kind_of(one: Intervention) -> str:
    """What is done, in a word or two."""
    if one.kind == "ablate":
        return f"→ {one.to}"
    return "add unit" if one.kind == "add" and one.unit_norm else one.kind


def positions_of(one: Intervention, width: int) -> str:
    text = str(one.positions)
    if one.positions.kind == "range":
        return f"{'tokens' if ':' in text else 'token'} {text}" if width >= 56 else f"@{text}"
    if width >= 70:
        return {"all": "all tokens", "prompt": "prompt only"}.get(text, text)
    return text if width >= 56 else text[:3]


def _full(one: Intervention, scale: float) -> str:
    strength = strength_of(one, scale)
    if not one.has_strength:
        return ""
    if one.kind in FACTORS:
        return f"{number(strength):>6} × {'f' if one.kind == 'scale' else 'x·d'}"
    if one.kind == "cap":
        return f"{'≤':>6} {number(strength)}"
    return f"{signed(strength / scale):>6} × max = {signed(strength)}"


def _short(one: Intervention, scale: float) -> str:
    strength = strength_of(one, scale)
    if not one.has_strength:
        return ""
    if one.kind in FACTORS:
        return f"{number(strength):>6}×"
    if one.kind == "cap":
        return f"{'≤':>6} {number(strength)}"
    return f"{signed(strength / scale):>6}× {signed(strength)}"


def _shortest(one: Intervention, scale: float) -> str:
    strength = strength_of(one, scale)
    if not one.has_strength:
        return ""
    if one.kind == "cap":
        return f"≤{number(strength)}"
    return f"{number(strength)}×" if one.kind in FACTORS else f"{signed(strength / scale)}×"
