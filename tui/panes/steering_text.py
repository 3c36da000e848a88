"""Plain and steered text side by side, token by token: wrapped, coloured, and with a cursor that points at a token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.message import Message

from engine.protocol import Choice
from themes.palettes import level
from tui.panes.card import CardPage, Part
from tui.state import State
from tui.steering_reducer import change_label
from tui.steering_state import Colour, Texts, diverging, pieces
from tui.text import cell_len, fit, visible

Arm = Literal["plain", "steered"]
SIDE_BY_SIDE = 56
KL_TOP = 4.0
"""The KL in nats that has the strongest colour; colours go by its square root, so that small ones show."""
_CLEAR, _STRONG = 0.05, 0.3
"""Changes of a probability from which a token is coloured, and coloured strongly."""


@dataclass(frozen=True)
class Run:
    """Part of a token on one line; a note stands for no token's text."""

    text: str
    token: int
    note: bool = False


@dataclass(frozen=True)
class Place:
    """Where a run stands on screen."""

    line: int
    start: int
    stop: int
    token: int


def wrap(tokens: Sequence[str], width: int, notes: dict[int, str] | None = None) -> list[list[Run]]:
    """Tokens as lines of at most `width` cells, broken after spaces where there are any. No character is lost: a line
    break ends its line as ⏎. `notes` stand before tokens.
    """
    lines: list[list[Run]] = []
    glyphs: list[tuple[str, int, bool]] = []
    for number, token in enumerate(tokens):
        glyphs += [(glyph, number, True) for glyph in (notes or {}).get(number, "")]
        parts = token.split("\n")
        for place, part in enumerate(parts):
            glyphs += [(glyph, number, False) for glyph in visible(part)]
            if place < len(parts) - 1:
                lines += _folded([*glyphs, ("⏎", number, False)], width)
                glyphs = []
    if (notes or {}).get(len(tokens)):
        glyphs += [(glyph, len(tokens), True) for glyph in (notes or {})[len(tokens)]]
    return lines + _folded(glyphs, width) if glyphs or not lines else lines


def _folded(glyphs: list[tuple[str, int, bool]], width: int) -> list[list[Run]]:
    lines = []
    start = used = 0
    space = -1
    for place, (glyph, _, _) in enumerate(glyphs):
        size = cell_len(glyph)
        if used + size > max(width, 1) and place > start:
            cut = space + 1 if space > start else place
            lines.append(_runs(glyphs[start:cut]))
            used = sum(cell_len(g) for g, _, _ in glyphs[cut:place])
            start = cut
            space = -1
        if glyph == " " and place > start:
            space = place
        used += size
    lines.append(_runs(glyphs[start:]))
    return lines


def _runs(glyphs: Sequence[tuple[str, int, bool]]) -> list[Run]:
    runs: list[Run] = []
    for glyph, token, note in glyphs:
        if runs and (runs[-1].token, runs[-1].note) == (token, note):
            runs[-1] = Run(runs[-1].text + glyph, token, note)
        else:
            runs.append(Run(glyph, token, note))
    return runs


# --- what a token looks like --------------------------------------------------------------------------------------


def kl_at(texts: Texts, token: int) -> float | None:
    """KL at a token, both arms after the same text: once they have parted it is known when all is scored."""
    if texts.scores is not None and token < len(texts.scores.kl):
        return texts.scores.kl[token]
    parted = diverging(texts)
    same = token < len(texts.kl) and (parted is None or token <= parted)
    return texts.kl[token] if same else None


def raised(texts: Texts, token: int) -> float | None:
    """How much steering raised a steered token's probability, both arms after the same text."""
    choice = texts.steps[token].steered if token < len(texts.steps) else None
    scores = texts.scores
    if choice is None or scores is None or token >= len(scores.steered_probabilities):
        return None
    return choice.probability - scores.steered_probabilities[token]


def heat(kl: float | None) -> int:
    """A KL as a step 0…8."""
    return level(math.sqrt(min(max(kl, 0.0), KL_TOP) / KL_TOP)) if kl is not None and kl >= 0.01 else 0


def _token_style(texts: Texts, colour: Colour, token: int, part: Part) -> Style:
    change = raised(texts, token) if colour == "probability" else None
    if change is not None:
        style = part("positive" if change > 0 else "negative") if abs(change) >= _CLEAR else Style()
        return style + Style(reverse=True) if abs(change) >= _STRONG else style
    step = heat(kl_at(texts, token))
    return part(f"heat-{step}") if step else Style()


class _Look:
    """How both arms of one state are styled."""

    def __init__(self, state: State, texts: Texts, part: Part) -> None:
        self.texts, self.colour, self.cursor = texts, state.steering.colour, state.steering.token
        self.parted = diverging(texts)
        self.stale, self.part = state.stale_texts, part

    def of(self, arm: Arm, run: Run) -> Style:
        if run.note:
            return self.part("accent" if run.text == "▸" and not self.stale else "dim")
        if run.token == self.cursor:
            return self.part("cursor")
        if self.stale:
            return self.part("dim")
        style = Style()
        if arm == "steered":
            style = _token_style(self.texts, self.colour, run.token, self.part)
            if self.parted is not None and run.token >= self.parted:
                style += Style(bold=True, underline=run.token == self.parted)
        return style


def lay_out(state: State, texts: Texts, width: int, part: Part) -> tuple[list[Text], list[Place]]:
    """The lines of both texts and where their tokens stand."""
    look = _Look(state, texts, part)
    notes: dict[Arm, dict[int, str]] = {"plain": {}, "steered": _changes(state, texts)}
    if look.parted is not None:
        for arm in ("plain", "steered"):
            notes[arm][look.parted] = notes[arm].get(look.parted, "") + "▸"
    if width < SIDE_BY_SIDE:
        return _stacked(texts, notes, width, look)
    return _beside(texts, notes, width, look)


def _changes(state: State, texts: Texts) -> dict[int, str]:
    """Marks where strengths were changed while the text streamed."""
    marks: dict[int, str] = {}
    before = texts.interventions
    for change in texts.changes:
        marks[change.step] = f"⟨{change_label(state, before, change.interventions)}⟩"
        before = change.interventions
    return marks


def _beside(texts: Texts, notes: dict[Arm, dict[int, str]], width: int, look: _Look) -> tuple[list[Text], list[Place]]:
    half = (width - 3) // 2
    left = wrap(pieces(texts, "plain"), half - 1, notes["plain"])
    right = wrap(pieces(texts, "steered"), half - 1, notes["steered"])
    lines = [Text(f" {fit('plain', half - 1)} │ steered", look.part("dim"))]
    places: list[Place] = []
    for number in range(max(len(left), len(right))):
        line = Text(" ")
        _put(line, len(lines), left[number] if number < len(left) else [], "plain", look, places)
        line.append(" " * max(0, half - cell_len(line.plain)))
        line.append(" │ ", look.part("rule"))
        _put(line, len(lines), right[number] if number < len(right) else [], "steered", look, places)
        lines.append(line)
    return lines, places


def _stacked(texts: Texts, notes: dict[Arm, dict[int, str]], width: int, look: _Look) -> tuple[list[Text], list[Place]]:
    lines: list[Text] = []
    places: list[Place] = []
    for arm in ("plain", "steered"):
        lines += [Text()] if lines else []
        lines.append(Text(f" {arm}", look.part("dim")))
        for runs in wrap(pieces(texts, arm), width - 2, notes[arm]):
            line = Text(" ")
            _put(line, len(lines), runs, arm, look, places)
            lines.append(line)
    return lines, places


def _put(line: Text, number: int, runs: list[Run], arm: Arm, look: _Look, places: list[Place]) -> None:
    """Add runs to a line and remember where they stand."""
    x = cell_len(line.plain)
    for run in runs:
        line.append(run.text, look.of(arm, run))
        size = cell_len(run.text)
        places.append(Place(number, x, x + size, run.token))
        x += size


def choices_at(texts: Texts, token: int) -> tuple[Choice | None, Choice | None]:
    """What both arms drew at a step."""
    if not 0 <= token < len(texts.steps):
        return None, None
    return texts.steps[token].plain, texts.steps[token].steered


# --- the widget ---------------------------------------------------------------------------------------------------


class SteeringText(CardPage, can_focus=False):
    """The texts; a click points at a token. The keys are those of the list above it, which keeps the focus."""

    BINDINGS: ClassVar[list[BindingType]] = []
    COMPONENT_CLASSES: ClassVar[set[str]] = {"page--cursor", "page--warning"}

    class Pointed(Message):
        """A generated token was clicked."""

        def __init__(self, token: int) -> None:
            super().__init__()
            self.token = token

    def __init__(self) -> None:
        super().__init__(id="steering-text")
        self._places: list[Place] = []

    def show_texts(self, state: State, texts: Texts, *, moved: bool) -> None:
        """Both texts; where the text cursor `moved` it is brought on screen."""

        def build(width: int) -> list[Text]:
            lines, self._places = lay_out(state, texts, width, self.part)
            return lines

        self.show(build, keep_scroll=True)
        if moved:
            self._reveal(state.steering.token)

    def show_words(self, build: Callable[[int], list[Text]]) -> None:
        """A few words in place of texts."""
        self._places = []
        self.show(build)

    def _reveal(self, token: int) -> None:
        lines = [place.line for place in self._places if place.token == token]
        if not lines:
            return
        top, height = self.scroll_offset.y, self.size.height
        if min(lines) < top or (max(lines) >= top + height and max(lines) - min(lines) >= height):
            self.scroll_to(y=min(lines), animate=False, force=True)
        elif max(lines) >= top + height:
            self.scroll_to(y=max(lines) - height + 1, animate=False, force=True)

    def on_click(self, event: events.Click) -> None:
        line = event.y + self.scroll_offset.y
        for place in self._places:
            if place.line == line and place.start <= event.x < place.stop:
                self.post_message(self.Pointed(place.token))
                return
