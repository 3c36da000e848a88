"""The tokens, coloured by the selected feature or by how strongly anything fires."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType

from themes.palettes import LEVELS, level
from tui.actions import bindings
from tui.panes.pane import Pane
from tui.state import Notice, State
from tui.text import number, percent, visible_token, wrapped
from tui.widgets.bar import Bar, shortened
from tui.widgets.lines import Lines
from tui.widgets.token_view import TokenView


class Tokens(TokenView):
    """The token view with its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("tokens")]

    def action_move(self, step: int) -> None:
        self.move_line(step)

    def action_sideways(self, step: int) -> None:
        self.move(step)

    def action_page(self, step: int) -> None:
        self.page(step)

    def action_end(self, end: bool) -> None:
        self.move_to_end(end)


class Trouble(Lines, can_focus=False):
    """Why there are no tokens and will be none: the whole sentence, and what to do."""

    def tell(self, trouble: Notice, wrong: Style, dim: Style) -> None:
        """Show why nothing is open."""
        paragraphs = (
            (f"Nothing is open. {trouble.text}", wrong),
            (trouble.remedy, Style()),
            ("Then start saescope again; q leaves. e shows this and what lies behind it.", dim),
        )
        self.show(
            lambda width: [
                Text(f" {line}", style) for text, style in paragraphs if text for line in wrapped(text, width - 2)
            ]
        )


class TokensPane(Pane):
    """Pane 2."""

    GROUP = "tokens"
    NUMBER = 2
    NAME = "Tokens"

    def compose(self) -> ComposeResult:
        self.view = Tokens(id="token-view")
        self.info = Bar(id="token-info")
        self.trouble = Trouble(id="trouble")
        yield self.title_bar
        yield self.trouble
        yield self.view
        yield self.info

    @property
    def home(self) -> Tokens:
        return self.view

    def show(self, state: State, old: State | None) -> None:
        result = state.result
        tokens = result.tokens if result else ()
        levels = tuple(0 if i in state.sinks else level(share) for i, share in enumerate(state.levels))
        self.view.stale = state.stale
        self.view.show(tuple(t.text for t in tokens), levels, state.sinks)
        self.view.cursor = state.token
        self._show_title(state)
        self.info.show(self._token_line(state))
        trouble = state.trouble if result is None else None
        if self.has_class("-trouble") != (trouble is not None):
            self.set_class(trouble is not None, "-trouble")
        if trouble is not None:
            self.trouble.tell(trouble, self.info.style_of("error"), self.info.style_of("dim"))

    def _show_title(self, state: State) -> None:
        if state.result is None:
            self.title_bar.show_info("", "")
            return
        what = str(state.feature) if state.feature else "anything that fires"
        reading = state.feature is not None and state.values is None
        legend = Text("0 ", self.title_bar.style_of("dim"))
        for step in range(1, LEVELS + 1):
            heat = self.view.get_component_rich_style(f"tokens--heat-{step}")
            legend.append("▁▂▃▄▅▆▇█"[step - 1], Style(color=heat.bgcolor))
        legend.append(f" {number(state.peak) if state.feature else '100 %'}")
        waiting = " · not recorded for this prompt" if state.replaying else " · reading"
        self.title_bar.show_info(f"{what}{waiting if reading else ''}", legend)

    def _token_line(self, state: State) -> Text:
        """The token under the cursor with its exact value, and what the model expects next."""
        result = state.result
        if result is None:
            return Text()
        dim = self.info.style_of("dim")
        token = result.tokens[state.token]
        line = Text(f" {state.token} ", dim)
        line.append(shortened(visible_token(token.text), 24), Style(bold=True))
        if state.feature is not None and state.values is not None:
            line.append(f"  {number(state.values[state.token])}")
        elif state.feature is None:
            line.append(f"  {percent(result.strength[state.token])}")
        if state.token == 0 and len(result.tokens) > 1:
            note = "attention sink" if token.sink else "first token"
            line.append(f"  {note}, left out of rankings", self.info.style_of("warning"))
        elif token.sink:
            where = ", ".join(s.source for s in result.sites if state.token in s.sinks)
            line.append(f"  attention sink at {where}", self.info.style_of("warning"))
        if result.next_tokens:
            line.append("   next:", dim)
            for following in result.next_tokens[state.token]:
                line.append(f" {shortened(visible_token(following.text), 14)} ")
                line.append(f"{following.probability:.2f}".lstrip("0"), dim)
        return line
