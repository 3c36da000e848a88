"""One feature on a text that one edits: its activation on every token follows the typing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.timer import Timer
from textual.widgets import TextArea

from engine.protocol import FeatureRef, TextTried
from themes.palettes import level
from tui.panes.prompt import PromptArea
from tui.screens.following import Following
from tui.screens.listening import ListeningPage
from tui.state import State
from tui.text import cell_len, counted, number, visible, visible_token
from tui.try_control import TryControl
from tui.widgets.bar import Bar
from tui.widgets.lines import Lines
from tui.widgets.token_view import TokenView

_PAUSE = 0.05
"""Seconds without a key after which the text is read."""
_LISTED = 30
_LEAST = 3
"""Lines of the tokens."""
_BEFORE, _AFTER = 5, 1


class TryPage(ListeningPage[FeatureRef | None], Following):
    """Dismissed with the feature that is shown, or with None where none ever was."""

    DEFAULT_CSS = """
    TryPage { background: $background; }
    TryPage #page-title, TryPage #try-info { background: $panel; }
    TryPage #try-tokens { height: 3; padding: 0 1; }
    TryPage #try-list { height: 1fr; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "scale", "scale", id="try.scale", priority=True),
        Binding("escape", "leave", "close", id="try.close", priority=True),
    ]

    def __init__(self, feature: FeatureRef, control: TryControl) -> None:
        super().__init__()
        self._feature = feature
        self._control = control
        self._known_scale = False
        """Colours go up to the feature's largest known activation instead of the largest here."""
        self._waiting: Timer | None = None
        self._tried: TextTried | None = None

    def compose(self) -> ComposeResult:
        self.heading = Bar(id="page-title")
        self.area = PromptArea()
        self.tokens = TokenView(id="try-tokens")
        self.tokens.can_focus = False
        self.info = Bar(id="try-info")
        self.list = Lines(id="try-list")
        self.list.can_focus = False
        yield from (self.heading, self.area, self.tokens, self.info, self.list)

    def on_mount(self) -> None:
        self.area.text = self._control.text
        self.area.move_cursor(self.area.document.end)
        self.area.focus()
        self._title()
        self._read()

    def _title(self) -> None:
        label = self._control.label_of(self._feature)
        title = Text(f" {self._feature}", Style(bold=True))
        title.append(f"  {visible(label)}" if label else "", Style(bold=False))
        title.append("  chat" if self._control.chat else "", self.heading.style_of("dim"))
        keys = "↑↓ feature · tab scale · enter runs it · esc closes "
        self.heading.show(title, Text(keys, self.heading.style_of("dim")))

    # --- reading ------------------------------------------------------------------------------------------------

    @on(TextArea.Changed)
    def _typed(self, event: TextArea.Changed) -> None:
        event.stop()
        self._control.text = event.text_area.text
        self._still()
        self._waiting = self.set_timer(_PAUSE, self._read)

    @on(PromptArea.HistoryWanted)
    def _another(self, event: PromptArea.HistoryWanted) -> None:
        """Up on the first line and Down on the last go to another feature of the list, on the same text."""
        event.stop()
        self._feature = self._control.beside(self._feature, event.step)
        self._title()
        self._read()

    def _still(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _read(self) -> None:
        """Ask for the text as it is now; what stands there is dimmed until the answer comes."""
        self._still()
        if self._tried is not None and self._tried.feature != self._feature:
            self._clear()
        if not self._control.text:
            self._control.forget()
            self._clear()
            self._say("Type some text.")
            return
        why = self._control.read(self._feature)
        self.tokens.stale = True
        self._say(why or "reading …", wrong=bool(why))

    def _clear(self) -> None:
        self._tried = None
        self.tokens.show((), (), frozenset())
        self.list.show(lambda width: ())

    def follow(self, state: State, old: State) -> None:
        """The state changed: show what the engine read, or why it could not."""
        if not self.is_mounted:
            return
        if state.tried is not None and state.tried is not old.tried:
            self._show(state.tried)
        elif old.trying and not state.trying and state.notice is not None and state.notice is not old.notice:
            self._say(f"{state.notice.text} {state.notice.remedy}", wrong=True)
        elif old.engine.phase == "ready" != state.engine.phase:
            self._say(" ".join(state.unready), wrong=True)
        elif old.engine.phase != "ready" == state.engine.phase:
            self._read()

    def _show(self, tried: TextTried) -> None:
        self._tried = tried
        first_is_out = len(tried.tokens) > 1
        sinks = frozenset(n for n, token in enumerate(tried.tokens) if token.sink or (n == 0 and first_is_out))
        body = {n: abs(value) for n, value in enumerate(tried.values) if n not in sinks}
        here = max(body.values(), default=0.0)
        known = tried.maximum
        top = known if known and self._known_scale else here
        levels = tuple(level(min(body[n] / top, 1.0)) if n in body and top > 0 else 0 for n in range(len(tried.values)))
        self.tokens.stale = False
        self.tokens.show(tuple(token.text for token in tried.tokens), levels, sinks)
        self.tokens.cursor = max(body, key=lambda n: body[n], default=0)
        self._fit_tokens()
        fired = sum(value > 0 for value in body.values())
        scale = f"colours to {number(top)}, {'its known maximum' if top is known else 'the largest here'}"
        words = [f"fires on {fired} of {counted(len(body), 'token', 'tokens')}", *([scale] if top else [])]
        words += [f"known maximum {number(known)}"] if known and top is not known else []
        words += ["first token and sinks left out"] if sinks else []
        self._say(" · ".join(words))
        self.list.show(lambda width: _rows(tried, sinks, width, self.info.style_of("dim")))

    def _fit_tokens(self) -> None:
        """As many lines as the text takes, at most half of the screen."""
        lines = max(_LEAST, min(self.tokens.virtual_size.height + 1, self.size.height // 2))
        if self.tokens.styles.height is None or self.tokens.styles.height.value != lines:
            self.tokens.styles.height = lines

    def on_resize(self) -> None:
        self._fit_tokens()

    def _say(self, text: str, *, wrong: bool = False) -> None:
        self.info.show(Text(f" {visible(text)}", self.info.style_of("error" if wrong else "dim")))

    # --- keys ---------------------------------------------------------------------------------------------------

    def action_scale(self) -> None:
        self._known_scale = not self._known_scale
        if self._tried is not None:
            self._show(self._tried)

    def action_leave(self) -> None:
        self._still()
        self.dismiss(self._feature)

    @on(PromptArea.Submitted)
    def _run(self, event: PromptArea.Submitted) -> None:
        """Take the text as the prompt."""
        event.stop()
        if event.text:
            self.action_leave()
            self._control.run(event.text)


def _rows(tried: TextTried, sinks: frozenset[int], width: int, dim: Style) -> Sequence[Text]:
    """The strongest tokens, each with the five before it and the one after."""
    order = sorted(
        (n for n, value in enumerate(tried.values) if value and n not in sinks), key=lambda n: -abs(tried.values[n])
    )
    rows = []
    for place in order[:_LISTED]:
        before = "".join(visible(t.text) for t in tried.tokens[max(0, place - _BEFORE) : place])
        after = "".join(visible(t.text) for t in tried.tokens[place + 1 : place + 1 + _AFTER])
        room = max(width // 2 - 12, 4)
        while cell_len(before) > room:
            before = before[1:]
        row = Text(f"{number(tried.values[place]):>7}  ")
        row.append(" " * (room - cell_len(before)) + before, dim)
        row.append(visible_token(tried.tokens[place].text), Style(bold=True))
        row.append(after, dim)
        rows.append(row)
    if len(order) > _LISTED:
        rows.append(Text(f"{'…':>7}  {len(order) - _LISTED} more", dim))
    return rows or [Text("  It is silent on this text.", dim)]
