"""What the pages of evidence share: words for interventions and texts, tables and charts that fit any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import chop_cells
from rich.style import Style
from rich.text import Text

from engine.protocol import Intervention, Provenance, Token
from tui.panes.card import Part
from tui.screens.page import PageScreen
from tui.text import cell_len, fit, number, signed, visible, visible_token, wrapped
from tui.widgets.bar import shortened
from tui.widgets.lines import Build

Draw = Callable[[int, Part], list[Text]]
"""The lines of a page for a width, in the styles of named parts."""

CHART_HEIGHT = 9
_COPIED_WIDTH = 100
_CHART_LEAST, _CHART_MOST = 56, 76
_TOKEN = 16
_LABEL = 14
_LARGE = 1e7


class EvidencePage(PageScreen):
    """A page that is drawn by one function, and copied as it is drawn."""

    def __init__(self, title: str, draw: Draw) -> None:
        copied = [title, "", *(line.plain.rstrip() for line in draw(_COPIED_WIDTH, lambda name: Style()))]
        super().__init__(title, "\n".join(copied))
        self._draw = draw

    def lines(self, part: Part) -> Build:
        return lambda width: self._draw(width, part)


# --- words ------------------------------------------------------------------------------------------------------


def intervention_words(intervention: Intervention) -> str:
    """`15-res-sc:2210 +2.50 × max, generated tokens`."""
    i, size = intervention, intervention.strength
    unit = " × max" if i.unit == "max" and i.kind in {"add", "clamp"} else ""
    done = {
        "add": f"{signed(size)}{unit}{' of unit norm' if i.unit_norm else ''}",
        "clamp": f"clamped to {number(size)}{unit}",
        "scale": f"× {number(size)}",
        "ablate": f"ablated to {i.to}" + (f" of “{shortened(visible(i.patch or ''), 40)}”" if i.to == "patch" else ""),
        "rescale": f"projection × {number(size)}",
        "cap": f"projection at most {number(size)}",
    }[i.kind]
    return f"{visible(str(i.feature))} {done}{place_words(i)}"


def place_words(intervention: Intervention) -> str:
    """Where it acts, nothing for every token: `, generated tokens, no special tokens`."""
    where = str(intervention.positions)
    named = {"all": "", "prompt": ", prompt tokens", "generated": ", generated tokens"}.get(where, f", at {where}")
    return named if intervention.special else f"{named}, no special tokens"


def token_name(token: Token) -> str:
    """A token short enough for a sentence or a column."""
    return shortened(visible_token(token.text), _TOKEN)


def place_name(tokens: Sequence[Token], position: int) -> str:
    """`3 ·Tower`."""
    return f"{position} {token_name(tokens[position])}" if 0 <= position < len(tokens) else str(position)


def or_none(value: float | None) -> str:
    """A perplexity, which has no upper end, or a dash."""
    if value is None:
        return "–"
    return number(value) if abs(value) < _LARGE else f"{value:.0e}".replace("+", "")


def spread(values: Sequence[float]) -> str:
    """The mean, and from where to where: `.050 (.020–.090)`."""
    mean, low, high = (or_none(value) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low}–{high})"


def paragraph(text: str, width: int, style: Style | None = None) -> list[Text]:
    """A text of our own or of the engine over as many lines as it takes."""
    pieces = [piece for line in wrapped(text, width - 1) for piece in chop_cells(line, max(width - 1, 2)) or [""]]
    return [Text(f" {piece}", style or Style()) for piece in pieces]


def excerpt(label: str, text: str, width: int, part: Part, *, indent: int) -> list[Text]:
    """The first two lines of a generated text beside its label."""
    indent = min(indent, _LABEL)
    lines = paragraph(visible(text).strip(), width - indent - 1)
    kept = [line.plain[1:] for line in lines[:2]]
    if len(lines) > 2:
        kept[1] = fit(kept[1] + "…", width - indent - 2).rstrip()
    if not "".join(kept).strip():
        return [Text.assemble((f" {fit(label, indent)} ", part("dim")), ("no text", part("dim")))]
    heads = (fit(label, indent), " " * indent)
    return [Text.assemble((f" {head} ", part("dim")), line) for head, line in zip(heads, kept, strict=False)]


def opening(prompt: str, interventions: Sequence[Intervention], chat: bool, width: int, part: Part) -> list[Text]:
    """What was steered, and after which text."""
    lines = [Text(shortened(f" {intervention_words(i)}", width), part("accent")) for i in interventions]
    how = "in the chat template, after" if chat else "after"
    lines.append(Text(shortened(f" {how} “{visible(prompt)}”", width), part("dim")))
    return [*lines, Text()]


def closing(provenance: Provenance, seconds: float, warnings: Sequence[str], width: int, part: Part) -> list[Text]:
    """What to be careful about, and how the numbers were made."""
    lines = [line for text in warnings for line in paragraph(f"! {visible(text)}", width, part("negative"))]
    settings = [f"{k} {v}" for k, v in provenance.settings.items() if isinstance(v, str | int | float) and v != ""]
    made = [provenance.model, f"{provenance.dtype} on {provenance.device}", *settings, f"{number(seconds)} s"]
    return [Text(), *lines, *paragraph(visible(" · ".join(made)), width, part("dim"))]


# --- tables and charts ------------------------------------------------------------------------------------------


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    part: Part,
    *,
    keys: int = 1,
    styles: Sequence[Style] = (),
) -> list[Text]:
    """Rows of cells: the first `keys` of each are names, the others numbers.

    Names are shortened before numbers, which are never cut: those that still do not fit follow in a second block.
    """
    sizes = [max(cell_len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    least = [min(size, 16 if n == 0 else 6) for n, size in enumerate(sizes[:keys])]
    blocks: list[list[int]] = [[]]
    for n in range(keys, len(head)):
        if blocks[-1] and sum(least) + keys + sum(sizes[m] + 1 for m in [*blocks[-1], n]) > width:
            blocks.append([])
        blocks[-1].append(n)
    lines: list[Text] = []
    for block in blocks:
        gap = 2 if 1 + sum(sizes[n] + 2 for n in [*range(keys), *block]) <= width else 1
        names = sizes[:keys]
        excess = keys + sum(names) + sum(sizes[n] + gap for n in block) - width
        for n in reversed(range(keys)):
            cut = max(0, min(excess, names[n] - least[n]))
            names[n] -= cut
            excess -= cut
        lines += [Text()] if lines else []
        for place, row in enumerate((head, *rows)):
            cells = [fit(row[n], names[n]) for n in range(keys)] + [fit(row[n], sizes[n], right=True) for n in block]
            style = part("dim") if place == 0 else styles[place - 1] if styles else Style()
            lines.append(Text(shortened(" " + (" " * gap).join(cells), width), style))
    return lines


def arm_style(place: int, part: Part) -> Style:
    """The plain arm as text, the steered one in the accent, random directions dimmed."""
    return (Style(), part("accent"))[place] if place < 2 else part("dim")


def beside(charts: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Charts next to each other as far as they fit, each made for `chart_width`."""
    size, lines = chart_width(width), list[Text]()
    together = max(1, width // (size + 1))
    for start in range(0, len(charts), together):
        row = charts[start : start + together]
        for n in range(max(len(chart) for chart in row)):
            line = Text()
            for chart in row:
                piece = chart[n].copy() if n < len(chart) else Text()
                piece.truncate(size)
                line.append_text(piece)
                line.append(" " * (size + 1 - cell_len(piece.plain)))
            line.rstrip()
            lines.append(line)
        lines.append(Text())
    return lines


def chart_width(width: int) -> int:
    """How wide one of several charts is."""
    together = max(1, min(3, width // (_CHART_LEAST + 1)))
    return max(20, min(_CHART_MOST, width // together - 1))
