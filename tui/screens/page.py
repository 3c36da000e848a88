"""A page of text over the screen: help, the log, the long story of an error, addresses to copy."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from tui.actions import ACTIONS, GROUPS, Group, shown_keys
from tui.panes.card import CardPage, Part
from tui.state import State
from tui.text import wrapped
from tui.widgets.bar import Bar
from tui.widgets.lines import Build


class PageScreen(ModalScreen[None]):
    """Any key that is not a movement closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "dismiss", "close", id="page.close"),
        Binding("y", "copy", "copy", id="page.copy"),
    ]

    def __init__(self, title: str, copied: str = "") -> None:
        super().__init__()
        self._title = title
        self._copied = copied

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.body = CardPage(id="page")
        yield self.heading
        yield self.body

    def on_mount(self) -> None:
        hint = "y copy · esc close " if self._copied else "esc close "
        self.heading.show(Text(f" {self._title}", Style(bold=True)), Text(hint, self.heading.style_of("dim")))
        self.body.show(self.lines(self.body.part))
        self.body.focus()

    def lines(self, part: Part) -> Build:
        """What to show, by width."""
        raise NotImplementedError

    def action_copy(self) -> None:
        if self._copied:
            self.app.copy_to_clipboard(self._copied)
            self.heading.show(Text(" sent to your terminal's clipboard", Style(bold=True)))


class TextPage(PageScreen):
    """Plain text, wrapped."""

    def __init__(self, title: str, text: str, copied: str = "") -> None:
        super().__init__(title, copied)
        self._text = text

    def lines(self, part: Part) -> Build:
        return lambda width: [Text(line) for line in wrapped(self._text, width)]


_KEYS = 18
"""Cells for the keys of an action."""


class HelpPage(PageScreen):
    """All keys, those of the focused pane first, and what the screen shows."""

    def __init__(self, group: Group) -> None:
        super().__init__("Help")
        self._group = group

    def lines(self, part: Part) -> Build:
        groups = sorted(GROUPS, key=lambda g: g != self._group)

        def build(width: int) -> list[Text]:
            lines = []
            for group in groups:
                lines.append(Text(GROUPS[group], part("accent") + Style(bold=True)))
                for action in (a for a in ACTIONS if a.group == group):
                    for number, words in enumerate(wrapped(action.help, max(width - _KEYS, 10))):
                        keys = f"  {shown_keys(action.keys)}" if number == 0 else ""
                        line = Text(f"{keys:<{_KEYS}}", Style(bold=True))
                        line.append(words, Style(bold=False))
                        lines.append(line)
                lines.append(Text())
            for paragraph in _NOTES.split("\n\n"):
                lines += [Text(line, part("dim")) for line in wrapped(" ".join(paragraph.split()), width)]
                lines.append(Text())
            return lines

        return build


_NOTES = """\
Activations are raw f: the value of the latent, not multiplied by the decoder norm. “share” is the activation as a
share of the largest at the same site on this prompt, which is what compares across layers. “peaks on” lists the
commonest tokens at the feature's strongest places in held-out text.

The first token is an attention sink: its activations are a hundred times any other's and mean nothing, so rankings,
colours and figures leave it out. Other tokens whose norm at a site is over four times the median are sinks of that
site: they stay in the list, where “sink” stands for the share, and are dimmed and left out of colour scales.

In the circuit a node's effect is what it contributes to the metric, metric(clean) − metric(node at its baseline). Under
a node stand its causes; “edge” is the part of the node's effect that comes through the cause (to first order), “share”
the edge as a share of that effect and Σ the sum of the shares so far; where the model is not linear they need not add
up to 100 %. “unexplained” is what a dictionary does not reconstruct, a node like any other; the last line under a node
is what is not shown. ~ marks an estimate that the trace has not yet replaced. Next to what an intervention measured
stands ✓ where it is within a fifth of the claim (or both are under a hundredth of the metric), ≈ where it has the same
direction and is within three times, ✗ otherwise: edges are first-order, and a feature may fall silent altogether.

Steering changes what a feature does at the chosen tokens of prompt and continuation. add: strength × the feature's
decoder row; clamp: its activation is the strength; scale: its activation × the factor; ablate: its activation becomes
zero, its corpus mean, its value on another prompt (o, patch) or noise of the same norm; rescale and cap are
Neuronpedia's, on the direction alone. The error, the part of the activation that the dictionary does not explain, is
kept unless D drops it. “max” is the feature's largest known activation; the mark of a slider is where nothing changes.

Both texts are drawn with the same random numbers, so they part only where steering changed a distribution enough; ▸
stands where they do. KL compares the two next-token distributions, in nats: while text streams each arm on its own
text, afterwards both on the steered text. “raised” is a token's probability under steering minus that under the plain
model after the same text; ppl the perplexity of both texts under the plain model. What is done at strength is only
evidence beside a random direction of the same norm (n) and at other strengths (w)."""


_TIME = 10
"""Cells for the time before what happened."""


class LogPage(PageScreen):
    """The session log, newest last."""

    def __init__(self, state: State) -> None:
        super().__init__("Session log")
        self._log = state.log

    def lines(self, part: Part) -> Build:
        def build(width: int) -> list[Text]:
            lines = []
            for entry in self._log:
                for number, words in enumerate(wrapped(entry.text, width - _TIME)):
                    line = Text(f"{entry.at[11:19]}  " if number == 0 else " " * _TIME, part("dim"))
                    line.append(words, Style())
                    lines.append(line)
            return lines or [Text("Nothing has happened yet.", part("dim"))]

        return build
