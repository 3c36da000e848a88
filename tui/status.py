"""The header and the status line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from tui.actions import Action, shown_keys
from tui.state import State
from tui.text import cell_len, counted, number, visible, visible_token
from tui.widgets.bar import Bar, shortened


class Header(Bar):
    """The top line: program, model, dictionaries, device; the session on the right."""

    def update(self, state: State) -> None:
        dim = self.style_of("dim")
        line = Text(" saescope ", self.style_of("accent") + Style(bold=True))
        model = state.engine.model
        if model is not None:
            line.append(f" {visible(model.name)}", Style(bold=True))
            line.append(f" · {counted(len(state.engine.dictionaries), 'dictionary', 'dictionaries')}", dim)
            line.append(f" · {model.device} {model.dtype}", dim)
        elif not state.replaying:
            line.append(" no model yet", dim)
        if state.replaying:
            line.append("  replay", self.style_of("warning"))
        right = Text(f"{shortened(visible(state.title), 30)} ", dim)
        if state.saved:
            right.append("● ", self.style_of("good"))
            right.append(f"saved {state.saved} ", dim)
        self.show(line, right)


class Context(Bar):
    """The second header line of small screens: what runs and what is selected, whichever pane is shown."""

    def update(self, state: State) -> None:
        dim = self.style_of("dim")
        line = Text(" ")
        if state.result is not None:
            line.append(shortened(visible(state.result.prompt), max(10, self.size.width - 40)))
            token = state.result.tokens[state.token]
            line.append(f"  {state.token}", dim)
            line.append(shortened(visible_token(token.text), 12))
            if state.feature is not None:
                line.append(f"  {state.feature}", self.style_of("accent"))
                if state.values is not None:
                    line.append(f" {number(state.values[state.token])}")
        else:
            line.append("no prompt has been run", dim)
        self.show(line)


class Status(Bar):
    """The bottom line: what happens, how far it is and how to stop it; key hints on the right."""

    def update(self, state: State, hints: Sequence[Action], seconds: float) -> None:
        """`seconds` is how long the work under way has taken."""
        what = self._what(state, seconds)
        needed = 24 if state.idle else cell_len(what.plain)
        self.show(what, self._hints(hints, self.size.width - needed - 2))

    def _hints(self, hints: Sequence[Action], room: int) -> Text:
        """As many hints as fit beside what happens, which comes first; idle, they may take its figures."""
        line = Text()
        for action in hints:
            key, label = shown_keys(action.keys.split(",")[0]), action.label
            if len(line.plain) + len(key) + len(label) + 3 > room:
                break
            line.append(f" {key} ", Style(bold=True))
            line.append(label, self.style_of("dim"))
        line.append(" ")
        return line

    def _what(self, state: State, seconds: float) -> Text:
        notice = state.notice
        if notice is not None and not notice.where:
            line = Text(f" {visible(notice.text)}", self.style_of(notice.level) if notice.level != "info" else Style())
            if notice.remedy:
                line.append(f" {visible(notice.remedy)}")
            if notice.detail:
                line.append("  e details", self.style_of("dim"))
            return line
        if state.replaying:
            return Text(f" recorded session, {len(state.runs)} runs  ( ) older, newer", self.style_of("dim"))
        engine = state.engine
        if engine.phase != "ready":
            style = self.style_of("error") if engine.phase == "lost" else self.style_of("warning")
            line = Text(" engine: ", self.style_of("dim"))
            line.append(visible(engine.text), style)
            line.append(progress(engine.done, engine.total, seconds))
            if state.queued:
                line.append("  the prompt runs when it is ready", self.style_of("dim"))
            return line
        if state.tasks:
            task = state.tasks[-1]
            line = Text(f" {visible(task.text)}", self.style_of("warning"))
            line.append(progress(task.done, task.total, seconds))
            line.append("  esc stops", self.style_of("dim"))
            return line
        return self._idle(state)

    def _idle(self, state: State) -> Text:
        line = Text(" ready", self.style_of("good"))
        dim = self.style_of("dim")
        if state.result is not None:
            line.append(f" · {len(state.result.tokens)} tok in {state.result.seconds:.2f} s", dim)
        if state.engine.memory is not None:
            memory = state.engine.memory
            line.append(f" · {memory.used / 1e9:.1f}/{memory.total / 1e9:.0f} GB", dim)
        return line


def progress(done: int, total: int, seconds: float) -> str:
    """` 41 % · 12 s`, as much of it as is known."""
    parts = [f"{100 * done // total} %"] if total else []
    if seconds >= 1:
        parts.append(f"{seconds:.0f} s")
    return f" {' · '.join(parts)}" if parts else ""
