"""The page of a study's result: figures and notes, every plot, every table, every set, a section each."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType

from engine.protocol import EngineFault, FeatureRef
from sessions.model import StudyRecord
from tui import study_reducer
from tui.actions import bindings
from tui.panes.card import CardPage
from tui.screens.following import Following
from tui.screens.listening import ListeningPage
from tui.screens.page import HelpPage
from tui.screens.study_list import MarkedTable, SetList
from tui.state import State
from tui.study_control import StudyControl
from tui.study_sections import FIGURES, Section, SectionKey, place_of, sections_of, tabs
from tui.study_words import clock, overview, state_words
from tui.text import visible, wrapped
from tui.widgets.bar import Bar, shortened
from tui.widgets.frames import Column
from tui.widgets.line_list import LineList
from tui.widgets.lines import Lines
from tui.widgets.plot_view import PlotView
from tui.widgets.table_view import TableView


class StudyPage(ListeningPage[None], Following):
    """`record` None: the study under way, of which nothing may be there yet."""

    DEFAULT_CSS = """
    StudyPage { background: $background; }
    StudyPage #page-title, StudyPage #page-keys { background: $panel; }
    StudyPage #study-body { height: 1fr; }
    StudyPage #study-below { border-top: solid $rule; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("study")]

    def __init__(self, control: StudyControl, record: StudyRecord | None) -> None:
        super().__init__()
        self._control = control
        self.record = record
        self._sections: tuple[Section, ...] = ()
        self._key: SectionKey = FIGURES.key if record is None else control.sections.get(_id(record), FIGURES.key)
        """The section that shows; it keeps its name while others come before it."""
        self._at = 0
        self._below_lines = 0
        self._said = ""

    def compose(self) -> ComposeResult:
        self.heading, self.tabs, self.keys = Bar(id="page-title"), Bar(id="page-tabs"), Bar(id="page-keys")
        self.figures, self.plot = CardPage(id="study-figures"), PlotView(id="study-plot")
        self.table, self.set = MarkedTable(id="study-table"), SetList(id="study-set")
        self._kinds: dict[str, CardPage | PlotView | TableView | SetList] = {
            "figures": self.figures, "plot": self.plot, "table": self.table, "set": self.set,
        }  # fmt: skip
        self.below = Lines(id="study-below")
        self.below.can_focus = self.below.display = False
        yield self.heading
        yield self.tabs
        with Column(id="study-body"):
            for widget in self._kinds.values():
                widget.display = widget is self.figures
                yield widget
        yield self.below
        yield self.keys

    def on_mount(self) -> None:
        self.figures.styles.padding = (0, 1)
        self.show(self._control.state)
        self.figures.focus()
        self.set_interval(1.0, self._tick)

    def on_resize(self) -> None:
        self._below_lines = 0
        self._show_below()
        self._show_bars()

    # --- showing ------------------------------------------------------------------------------------------------

    def follow(self, state: State, old: State) -> None:
        """The result grew, the study ended, or features were marked."""
        if not self.is_mounted:
            return
        grew = state.study is not old.study or state.studies is not old.studies
        if grew or state.marks is not old.marks or state.labels is not old.labels:
            self.show(state)
        elif state.tasks is not old.tasks:
            self._show_bars()

    def show(self, state: State) -> None:
        """Take the newest form of the result."""
        if self.record is None:
            self.record = self._control.newest()
        else:
            self.record = study_reducer.successor(state, self.record) or self.record
        if self.record is not None:
            self._sections = sections_of(self.record.result)
            self._at = place_of(self._sections, self._key, self._at)
            self._show_section(state)
        else:
            self._wait(state)
        self._show_bars()

    def _wait(self, state: State) -> None:
        """Nothing is there yet, or nothing will be."""
        text, style = "Nothing is found yet; results show here as they grow.", self.figures.part("dim")
        if fault := state.study.failed.get(state.study.asked):
            text, style = f"{_said(fault)}\na opens the form again.", self.heading.style_of("error")
        elif state.task("study") is None:
            text = "It ended before anything was found; a opens the form again."
        self.figures.show(lambda width: [Text(line, style) for line in wrapped(text, width)])

    def _show_section(self, state: State) -> None:
        """Fill the widget of the section and show it alone; the same section keeps its cursor."""
        assert self.record is not None
        section, result = self._sections[self._at], self.record.result
        match section.kind:
            case "plot":
                view = result.views[section.place]
                self.plot.show(view, result.table(view.table))
            case "table":
                self.table.marked = frozenset(state.marks)
                self.table.show(result.tables[section.place])
            case "set":
                self.set.show(result.sets[section.place], state)
            case _:
                newest = self.record is self._control.newest()
                fault = state.study.failed.get(result.study) if newest and not result.finished else None
                wrong = Text(_said(fault) if fault else "", self.heading.style_of("error"))
                self.figures.show(overview(result, self.figures.part, wrong), keep_scroll=True)
        shown = self._widget
        for widget in self._kinds.values():
            widget.display = widget is shown
        if self.focused is not shown:
            self.set_focus(shown)
        self._show_below()

    def _show_below(self) -> None:
        """Under a table: which row it is, what the rows are sorted by, and the whole row, however long its cells.

        There are as many lines as a row of this table has needed so far: the table does not jump as the cursor moves.
        """
        table, width = self.table, max(self.app.size.width - 2, 20)
        about = table.about if self._widget is table else ""
        self.below.display = bool(about)
        if not about:
            return
        most = max(self.app.size.height // 2, 2)
        lines = [*wrapped(about, width), *wrapped(table.detail, width)]
        if len(lines) > most:
            lines = [*lines[: most - 1], shortened(f"{lines[most - 1]} …", width - 1)]
        if len(lines) > self._below_lines:
            self._below_lines = len(lines)
            self.below.styles.height = len(lines) + 1  # and the rule above
            self.call_after_refresh(table.reveal)
        dim = self.heading.style_of("dim")
        self.below.show(lambda width: [Text(f" {line}", dim) for line in lines])

    @property
    def _widget(self) -> CardPage | PlotView | TableView | SetList:
        return self._kinds[self._sections[self._at].kind if self._sections else "figures"]

    def _show_bars(self) -> None:
        """The title with how far it is, the tabs, and what is said or can be done."""
        state, bar = self._control.state, self.heading
        dim, growing = bar.style_of("dim"), state.study.growing
        task = state.task("study")
        here = task is not None and (self.record is None or self.record is growing)
        if here and task is not None:
            share = f" {100 * task.done // task.total} %" if task.total else ""
            words = f"{visible(task.text)}{share} · {self._control.seconds:.0f} s · e ends it "
            right = Text(words, bar.style_of("warning"))
        elif self.record is not None:
            right = Text(f"{state_words(self.record.result, False)} · {clock(self.record.at)} ", dim)
        else:
            right = Text()
        name = visible(self.record.result.study) if self.record is not None else state.study.asked
        title = f" · {visible(self.record.result.title)}" if self.record is not None else ""
        bar.show(Text.assemble((f" {name}", Style(bold=True)), title), right)
        sections = self._sections or (FIGURES,)
        width = self.app.size.width
        self.tabs.show(tabs(sections, self._at, width - 1, dim, bar.style_of("accent")))
        self.keys.show(Text(f" {self._said}") if self._said else Text(f" {self._hints()}", dim))

    def _hints(self) -> str:
        """The keys of the section, then those of the page, which are the same everywhere."""
        widget = self._widget
        own = widget.hints if isinstance(widget, PlotView | TableView) else ""
        if isinstance(widget, SetList):
            own = "enter card · space marks all · s steers all · x quicklist"
        return " · ".join(filter(None, ("esc back · [ ] section · ? keys", own)))

    def _tick(self) -> None:
        """Count the seconds of what runs."""
        if self._control.under_way():
            self._show_bars()

    def say(self, text: str) -> None:
        """In place of the keys, until the cursor or the section moves."""
        self._said = text
        self._show_bars()

    # --- moving -------------------------------------------------------------------------------------------------

    def action_section(self, step: int) -> None:
        if self._sections:
            self._go((self._at + step) % len(self._sections))

    def on_key(self, event: events.Key) -> None:
        """A digit goes to its section."""
        if event.character and event.character in "123456789" and int(event.character) <= len(self._sections):
            event.stop()
            self._go(int(event.character) - 1)

    def _go(self, place: int) -> None:
        self._at, self._said, self._below_lines = place, "", 0
        self._key = (self._sections[place] if self._sections else FIGURES).key
        if self.record is not None:
            self._control.sections[_id(self.record)] = self._key
            self._show_section(self._control.state)
        self._show_bars()

    def on_line_list_moved(self) -> None:
        self._show_below()
        self.say("")

    def on_plot_view_moved(self) -> None:
        self.say("")

    # --- features -----------------------------------------------------------------------------------------------

    @property
    def _current(self) -> FeatureRef | None:
        """The feature under the cursor."""
        widget = self._widget
        return None if isinstance(widget, CardPage) else widget.current

    @property
    def _meant(self) -> tuple[FeatureRef, ...]:
        """What a key acts on: the feature under the cursor, or the whole set."""
        if self._widget is self.set:
            return self.set.features
        return (self._current,) if self._current is not None else ()

    def on_line_list_chosen(self, message: LineList.Chosen) -> None:
        message.stop()
        widget = message.widget
        self._take(widget.feature_at(message.row) if isinstance(widget, TableView | SetList) else None)

    def on_plot_view_chosen(self, message: PlotView.Chosen) -> None:
        message.stop()
        self._take(message.feature)

    def _take(self, feature: FeatureRef | None) -> None:
        """What Enter was pressed on, although the cursor may have moved since."""
        if self.app.screen is not self:
            return
        if feature is not None:
            self._control.take(feature)
        else:
            self.say("This line names no feature.")

    def action_mark(self) -> None:
        if self._meant:
            self.say(self._control.mark(self._meant))
        else:
            self.say("There is no feature to mark here.")

    def action_steer(self) -> None:
        if self._meant:
            self._control.steer(self._meant)
        else:
            self.say("There is no feature to steer here.")

    def action_steer_marked(self) -> None:
        marks = self._control.state.marks
        if marks:
            self._control.steer(marks)
        else:
            self.say("No feature is marked; space marks the one under the cursor.")

    def action_copy_link(self) -> None:
        self.say(self._control.link(self._current) if self._current is not None else "There is no feature here.")

    def action_export(self) -> None:
        marks = self._control.state.marks
        if self._widget is self.set and self.set.features:
            self._control.show_quicklist(self.set.chosen.name, self.set.features, self.set.pages)
        elif marks:
            self._control.show_quicklist("saescope features", marks, {})
        else:
            self.say("No feature is marked; in a set x lists its features.")

    # --- the result ---------------------------------------------------------------------------------------------

    def action_again(self) -> None:
        from tui.screens.study_form import StudyForm

        name = self.record.result.study if self.record is not None else self._control.state.study.asked
        if not self._control.knows(name):
            self.say("This saescope does not know this study.")
            return
        self.app.push_screen(StudyForm(self._control, name, self.record), self._started)

    def _started(self, started: bool | None) -> None:
        """Another study was asked for: its result takes the place of this one."""
        if started:
            self.record, self._sections, self._at, self._said = None, (), 0, ""
            self._go(0)
            self.show(self._control.state)

    def action_stop(self) -> None:
        running = self._control.under_way()
        if running and self.record is not None and self.record is not self._control.state.study.growing:
            self.say(f"This study has ended. The {running} study is under way; e on the list of studies ends it.")
        else:
            self.say(self._control.stop() or "Nothing runs.")

    def action_delete(self) -> None:
        if self.record is not None and self._control.delete(self.record):
            self.dismiss(None)
        else:
            self.say("It still grows; e ends it.")

    def action_help(self) -> None:
        self.app.push_screen(HelpPage("study"))

    def action_leave(self) -> None:
        self.dismiss(None)


def _id(record: StudyRecord) -> tuple[str, str]:
    return record.at, record.result.study


def _said(fault: EngineFault) -> str:
    return f"{fault.message} {fault.remedy}"
