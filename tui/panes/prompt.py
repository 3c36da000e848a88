"""The prompt: several lines, history, a live token count."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from tui.actions import ACTIONS, bindings
from tui.panes.pane import Pane
from tui.state import State
from tui.text import visible, visible_in_place
from tui.widgets.bar import Bar

_VERBS = {key: action.verb for action in ACTIONS if action.group == "prompt" for key in action.keys.split(",")}


class PromptArea(TextArea):
    """A text area where Enter runs and Up and Down at the edges go through history."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("prompt")]

    class Submitted(Message):
        """The user pressed Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class HistoryWanted(Message):
        """The user asked for an older (−1) or newer (1) prompt."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self) -> None:
        super().__init__(
            id="prompt-area", soft_wrap=True, tab_behavior="focus", show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder="Type a prompt, press Enter.  ? for help outside this field, Escape to leave it.",
        )  # fmt: skip
        self.cursor_blink = False

    def get_line(self, line_index: int) -> Text:
        """A line as drawn: what was pasted may hold escape sequences."""
        line = super().get_line(line_index)
        line.plain = visible_in_place(line.plain)
        return line

    def action_submit(self) -> None:
        self.post_message(self.Submitted(self.text))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_clear(self) -> None:
        self.clear()

    def action_history(self, step: int) -> None:
        self.post_message(self.HistoryWanted(step))

    async def on_key(self, event: events.Key) -> None:
        """Do what a key does at its turn among the letters.

        Textual looks bindings up elsewhere than it inserts letters, so that text and Enter arriving together could
        run a prompt without its end.
        """
        row = self.cursor_location[0]
        if (event.key == "up" and row == 0) or (event.key == "down" and row == self.document.line_count - 1):
            self.action_history(-1 if event.key == "up" else 1)
        elif event.key in _VERBS:
            await self.run_action(_VERBS[event.key])
        else:
            return
        event.prevent_default()
        event.stop()


class PromptPane(Pane):
    """Pane 1."""

    GROUP = "prompt"
    NUMBER = 1
    NAME = "Prompt"

    def __init__(self) -> None:
        super().__init__()
        self._put = 0

    def compose(self) -> ComposeResult:
        self.area = PromptArea()
        self.notice = Bar(id="prompt-notice")
        yield self.title_bar
        yield self.area
        yield self.notice

    @property
    def home(self) -> PromptArea:
        return self.area

    def show(self, state: State, old: State | None) -> None:
        if state.draft_put != self._put:
            self._put = state.draft_put
            self.area.text = state.draft
            self.area.move_cursor(self.area.document.end)
        self.area.read_only = state.replaying
        tokens = "" if state.draft_tokens is None else f"{state.draft_tokens} tok"
        if state.token_limit and (state.draft_tokens or 0) > state.token_limit:
            tokens += f" of at most {state.token_limit}"
        chat = f"chat {'on' if state.chat else 'off'}" if state.engine.model is None or state.engine.model.chat else ""
        self.title_bar.show_info("recorded" if state.replaying else "", " · ".join(filter(None, (tokens, chat))))
        notice = state.notice if state.notice and state.notice.where == "prompt" else None
        self.notice.display = notice is not None
        if notice is not None:
            line = Text(visible(notice.text), self.notice.style_of("error"))
            line.append(f" {visible(notice.remedy)}")
            self.notice.show(line)
