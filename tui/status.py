"""The header and the status line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from tui.actions import HELP, Action, Group, shown_keys
from tui.state import Notice, State
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


_DETAILS = "  e details"
_IDLE = 27
"""Cells for what the idle status line says at least: ready, and how fast the last run was."""


class Status(Bar):
    """The bottom line: what happens, how far it is and how to stop it; key hints on the right.

    What is said in a pane that is not on screen is said here.
    """

    _seen: frozenset[Group] = frozenset()

    def update(self, state: State, hints: Sequence[Action], seconds: float, seen: frozenset[Group]) -> None:
        """`seconds` is how long the work under way has taken, `seen` the panes that are on screen."""
        self._seen = seen
        width = self.size.width
        if state.idle:
            keys = self._hints(hints, width - _IDLE - 2)
            self.show(self._idle(state, width - cell_len(keys.plain) - 1), keys)
        else:
            what = self._what(state, seconds)
            self.show(what, self._hints(hints, width - cell_len(what.plain) - 2))

    def _hints(self, hints: Sequence[Action], room: int) -> Text:
        """As many hints as fit beside what happens, which comes first; the key for help before all others."""
        chosen = []
        for action in sorted(hints, key=lambda a: a.id != HELP):
            key, label = shown_keys(action.keys.split(",")[0]), action.label
            needed = cell_len(key) + cell_len(label) + 3
            if needed <= room:
                chosen.append(action)
                room -= needed
        line = Text()
        for action in (a for a in hints if a in chosen):
            line.append(f" {shown_keys(action.keys.split(',')[0])} ", Style(bold=True))
            line.append(f"{action.label} ", self.style_of("dim"))
        return line

    def _what(self, state: State, seconds: float) -> Text:
        notice = state.notice
        if notice is not None and notice.where not in self._seen:
            return self._said(notice)
        if state.replaying:
            runs = counted(len(state.runs), "run", "runs")
            return Text(f" recorded session, {runs}  ( ) older, newer", self.style_of("dim"))
        engine = state.engine
        if engine.phase != "ready":
            style = self.style_of("error") if engine.phase == "lost" else self.style_of("warning")
            line = Text(" engine: ", self.style_of("dim"))
            line.append(visible(engine.text), style)
            if engine.fault is not None:
                line.append("  e says why · q leaves", self.style_of("dim"))
                return line
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
        return self._idle(state, self.size.width)

    def _said(self, notice: Notice) -> Text:
        """A notice on one line: whole where it fits, else the sentence cut and what to do from its beginning."""
        text, remedy = visible(notice.text), visible(notice.remedy)
        more = _DETAILS if notice.detail else ""
        room = self.size.width - 2 - len(more)
        if cell_len(text) + cell_len(remedy) + 1 > room:
            room -= 0 if more else len(_DETAILS)
            more, first = _DETAILS, first_sentence(remedy)
            text = shortened(text, max(room - cell_len(first) - 1, room * 2 // 5))
            left = room - cell_len(text) - 1
            remedy = remedy if cell_len(remedy) <= left else shortened(first, left)
        line = Text(f" {text}", self.style_of(notice.level) if notice.level != "info" else Style())
        line.append(f" {remedy}" if remedy else "", Style())
        line.append(more, self.style_of("dim"))
        return line

    def _idle(self, state: State, room: int) -> Text:
        """The figures of the last run, each of them whole or not at all."""
        line = Text(" ready", self.style_of("good"))
        figures = []
        if state.result is not None:
            figures.append(f" · {len(state.result.tokens)} tok in {state.result.seconds:.2f} s")
        if state.engine.memory is not None:
            memory = state.engine.memory
            figures.append(f" · {memory.used / 1e9:.1f}/{memory.total / 1e9:.0f} GB")
        for figure in figures:
            if cell_len(line.plain) + cell_len(figure) < room:
                line.append(figure, self.style_of("dim"))
        return line


def first_sentence(text: str) -> str:
    """Up to the first full stop or question mark that ends a sentence."""
    found = re.match(r".*?[.?](?= |\Z)", text)
    return found[0] if found else text


def progress(done: int, total: int, seconds: float) -> str:
    """` 41 % · 12 s`, as much of it as is known."""
    parts = [f"{100 * done // total} %"] if total else []
    if seconds >= 1:
        parts.append(f"{seconds:.0f} s")
    return f" {' · '.join(parts)}" if parts else ""
