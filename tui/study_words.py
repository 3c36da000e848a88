"""The words of study pages: how a result ended, its figures with what they mean, notes and settings."""

from __future__ import annotations

from datetime import datetime

from rich.style import Style
from rich.text import Text

from engine.protocol import Cell, Column, StudyResult
from tui.panes.card import Part
from tui.plots.words import cell_words
from tui.study_fields import fields_of, shown
from tui.study_state import ending
from tui.text import cell_len, fit, number, visible, wrapped
from tui.widgets.bar import shortened
from tui.widgets.lines import Build

_LABEL = 28
_FIGURE = Column("figure", "number")


def ended_words(result: StudyResult) -> str:
    """A sentence for the status line."""
    name, after = visible(result.study), f"after {number(result.seconds)} s"
    if result.finished:
        return f"The {name} study is done {after}."
    return f"The {name} study was stopped {after}; what it found is kept."


def state_words(result: StudyResult, growing: bool) -> str:
    """`finished · 3.20 s`."""
    return f"{ending(result, growing)} · {number(result.seconds)} s"


def clock(at: str) -> str:
    """The time of a record as the clock on the wall said it."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M")
    except ValueError:
        return ""


def figure_words(value: Cell) -> str:
    """A figure as the number of a table: whole numbers whole, others in three digits, a dash for what is not there."""
    return cell_words(value, _FIGURE)


def overview(result: StudyResult, part: Part, wrong: Text) -> Build:
    """The first section of a result: figures, notes, and how it was made; `wrong` is why it is not whole."""

    def build(width: int) -> list[Text]:
        lines = [Text(line, Style(bold=True)) for line in wrapped(result.title, width)]
        lines += [Text(), *_figures(result, width, part)]
        lines += [Text(line, wrong.style) for line in wrapped(wrong.plain, width) if line]
        for note in result.notes:
            lines += [Text(("· " if n == 0 else "  ") + line) for n, line in enumerate(wrapped(note, width - 2))]
        if not result.finished:
            lines.append(Text("What is here is what was found until now; it is valid as it is.", part("accent")))
        return [*lines, Text(), *_made(result, width, part)]

    return build


def _figures(result: StudyResult, width: int, part: Part) -> list[Text]:
    """Name, number, and what it means beside it or, where there is little room, below."""
    if not result.figures:
        return []
    words = {name: figure_words(value) for name, value in result.figures.items()}
    names = min(max(cell_len(visible(name)) for name in result.figures), max(width // 3, 12), _LABEL)
    sizes = min(max(map(cell_len, words.values())), max(width // 3, 8))
    room, lines = width - names - sizes - 4, list[Text]()
    beside = room >= 24
    for name, word in words.items():
        meaning = wrapped(result.meanings.get(name, ""), room if beside else width - 4)
        line = Text(fit(visible(name), names) + "  ", part("dim"))
        line.append(fit(word, sizes, right=True), Style(bold=True, dim=False))
        if beside:
            line.append(f"  {meaning[0]}", part("dim"))
            meaning = meaning[1:]
        lines.append(line)
        indent = width - room if beside else 4
        lines += [Text(" " * indent + more, part("dim")) for more in meaning if more]
    return [*lines, Text()]


def _made(result: StudyResult, width: int, part: Part) -> list[Text]:
    """Settings as the form says them, then model, dictionaries and how numbers were computed."""
    lines = [Text("settings", Style(bold=True))]
    for field in fields_of(result.study):
        text = shown(field, result.settings.get(field.name, field.default))
        if text:
            label = fit(field.label, min(16, width // 3))
            lines.append(
                Text.assemble((f"  {label}  ", part("dim")), shortened(visible(text), width - cell_len(label) - 4))
            )
    made = result.provenance
    sources = ", ".join(sorted(made.dictionaries))
    words = " · ".join(filter(None, (made.model, f"{made.dtype} on {made.device}", sources)))
    return [*lines, Text(), *(Text(line, part("dim")) for line in wrapped(words, width))]
