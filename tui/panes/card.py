"""The card of the selected feature: where it fires in held-out text, how often, how strongly, what it promotes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType

from engine.protocol import Context, FeatureCard, TokenValue
from sessions.quicklist import feature_url
from themes.palettes import LEVELS, level
from tui.actions import bindings
from tui.panes.pane import Pane
from tui.plot import histogram
from tui.state import State
from tui.text import cell_len, number, percent, signed, token_glyphs, visible, visible_token, wrapped
from tui.widgets.bar import shortened
from tui.widgets.lines import Lines

Part = Callable[[str], Style]
"""The style of a named part: dim, accent, link, heat-1 … heat-8, positive, negative."""

_HISTOGRAM = 7


class CardPage(Lines):
    """The page with its keys and colours."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("card")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "page--dim", "page--accent", "page--link", "page--positive", "page--negative", "page--rule",
        *(f"page--heat-{n}" for n in range(1, LEVELS + 1)),
    }  # fmt: skip

    def part(self, name: str) -> Style:
        return self.get_component_rich_style(f"page--{name}", partial=True)

    def action_move(self, step: int) -> None:
        self.move(step)

    def action_page(self, step: int) -> None:
        self.page(step)

    def action_end(self, end: bool) -> None:
        self.move_to_end(end)


class CardPane(Pane):
    """Pane 4."""

    GROUP = "card"
    NUMBER = 4
    NAME = "Card"

    def compose(self) -> ComposeResult:
        self.body = CardPage(id="card-page")
        yield self.title_bar
        yield self.body

    @property
    def home(self) -> CardPage:
        return self.body

    def show(self, state: State, old: State | None) -> None:
        if old is not None and (state.feature, state.card, state.run) == (old.feature, old.card, old.run):
            return
        info = state.dictionaries.get(state.feature.source) if state.feature else None
        waits = state.feature is not None and state.card is None and not state.replaying
        self.title_bar.show_info(f"{state.feature}{' · reading' if waits else ''}" if state.feature else "")
        if waits and old is not None and old.card is not None:
            return  # the card comes in a moment: drawing twice costs a slow line twice
        feature, card = state.feature, state.card
        url = feature_url(info.neuronpedia, feature.index) if info and info.neuronpedia and feature else None
        formula = f"{info.hook}: {info.formula}" if info else ""
        part = self.body.part
        if feature is None:
            message = (
                "No feature is selected."
                if state.result
                else "Run a prompt; the card of the selected feature shows here."
            )
            self.body.show(lambda width: [Text(f" {message}", part("dim"))])
        elif card is None:
            waiting = "not in this recording" if state.replaying else "reading its card"
            self.body.show(lambda width: [Text(f" {feature}: {waiting}", part("dim"))])
        else:
            self.body.show(lambda width: card_lines(card, formula, url, width, part))


def card_lines(card: FeatureCard, formula: str, url: str | None, width: int, part: Part) -> list[Text]:
    """The whole card as lines of `width` cells."""
    lines = [*label_lines(card, width, part), _facts(card, part)]
    if card.contexts:
        top = card.max_activation or 1.0
        lines += [context_line(context, top, width - 1, part) for context in card.contexts]
    else:
        lines.append(Text(" This dictionary came without example contexts.", part("dim")))
    if card.histogram and card.max_activation and width > 30:
        lines.append(Text())
        lines.append(Text(f" activations over {card.corpus_tokens:,} tokens, log scale", part("dim")))
        drawn = histogram(card.histogram, card.max_activation, min(width - 2, 72), _HISTOGRAM)
        lines += [Text(f" {line}", part("accent")) for line in drawn]
    lines.append(Text())
    lines += _tokens("promotes", card.promotes, width, part)
    lines += _tokens("suppresses", card.suppresses, width, part)
    lines.append(Text(" W_dec · W_U, without context: at early layers mostly noise", part("dim")))
    if formula:
        lines.append(Text(f" {formula}", part("dim")))
    if url:
        lines.append(Text(f" {url}", part("link") + Style(link=url)))
    return lines


def label_lines(card: FeatureCard, width: int, part: Part) -> list[Text]:
    """What others and the user call the feature, whole, each with who said so where there is room for it."""
    lines = []
    dim = part("dim") + Style(bold=False)
    for label in card.labels:
        said = wrapped(f"“{visible(label.text)}”", max(width - 2, 8))
        lines += [Text(f" {line}", Style(bold=True)) for line in said]
        whose = " · ".join(filter(None, (visible(label.by), visible(label.kind))))
        if whose and cell_len(said[-1]) + cell_len(whose) + 4 <= width:
            lines[-1].append(f"  {whose}", dim)
        elif whose:
            lines.append(Text(f"   {shortened(whose, max(width - 4, 8))}", dim))
    return lines


def _facts(card: FeatureCard, part: Part) -> Text:
    line = Text(" ")
    if card.density is None:
        line.append("no statistics", part("dim"))
        return line
    line.append("fires on ", part("dim"))
    line.append(percent(card.density))
    line.append(" of tokens · max ", part("dim"))
    line.append(number(card.max_activation or 0.0))
    return line


def context_line(context: Context, top: float, width: int, part: Part) -> Text:
    """One context on one line, the peak of every line in the same column, the origin at the right."""
    origin = f" {visible(context.origin)}" if width > 60 else ""
    room = width - cell_len(origin)
    column = room * 3 // 5
    line = Text(" ")
    before = _clip_left([(token_glyphs(t.text), t.value) for t in context.tokens[: context.peak]], column)
    line.append(" " * max(0, column - sum(cell_len(text) for text, _ in before)))
    after = [(token_glyphs(t.text), t.value) for t in context.tokens[context.peak :]]
    used = column
    for text, value in before:
        line.append(text, _heat(value, top, part))
    for text, value in after:
        size = cell_len(text)
        if used + size > room:
            break
        line.append(text, _heat(value, top, part))
        used += size
    line.append(" " * max(0, room - used))
    line.append(origin, part("dim"))
    return line


def _clip_left(pieces: list[tuple[str, float]], width: int) -> list[tuple[str, float]]:
    """The last pieces that fit in `width` cells."""
    kept: list[tuple[str, float]] = []
    used = 0
    for text, value in reversed(pieces):
        used += cell_len(text)
        if used > width:
            break
        kept.append((text, value))
    return kept[::-1]


def _heat(value: float, top: float, part: Part) -> Style:
    step = level(value / top) if top > 0 else 0
    return part(f"heat-{step}") if step else Style()


def _tokens(name: str, tokens: Sequence[TokenValue], width: int, part: Part) -> list[Text]:
    """`promotes ·Paris +1.2 ·Rome +1.1 …` over as many lines as it takes."""
    style = part("positive" if name == "promotes" else "negative")
    lines, line = [], Text(f" {name:<10}", part("dim"))
    for token in tokens:
        text, value = visible_token(token.text), signed(token.value)
        if cell_len(line.plain) + cell_len(text) + len(value) + 2 > width:
            lines.append(line)
            line = Text(" " * 11)
        line.append(f" {text}", style)
        line.append(f" {value}", part("dim"))
    return [*lines, line] if tokens else []
