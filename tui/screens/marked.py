"""The marked features: their names and labels, and the addresses of the quicklists that hold them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from engine.protocol import FeatureRef
from tui.panes.card import Part
from tui.screens.page import PageScreen
from tui.state import State
from tui.text import cell_len, counted, fit, visible, wrapped
from tui.widgets.bar import shortened
from tui.widgets.lines import Build


class MarkedPage(PageScreen):
    """`y` copies the addresses; where there are none, the names and labels."""

    def __init__(self, state: State, urls: Sequence[str], notes: Sequence[str]) -> None:
        self._marks, self._labels, self._hints = state.marks, state.labels, state.hints
        self._cards = state.cards
        self._urls, self._notes = urls, notes
        copied = "\n".join(urls) or "\n".join(
            f"{visible(str(ref))}\t{self._called(ref)}".rstrip() for ref in self._marks
        )
        super().__init__(f"Marked features{' and their Neuronpedia quicklist' if urls else ''}", copied)

    def _called(self, ref: FeatureRef) -> str:
        on_card = self._cards[ref].labels if ref in self._cards else ()
        return visible(self._labels.get(str(ref), "") or (on_card[0].text if on_card else ""))

    def lines(self, part: Part) -> Build:
        def build(width: int) -> list[Text]:
            lines = [Text(counted(len(self._marks), "feature is marked", "features are marked"), Style(bold=True))]
            size = min(max(cell_len(visible(str(ref))) for ref in self._marks), max(width // 3, 12))
            lines += [self._line(ref, size, width, part) for ref in self._marks]
            for note in self._notes:
                lines.append(Text())
                lines += [Text(line, part("dim")) for line in wrapped(note, width)]
            if self._urls:
                count = counted(len(self._urls), "address; y copies it", "addresses; y copies all of them")
                lines += [Text(), Text(count, Style(bold=True))]
            for place, url in enumerate(self._urls):
                lines += [Text()] if place else []
                lines += [Text(line, Style(link=url)) for line in wrapped(url, width)]
            return lines

        return build

    def _line(self, ref: FeatureRef, size: int, width: int, part: Part) -> Text:
        line = Text(f"  {fit(visible(str(ref)), size)}  ", part("accent"))
        room = max(width - size - 4, 0)
        if said := self._called(ref):
            line.append(shortened(said, room), Style())
        elif hint := self._hints.get(str(ref), ""):
            line.append(shortened(f"peaks on {visible(hint)}", room), part("dim"))
        return line
