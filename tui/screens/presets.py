"""The presets of a session, one to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from sessions.model import Preset
from tui.screens.evidence_parts import intervention_words
from tui.text import cell_len, counted, fit, visible
from tui.widgets.bar import Bar, shortened
from tui.widgets.line_list import LineList, PageList
from tui.widgets.lines import Lines


class PresetList(PageList):
    """Names and what they do."""

    empty = " No preset is saved in this session."

    def __init__(self, presets: Sequence[Preset]) -> None:
        super().__init__(id="preset-list")
        self.presets = tuple(presets)

    @property
    def row_count(self) -> int:
        return len(self.presets)

    def draw_row(self, row: int, width: int) -> list[Segment]:
        preset = self.presets[row]
        size = min(max(cell_len(visible(p.name)) for p in self.presets), max(width // 3, 8))
        room = width - size - 4
        words = " · ".join(map(intervention_words, preset.interventions)) or "nothing"
        return [
            Segment("▌ " if self.is_marked(row) else "  ", self.style_of("accent")),
            Segment(fit(visible(preset.name), size), Style(bold=True)),
            Segment("  " + shortened(words, room) if room > 0 else "", self.style_of("dim")),
        ]


class PresetPage(ModalScreen[str | None]):
    """Dismissed with the name of the preset taken, or with None. Below the list stands all that the chosen one does."""

    DEFAULT_CSS = """
    PresetPage { background: $background; }
    PresetPage #page-title { background: $panel; }
    PresetPage #preset-detail { border-top: solid $rule; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "close", id="presets.close")]

    def __init__(self, presets: Sequence[Preset]) -> None:
        super().__init__()
        self._presets = tuple(presets)

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.list = PresetList(self._presets)
        self.detail = Lines(id="preset-detail")
        self.detail.can_focus = False
        yield self.heading
        yield self.list
        yield self.detail

    def on_mount(self) -> None:
        count = counted(len(self._presets), "preset", "presets") if self._presets else "no preset"
        hint = "enter take · esc close " if self._presets else "esc close "
        self.heading.show(Text(f" Presets · {count}", Style(bold=True)), Text(hint, self.heading.style_of("dim")))
        self.list.rows_changed()
        self._describe()
        self.list.focus()

    def on_line_list_moved(self) -> None:
        self._describe()

    def on_line_list_chosen(self, message: LineList.Chosen) -> None:
        self.dismiss(self._presets[message.row].name)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _describe(self) -> None:
        """Every intervention of the preset under the cursor on a line of its own."""
        if not self._presets:
            return
        preset = self._presets[self.list.cursor]
        words = [intervention_words(i) for i in preset.interventions]
        self.detail.show(lambda width: [Text(shortened(f" {line}", width)) for line in words])
