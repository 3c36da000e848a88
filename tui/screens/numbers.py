"""What is open and how its numbers are made: model, memory, and per dictionary the hook, the formula and its form."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from engine.protocol import DictionaryInfo, MemoryPlan, ModelInfo
from tui.panes.card import Part
from tui.screens.page import PageScreen, wrapped
from tui.state import State
from tui.text import counted, visible
from tui.widgets.lines import Build

_BOS = {
    "on": "prompts begin with BOS",
    "off": "prompts do not begin with BOS",
    "tokenizer": "BOS as the tokenizer does",
}
_RESIDENCY = {"device": "beside the model", "host": "in main memory, moved on use", "disk": "read from disk on use"}


class NumbersPage(PageScreen):
    """A page to compare with what others published."""

    def __init__(self, state: State) -> None:
        self._engine, self._activations = state.engine, _activations(state)
        super().__init__("What is open, and how its numbers are made", "\n".join(_copied(state)))

    def lines(self, part: Part) -> Build:
        def build(width: int) -> list[Text]:
            lines: list[Text] = []
            model = self._engine.model
            if model is None:
                return [Text("No model is open yet.", part("dim"))]
            lines += _paragraph(model_words(model), width, Style(bold=True))
            lines += _paragraph(model_place(model), width, part("dim"), 2)
            lines += _paragraph(f"activations {self._activations}", width, Style(), 2)
            if self._engine.plan is not None:
                lines += _paragraph(plan_words(self._engine.plan), width, Style(), 2)
            for info in self._engine.dictionaries:
                lines.append(Text())
                head = Text(visible(info.source), part("accent") + Style(bold=True))
                head.append(f"  {visible(info.hook)}  {info.d_in} → {info.d_sae:,}", Style())
                lines.append(head)
                lines += _paragraph(f"{visible(info.form or info.architecture)}: {info.formula}", width, Style(), 2)
                for note in info.notes:
                    lines += _paragraph(f"· {visible(note)}", width, part("accent"), 2)
                lines += _paragraph(_where(info), width, part("dim"), 2)
            return lines

        return build


def model_words(model: ModelInfo) -> str:
    """The model in one line."""
    bos = _BOS.get(model.bos, model.bos)
    return (
        f"{visible(model.name)} · {model.architecture} · {counted(model.layers, 'layer', 'layers')} of {model.d_model}"
        f" · {model.dtype} on {model.device} · {bos}"
    )


def model_place(model: ModelInfo) -> str:
    return f"{visible(model.folder)} · sha256 {model.sha256[:12]}…"


def plan_words(plan: MemoryPlan) -> str:
    """What opening needed and what was chosen."""
    return f"memory: {visible(plan.reason)}"


def _activations(state: State) -> str:
    if state.result is not None and (said := state.result.provenance.settings.get("activations")):
        return f"are {said}"
    return "are f·‖W_dec‖, as Neuronpedia shows them" if state.opening.fold else "are raw f"


def _where(info: DictionaryInfo) -> str:
    parts = [_RESIDENCY[info.residency], f"sha256 {info.sha256[:12]}…"]
    parts.append(f"Neuronpedia {visible(info.neuronpedia)}" if info.neuronpedia else "no Neuronpedia page")
    if info.release:
        parts.append(visible(info.release))
    return " · ".join([*parts, visible(info.folder)])


def _paragraph(text: str, width: int, style: Style, indent: int = 0) -> list[Text]:
    return [Text(" " * indent + line, style) for line in wrapped(text, width - indent)]


def _copied(state: State) -> list[str]:
    """The page as plain text, for a note or an issue."""
    model, lines = state.engine.model, []
    if model is not None:
        lines += [model_words(model), model_place(model), f"activations {_activations(state)}"]
    for info in state.engine.dictionaries:
        lines += [f"{info.source}  {info.hook}  {info.d_in} -> {info.d_sae}", f"  {info.form}: {info.formula}"]
        lines += [f"  {note}" for note in info.notes]
        lines.append(f"  {_where(info)}")
    return lines
