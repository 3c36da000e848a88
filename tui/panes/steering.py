"""Steering: one feature, a signed strength, and plain beside steered text as both stream."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import Input

from tui.actions import bindings
from tui.panes.card import CardPage, Part
from tui.panes.pane import Pane
from tui.state import State
from tui.text import cell_len, fit, number, signed, visible
from tui.widgets.bar import Bar

STEP = 0.25
"""A coarse step, as a share of the feature's maximum activation."""
SPAN = 4.0
"""The slider's ends, in multiples of the feature's maximum."""
_SIDE_BY_SIDE = 56


class SteeringPage(CardPage):
    """The text, with the keys of steering."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("steering")]

    class StrengthStepped(Message):
        """The user moved the control by so many coarse steps; 0 means to zero."""

        def __init__(self, steps: float) -> None:
            super().__init__()
            self.steps = steps

    class GenerationWanted(Message):
        """The user asked for text, from other random numbers or the same."""

        def __init__(self, new_seed: bool) -> None:
            super().__init__()
            self.new_seed = new_seed

    class NumberWanted(Message):
        """The user wants to type the strength."""

    def action_strength(self, steps: float) -> None:
        self.post_message(self.StrengthStepped(steps))

    def action_zero(self) -> None:
        self.post_message(self.StrengthStepped(0))

    def action_generate(self) -> None:
        self.post_message(self.GenerationWanted(new_seed=False))

    def action_seed(self) -> None:
        self.post_message(self.GenerationWanted(new_seed=True))

    def action_number(self) -> None:
        self.post_message(self.NumberWanted())


class SteeringPane(Pane):
    """Pane 6."""

    GROUP = "steering"
    NUMBER = 6
    NAME = "Steering"

    class StrengthTyped(Message):
        """The user typed a strength."""

        def __init__(self, strength: float) -> None:
            super().__init__()
            self.strength = strength

    def compose(self) -> ComposeResult:
        self.control = Bar(id="steering-control")
        self.number = Input(
            id="steering-number", placeholder="strength, e.g. 60 or -2.5x (times its maximum)", compact=True
        )
        self.number.cursor_blink = False
        self.number.display = False
        self.body = SteeringPage(id="steering-page")
        self._scale = 1.0
        yield self.title_bar
        yield self.control
        yield self.number
        yield self.body

    @property
    def home(self) -> SteeringPage:
        return self.body

    def show(self, state: State, old: State | None) -> None:
        steering = state.steering
        self._scale = state.scale_of(steering.feature)
        if (
            old is not None
            and (steering, state.notice, state.tasks, state.run) == (old.steering, old.notice, old.tasks, old.run)
            and old.scale_of(steering.feature) == self._scale
        ):
            return
        kl = steering.kl
        figures = f"KL {number(kl[-1])} · mean {number(sum(kl) / len(kl))}" if kl else ""
        mode = f"seed {steering.seed} · T {steering.temperature:g} · error kept"
        self.title_bar.show_info(f"{steering.feature} · {mode}" if steering.feature else mode, figures)
        self.control.show(*self._control(state))
        plain, steered, part = visible_text(steering.plain), visible_text(steering.steered), self.body.part
        message = self._message(state)
        if message is not None:
            self.body.show(lambda width: [message])
        else:
            self.body.show(lambda width: columns(plain, steered, width, part), keep_scroll=True)

    def _control(self, state: State) -> tuple[Text, Text]:
        steering = state.steering
        if steering.feature is None:
            return Text(" no feature: select one and press s", self.control.style_of("dim")), Text()
        width = max(11, min(41, self.control.size.width - 44)) | 1
        line = Text(" add ", self.control.style_of("dim"))
        line.append_text(slider(steering.strength / (SPAN * self._scale), width, self.body.part))
        times = steering.strength / self._scale
        line.append(f"  {signed(times)} × max", Style(bold=True))
        line.append(f" = {signed(steering.strength)}", self.control.style_of("dim"))
        return line, Text("all tokens ", self.control.style_of("dim"))

    def _message(self, state: State) -> Text | None:
        """What to say instead of text, if there is none."""
        dim = self.body.part("dim")
        notice = state.notice if state.notice and state.notice.where == "steering" else None
        if notice is not None:
            line = Text(f" {visible(notice.text)} ", self.control.style_of("error"))
            line.append(visible(notice.remedy))
            return line
        steering = state.steering
        if steering.plain or steering.steered:
            return None
        if state.task("steer"):
            return Text(" generating …", dim)
        if steering.feature is None:
            return Text()
        if state.replaying:
            return Text(" Nothing was generated in this recording.", dim)
        return Text(" ← → change the strength and generate; Enter generates.", dim)

    # --- typing a number ----------------------------------------------------------------------------------------

    def open_number(self) -> None:
        self.number.value = ""
        self.number.display = True
        self.number.focus()

    def close_number(self) -> None:
        self.body.focus()
        self.number.display = False

    @on(Input.Submitted, "#steering-number")
    def _typed(self, event: Input.Submitted) -> None:
        event.stop()
        strength = parse_strength(event.value, self._scale)
        if strength is None:
            self.number.placeholder = "not a number; write 60, -2.5x or 0"
            self.number.value = ""
            return
        self.close_number()
        self.post_message(self.StrengthTyped(strength))


def parse_strength(text: str, scale: float) -> float | None:
    """`60` in activation units, `-2.5x` in multiples of the feature's maximum; None for anything else."""
    cleaned = text.strip().replace("−", "-").replace("×", "x").casefold()
    times = cleaned.endswith("x")
    try:
        value = float(cleaned.removesuffix("x"))
    except ValueError:
        return None
    value = value * scale if times else value
    return value if abs(value) < 1e6 else None


def slider(share: float, width: int, part: Part) -> Text:
    """A signed slider of odd `width` with a mark at zero; `share` in [−1, 1]."""
    middle = width // 2
    place = middle + round(max(-1.0, min(1.0, share)) * middle)
    low, high = sorted((place, middle))
    style = part("negative" if share < 0 else "positive")
    line = Text()
    for cell in range(width):
        if cell == place and place != middle:
            line.append("●", style)
        elif cell == middle:
            line.append("●" if place == middle else "┼", part("accent") if place == middle else part("rule"))
        else:
            line.append("━" if low < cell < high else "─", style if low < cell < high else part("rule"))
    return line


def visible_text(text: str) -> str:
    """Generated text with its line breaks kept and everything else made visible."""
    return "\n".join(visible(line) for line in text.split("\n"))


def columns(plain: str, steered: str, width: int, part: Part) -> list[Text]:
    """Plain and steered text side by side, or one above the other where it is narrow; what differs is coloured."""
    common = _common_words(plain, steered)
    accent = part("accent")
    if width < _SIDE_BY_SIDE:
        head_plain = [Text(" plain", part("dim"))]
        head_steered = [Text(), Text(" steered", part("dim"))]
        return (
            head_plain
            + _wrapped(plain, common, width - 2, Style())
            + head_steered
            + _wrapped(steered, common, width - 2, accent)
        )
    half = (width - 3) // 2
    left, right = _wrapped(plain, common, half - 1, Style()), _wrapped(steered, common, half - 1, accent)
    lines = [Text(f" {fit('plain', half - 1)} │ steered", part("dim"))]
    for n in range(max(len(left), len(right))):
        line = left[n].copy() if n < len(left) else Text(" ")
        line.append(" " * max(0, half - cell_len(line.plain)))
        line.append(" │", part("rule"))
        if n < len(right):
            line.append_text(right[n])
        lines.append(line)
    return lines


def _common_words(a: str, b: str) -> int:
    """How many characters the texts share before they part."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))


def _wrapped(text: str, common: int, width: int, after: Style) -> list[Text]:
    """Lines of at most `width` cells, broken at spaces where there are any; styled from character `common` on."""
    lines: list[Text] = []
    start = 0
    for paragraph in text.split("\n"):
        for line in _fold(paragraph, max(width, 1)):
            shown = Text(" ")
            parted = min(max(common - start, 0), len(line))
            shown.append(line[:parted])
            shown.append(line[parted:], after)
            lines.append(shown)
            start += len(line)
        start += 1
    return lines


def _fold(text: str, width: int) -> list[str]:
    """Split without losing a character, after the last space that fits."""
    lines = []
    while cell_len(text) > width:
        used = end = 0
        for place, character in enumerate(text):
            used += cell_len(character)
            if used > width:
                end = place
                break
        space = text.rfind(" ", 1, end)
        cut = space + 1 if space > 0 else max(end, 1)
        lines.append(text[:cut])
        text = text[cut:]
    return [*lines, text]
