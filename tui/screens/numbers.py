"""What is open and how its numbers are made: what all dictionaries share said once, then a row for each of them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from engine.protocol import DictionaryInfo, ModelInfo
from tui.panes.card import Part
from tui.screens.page import PageScreen
from tui.state import State
from tui.text import cell_len, counted, fit, visible, wrapped
from tui.widgets.lines import Build

_BOS = {
    "on": "prompts begin with BOS",
    "off": "prompts do not begin with BOS",
    "tokenizer": "BOS as the tokenizer does",
}
_RESIDENCY = {
    "device": "beside the model",
    "host": "in main memory, copied to the device when used",
    "disk": "on disk, read when used",
}
_FOLDED = "f·‖W_dec‖"
_PRECISE = {"float32", "float64"}
_COPIED = 10_000
"""Cells of a line when the page is copied: nothing is wrapped."""
_HEADINGS = ("source", "hook", "d_in → d_sae", "Neuronpedia")
_FIGURES = re.compile(r" \([^()]*\)\Z")


@dataclass(frozen=True)
class Kind:
    """Dictionaries whose numbers are made in the same way."""

    formula: str
    notes: tuple[str, ...]
    """What holds for all of them; figures that differ are left out."""
    dictionaries: tuple[DictionaryInfo, ...]
    own: tuple[tuple[str, ...], ...]
    """For each, its notes whose figures are its own."""

    @property
    def same_size(self) -> bool:
        """Whether there are several, all of one size."""
        return len(self.dictionaries) > 1 and len({_size(info) for info in self.dictionaries}) == 1


class NumbersPage(PageScreen):
    """A page to compare with what others published."""

    def __init__(self, state: State) -> None:
        self._state = state
        copied = self._build(_COPIED, lambda _: Style())
        super().__init__("What is open, and how its numbers are made", "\n".join(line.plain for line in copied))

    def lines(self, part: Part) -> Build:
        return lambda width: self._build(width, part)

    def _build(self, width: int, part: Part) -> list[Text]:
        state, model = self._state, self._state.engine.model
        lines = _why_not(state, width, part)
        if model is None:
            return lines
        engine, dictionaries = state.engine, state.engine.dictionaries
        lines += _paragraph(model_words(model), width, Style(bold=True))
        lines += _paragraph(f"{visible(model.folder)} · sha256 {model.sha256[:12]}…", width, part("dim"), 2)
        lines += _paragraph(activation_words(state, model), width, Style(), 2)
        if engine.plan is not None:
            lines += _paragraph(f"memory: {visible(engine.plan.reason)}", width, Style(), 2)
        if not dictionaries:
            return lines
        root = _root(dictionaries)
        lines += [Text(), *_paragraph(_shared(dictionaries, root), width, Style(bold=True))]
        kinds = told_apart(dictionaries, folded=activation_form(state) == _FOLDED)
        for kind in kinds:
            size = f" · {_size(kind.dictionaries[0])}" if kind.same_size else ""
            lines += [Text(), *_paragraph(f"{kind.formula}{size}", width, part("accent") + Style(bold=True))]
            for note in kind.notes:
                lines += _paragraph(f"· {note}", width, part("accent"), 2)
            lines += _table([_HEADINGS, *map(_row, kind.dictionaries)], width, part, sizes=not kind.same_size)
        lines += [Text(), Text("Where each lies, and what is its own", Style(bold=True))]
        pairs = [(info, own) for kind in kinds for info, own in zip(kind.dictionaries, kind.own, strict=True)]
        indent = min(max(len(visible(info.source)) for info, _ in pairs) + 2, max(width // 3, 8))
        for info, own in pairs:
            lines += _hanging(visible(info.source), _own_parts(info, own, root), width, indent, part("dim"))
        return lines


# --- words --------------------------------------------------------------------------------------------------------


def _why_not(state: State, width: int, part: Part) -> list[Text]:
    """Why nothing is open, where that is so."""
    trouble, model = state.trouble, state.engine.model
    if trouble is not None:
        lines = _paragraph(f"Nothing is open. {trouble.text}", width, Style(bold=True))
        lines += _paragraph(f"{trouble.remedy} Then start saescope again; q leaves.".strip(), width, Style())
        return lines if model is None else [*lines, Text(), Text("What this session was made with:", part("dim"))]
    if model is None:
        return _paragraph(f"No model is open yet: {visible(state.engine.text)}.", width, part("dim"))
    return []


def model_words(model: ModelInfo) -> str:
    """The model in one line."""
    bos = _BOS.get(model.bos, model.bos)
    return (
        f"{visible(model.name)} · {model.architecture} · {counted(model.layers, 'layer', 'layers')} of {model.d_model}"
        f" · {model.dtype} on {model.device} · {bos}"
    )


def activation_form(state: State) -> str:
    """`raw f` or `f·‖W_dec‖`: of what is open, or in a recording of what was recorded."""
    if state.replaying and state.result is not None:
        said = state.result.provenance.settings.get("activations")
        return _FOLDED if said == _FOLDED or (said is None and state.opening.fold) else "raw f"
    return _FOLDED if state.opening.fold else "raw f"


def activation_words(state: State, model: ModelInfo) -> str:
    """What an activation on screen is."""
    form = activation_form(state)
    text = f"activations are {form}"
    if form == _FOLDED:
        text += ": decoder norms are folded in, as Neuronpedia shows them"
    return text if model.dtype in _PRECISE else f"{text}; what is displayed is rescored in float32"


def _shared(dictionaries: Sequence[DictionaryInfo], root: str) -> str:
    where = " or ".join(dict.fromkeys(_RESIDENCY[info.residency] for info in dictionaries))
    text = f"{counted(len(dictionaries), 'dictionary', 'dictionaries')}, {where}"
    return f"{text} · files in {visible(root)}" if root else text


def _row(info: DictionaryInfo) -> tuple[str, ...]:
    page = visible(info.neuronpedia) if info.neuronpedia else "no page"
    return visible(info.source), visible(info.hook), _size(info), page


def _size(info: DictionaryInfo) -> str:
    return f"{info.d_in:,} → {info.d_sae:,}"


def _own_parts(info: DictionaryInfo, own: Sequence[str], root: str) -> list[str]:
    if not info.sha256:
        return [*own, "nothing is read from a file"]
    inside = os.path.relpath(info.folder, root) if root else info.folder
    lies = [visible(inside) if inside != "." else "", visible(info.release or "")]
    return list(filter(None, (f"sha256 {info.sha256[:12]}…", *own, *lies)))


def _root(dictionaries: Sequence[DictionaryInfo]) -> str:
    """The folder that all are in; "" where they share none that says anything."""
    folders = {info.folder for info in dictionaries if info.sha256}
    if not folders:
        return ""
    if len(folders) == 1:
        return os.path.dirname(next(iter(folders)))
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # some are absolute and some are not
        return ""
    return common if common.count(os.sep) > 1 else ""


# --- what is alike ------------------------------------------------------------------------------------------------


def told_apart(dictionaries: Sequence[DictionaryInfo], *, folded: bool) -> list[Kind]:
    """The dictionaries by formula, form, place and notes; what `folded` says is not said again of each."""
    alike: dict[tuple[str, tuple[str, ...]], list[tuple[DictionaryInfo, tuple[str, ...]]]] = {}
    several = len({info.residency for info in dictionaries}) > 1
    for info in dictionaries:
        formula = "; ".join(p for p in info.formula.split("; ") if not (folded and _FOLDED in p))
        head = f"{visible(info.form or info.architecture)}: {formula}"
        if several:
            head += f" · {_RESIDENCY[info.residency]}"
        notes = tuple(visible(note) for note in info.notes if not (folded and _FOLDED in note))
        stems = tuple(_FIGURES.sub("", note) for note in notes)
        alike.setdefault((head, stems), []).append((info, notes))
    return [_kind(head, stems, pairs) for (head, stems), pairs in alike.items()]


def _kind(head: str, stems: tuple[str, ...], pairs: list[tuple[DictionaryInfo, tuple[str, ...]]]) -> Kind:
    same = [len({notes[n] for _, notes in pairs}) == 1 for n in range(len(stems))]
    shared = tuple(pairs[0][1][n] if same[n] else stem for n, stem in enumerate(stems))
    own = tuple(tuple(note for n, note in enumerate(notes) if not same[n]) for _, notes in pairs)
    return Kind(head, shared, tuple(info for info, _ in pairs), own)


# --- lines --------------------------------------------------------------------------------------------------------


def _paragraph(text: str, width: int, style: Style, indent: int = 0) -> list[Text]:
    return [Text(" " * indent + line, style) for line in wrapped(text, width - indent)]


def _hanging(name: str, parts: Sequence[str], width: int, indent: int, style: Style) -> list[Text]:
    """A name and, beside it, what belongs to it, as much on a line as fits there whole."""
    room, lines = width - indent, [""]
    for part in parts:
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if cell_len(joined) <= room:
            lines[-1] = joined
        else:
            lines = [*filter(None, lines), *wrapped(part, room)]
    rows = []
    for number, line in enumerate(lines):
        row = Text(fit(name, indent - 1) + " " if number == 0 else " " * indent)
        row.append(line, style)
        rows.append(row)
    return rows


def _table(rows: Sequence[tuple[str, ...]], width: int, part: Part, *, sizes: bool) -> list[Text]:
    """Columns under their headings, that of sizes if wanted; where they do not fit, the last goes under each row."""
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(_HEADINGS))]
    needed = 2 + widths[0] + 2 + widths[1] + (2 + widths[2] if sizes else 0) + 2 + widths[3]
    lines = []
    for number, (source, hook, size, page) in enumerate(rows):
        line = Text("  ", part("dim") if number == 0 else Style())
        line.append(fit(source, widths[0]), Style() if number == 0 else part("accent"))
        line.append(f"  {fit(hook, widths[1])}")
        line.append(f"  {fit(size, widths[2], right=True)}" if sizes else "")
        if needed <= width:
            line.append(f"  {page}", part("dim"))
        lines.append(line)
        if needed > width and number:
            lines.append(Text(f"    Neuronpedia {page}", part("dim")))
    return lines
