"""A page: is the circuit enough, and is it all there is."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from engine.protocol import Faithfulness
from tui.panes.card import Part
from tui.screens.page import PageScreen
from tui.text import counted, fit, number, percent, signed, visible, wrapped
from tui.widgets.lines import Build

_WHAT = (
    "Faithfulness: (m(C) − m(∅)) / (m(M) − m(∅)), where m(C) is the metric with everything outside the circuit "
    "ablated, m(∅) with everything ablated and m(M) with nothing ablated: 100 % means the circuit is enough. "
    "Completeness is the same of everything but the circuit: near 0 % means nothing is missing."
)


class FaithfulnessPage(PageScreen):
    """What was measured, threshold by threshold."""

    def __init__(self, result: Faithfulness) -> None:
        super().__init__(f"Faithfulness of {visible(result.metric.label)}")
        self._result = result

    def lines(self, part: Part) -> Build:
        result, dim = self._result, part("dim")

        def build(width: int) -> list[Text]:
            how = (
                f"{result.ablation} ablation · errors: {result.errors} · from layer {result.start_layer}"
                f" · {counted(result.examples, 'example', 'examples')}"
            )
            lines = [
                Text(f" m(M) {signed(result.model)}   m(∅) {signed(result.empty)}"),
                Text(f" {how}", dim),
                Text(),
                Text(_row("nodes ≥", "nodes", "m(C)", "m(rest)", "faithful", "complete"), dim),
            ]
            for point in result.points:
                row = _row(
                    number(point.threshold), str(point.nodes), signed(point.circuit), signed(point.complement),
                    _share(point.faithfulness), _share(point.completeness),
                )  # fmt: skip
                line = Text(row)
                if point.faithfulness is not None and width > 78:
                    size = round(20 * max(0.0, min(point.faithfulness, 1.0)))
                    line.append(f"  {'█' * size}", part("accent"))
                lines.append(line)
            return [*lines, Text(), *(Text(f" {text}", Style(bold=False) + dim) for text in wrapped(_WHAT, width - 2))]

        return build


def _row(*cells: str) -> str:
    return "".join(fit(cell, 10, right=True) for cell in cells)


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)
