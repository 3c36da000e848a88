"""All studies on one page: the results of the session, newest first, and what can be studied."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType

from sessions.model import StudyRecord
from tui import study_reducer
from tui.actions import bindings
from tui.screens.following import Following
from tui.screens.listening import ListeningPage
from tui.screens.page import HelpPage
from tui.state import State
from tui.study_control import StudyControl, studies
from tui.study_words import clock, state_words
from tui.text import cell_len, fit, visible
from tui.widgets.bar import Bar, shortened
from tui.widgets.line_list import LineList

Entry: TypeAlias = "StudyRecord | tuple[str, str] | str"
"""A result, a study with what it does, or a heading."""


class StudyList(LineList):
    """Results and studies under their headings, which the cursor passes over."""

    header_lines = 0

    def __init__(self) -> None:
        super().__init__(id="study-list")
        self.entries: tuple[Entry, ...] = ()
        self.growing: StudyRecord | None = None
        self.progress = ""

    @property
    def row_count(self) -> int:
        return len(self.entries)

    @property
    def current(self) -> StudyRecord | tuple[str, str] | None:
        """What the cursor is on."""
        entry = self.entries[self.cursor] if self.entries else ""
        return None if isinstance(entry, str) else entry

    def _go(self, row: int) -> bool:
        """Never on a heading: on past it, or back where that is the end."""
        row = max(0, min(row, self.row_count - 1))
        step = 1 if row >= self.cursor else -1
        while 0 <= row < self.row_count and isinstance(self.entries[row], str):
            row += step
        if not 0 <= row < self.row_count:
            self.scroll_to(y=0, animate=False)  # the heading above the first line
            row = next(n for n, entry in enumerate(self.entries) if not isinstance(entry, str))
        return super()._go(row)

    def draw_row(self, row: int, width: int) -> list[Segment]:
        entry, dim = self.entries[row], self.style_of("dim")
        if isinstance(entry, str):
            return [Segment(f" {entry}", dim)]
        mark = Segment("▌ " if self.is_marked(row) else "  ", self.style_of("accent"))
        size = max(cell_len(name) for name, _ in studies())
        if isinstance(entry, tuple):
            room = width - size - 4
            return [
                mark,
                Segment(fit(entry[0], size), Style(bold=True)),
                Segment("  " + shortened(entry[1], room), dim),
            ]
        growing = entry is self.growing
        result = entry.result
        how = (self.progress or "growing") if growing else f"{state_words(result, False)} · {clock(entry.at)}"
        room = max(width - size - cell_len(how) - 7, 8)
        return [
            mark,
            Segment(fit(visible(result.study), size), self.style_of("accent")),
            Segment("  " + fit(visible(result.title), room) + "  "),
            Segment(how + " ", self.style_of("accent") if growing else dim),
        ]


class StudiesPage(ListeningPage[None], Following):
    """Enter opens: a result on its page, a study as its form."""

    DEFAULT_CSS = """
    StudiesPage { background: $background; }
    StudiesPage #page-title, StudiesPage #page-keys { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("studies")]

    def __init__(self, control: StudyControl) -> None:
        super().__init__()
        self._control = control
        self._said = ""

    def compose(self) -> ComposeResult:
        self.heading, self.keys = Bar(id="page-title"), Bar(id="page-keys")
        self.list = StudyList()
        yield self.heading
        yield self.list
        yield self.keys

    def on_mount(self) -> None:
        state = self._control.state
        self._fill(state)
        self.list.show_cursor(1)
        self._title(state)
        self.list.focus()
        self.set_interval(1.0, self._tick)

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self._fill(self._control.state)

    # --- showing ------------------------------------------------------------------------------------------------

    def follow(self, state: State, old: State) -> None:
        """Results come and go, one grows."""
        if not self.is_mounted:
            return
        if state.studies is not old.studies or state.study is not old.study or state.tasks is not old.tasks:
            self._fill(state)
        self._title(state)

    def _fill(self, state: State) -> None:
        entries: list[Entry] = []
        found = study_reducer.records(state)
        if found:
            entries += ["results of this session", *found]
        entries += ["what can be studied", *studies()]
        before, listed = self.list.current, self.list
        listed.growing, listed.progress = state.study.growing, _progress(state)
        listed.entries = tuple(entries)
        listed.rows_changed()
        if before is not None:
            listed.show_cursor(self._place(state, before), reveal=False)

    def _place(self, state: State, before: StudyRecord | tuple[str, str]) -> int:
        """Where what the cursor was on stands now; where it is gone, the line that took its place."""
        entries = self.list.entries
        if isinstance(before, StudyRecord):
            same = study_reducer.successor(state, before)
            found = next((n for n, entry in enumerate(entries) if same is not None and entry is same), None)
        else:
            found = next((n for n, entry in enumerate(entries) if entry == before), None)
        place = found if found is not None else min(self.list.cursor, len(entries) - 1)
        return place if not isinstance(entries[place], str) else place + 1

    def _title(self, state: State) -> None:
        bar, task = self.heading, state.task("study")
        right = Text()
        if task is not None:
            right = Text(f"{_progress(state)} · {self._control.seconds:.0f} s · e ends it ", bar.style_of("warning"))
        bar.show(Text(f" Studies{self._said and f' · {self._said}'}", Style(bold=True)), right)
        hints = [
            "enter opens",
            "a again",
            "d delete",
            *(["u undo"] if state.study.gone else []),
            "? keys",
            "esc closes",
        ]
        self.keys.show(Text(f" {' · '.join(hints)}", bar.style_of("dim")))

    def _tick(self) -> None:
        """Count the seconds of what runs."""
        if self._control.under_way():
            self._title(self._control.state)

    def say(self, text: str) -> None:
        self._said = text
        self._title(self._control.state)

    # --- keys ---------------------------------------------------------------------------------------------------

    def on_line_list_moved(self) -> None:
        self.say("")

    def on_line_list_chosen(self) -> None:
        self.action_choose()

    def action_choose(self) -> None:
        entry = self.list.current
        if self.app.screen is not self or entry is None:
            return  # a second Enter came before the page that the first one opened
        if isinstance(entry, StudyRecord):
            self._show(entry)
        else:
            self._open_form(entry[0])

    def _open_form(self, study: str, record: StudyRecord | None = None) -> None:
        from tui.screens.study_form import StudyForm

        self.app.push_screen(StudyForm(self._control, study, record), self._started)

    def _started(self, started: bool | None) -> None:
        """A study was asked for: show it as it grows."""
        if started:
            self._show(None)

    def _show(self, record: StudyRecord | None) -> None:
        from tui.screens.study_page import StudyPage

        page = StudyPage(self._control, record)
        self.app.push_screen(page, lambda _: self._stand_on(page.record))

    def _stand_on(self, record: StudyRecord | None) -> None:
        """Put the cursor on the result that was looked at."""
        found = (n for n, entry in enumerate(self.list.entries) if record is not None and entry is record)
        self.list.show_cursor(next(found, self.list.cursor))

    def action_again(self) -> None:
        entry = self.list.current
        if isinstance(entry, StudyRecord) and not self._control.knows(entry.result.study):
            self.say("this saescope does not know this study")
        elif isinstance(entry, StudyRecord):
            self._open_form(entry.result.study, entry)
        elif entry is not None:
            self._open_form(entry[0])

    def action_stop(self) -> None:
        self.say(self._control.stop() or "nothing runs")

    def action_delete(self) -> None:
        entry = self.list.current
        if not isinstance(entry, StudyRecord):
            self.say("only results can be deleted")
        elif self._control.delete(entry):
            self.say("deleted; u brings it back")
        else:
            self.say("it still grows; e ends it")

    def action_undelete(self) -> None:
        self.say("it is back" if self._control.undelete() else "nothing was deleted")

    def action_help(self) -> None:
        self.app.push_screen(HelpPage("studies"))

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_move(self, step: int) -> None:
        self.list.move(step)

    def action_page(self, step: int) -> None:
        self.list.page(step)

    def action_end(self, end: bool) -> None:
        self.list.move_to_end(end)


def _progress(state: State) -> str:
    """`reading text 41 %`."""
    task = state.task("study")
    if task is None:
        return ""
    share = f" {100 * task.done // task.total} %" if task.total else ""
    return f"{visible(task.text)}{share}"
