"""The form of a study: one line for each of its settings.

One field has the focus all the time and stands on the line under the cursor: arrows move it, what is typed goes into
it, Enter runs. So keys that arrive in one piece all do what they say.
"""

from __future__ import annotations

import inspect
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from engine.protocol import STUDIES
from sessions.model import StudyRecord
from tui.screens.following import Following
from tui.screens.listening import ListeningPage
from tui.state import State
from tui.study_control import StudyControl
from tui.study_fields import FormField, Wrong, fields_of, next_word, word_from
from tui.text import cell_len, fit, visible, visible_in_place, wrapped
from tui.widgets.bar import Bar, shortened
from tui.widgets.field import FaithfulField
from tui.widgets.frames import Column
from tui.widgets.line_list import LineList
from tui.widgets.lines import Lines

_DETAIL = 4
"""Lines for what the setting under the cursor is, and for what is wrong with it."""
_VALUE = 40


class FormLine(FaithfulField):
    """The line under the cursor. On a choice arrows and letters choose, and nothing else is typed."""

    def __init__(self, form: StudyForm) -> None:
        super().__init__(id="study-field")
        self._form = form

    async def _on_key(self, event: events.Key) -> None:
        """Before the field's own: keys act in their order, also those that change the line."""
        if self._form.pressed(event.key, event.character):
            event.stop()
            event.prevent_default()

    def _on_paste(self, event: events.Paste) -> None:
        if self._form.here.is_choice:
            event.prevent_default()
            event.stop()
        else:
            super()._on_paste(event)


class FormList(LineList, can_focus=False):
    """The settings: name, value, what it is."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"list--warning"}
    header_lines = 0

    def __init__(self, fields: tuple[FormField, ...]) -> None:
        super().__init__(id="study-form")
        self.fields = fields
        self.texts: dict[str, str] = {}
        self.wrong = ""
        """The setting that does not fit."""

    @property
    def row_count(self) -> int:
        return len(self.fields)

    @property
    def name_size(self) -> int:
        return max((cell_len(field.label) for field in self.fields), default=0)

    def value_size(self, width: int) -> int:
        """Cells for values: what is left, of which the help has a half where there is room."""
        return max(12, min(_VALUE, (width - self.name_size - 6) // 2))

    def draw_row(self, row: int, width: int) -> list[Segment]:
        field, dim = self.fields[row], self.style_of("dim")
        here, size = self.is_marked(row), self.value_size(width)
        text = visible_in_place(self.texts.get(field.name, ""))
        value = Segment(fit(f"‹{text}›" if field.is_choice else text, size)) if text else Segment(fit("–", size), dim)
        wrong = field.name == self.wrong
        return [
            Segment("▌" if here else " ", self.style_of("accent")),
            Segment("!" if wrong else " ", self.style_of("warning")),
            Segment(fit(field.label, self.name_size) + "  ", self.style_of("warning") if wrong else Style(bold=here)),
            value,
            Segment("  " + shortened(field.help, max(width - self.name_size - size - 6, 0)), dim),
        ]


class StudyForm(ListeningPage[bool], Following):
    """Dismissed with True once the study was asked for."""

    DEFAULT_CSS = """
    StudyForm { background: $background; }
    StudyForm #page-title { background: $panel; }
    StudyForm #study-what { padding: 0 1; }
    StudyForm #study-lines { height: 1fr; }
    StudyForm FormLine { position: absolute; height: 1; border: none; background: $panel; padding: 0; }
    StudyForm #study-detail { border-top: solid $rule; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "close", id="form.close")]

    def __init__(self, control: StudyControl, study: str, record: StudyRecord | None = None) -> None:
        super().__init__()
        self._control, self._study = control, study
        self._fields = fields_of(study)
        self._texts = control.texts(study, record)
        self._at: FormField | None = None
        """The setting whose text stands in the field."""
        self._wrong: tuple[str, str] | None = None
        """The setting that does not fit, and why; no setting where the whole cannot be done."""
        self._warned = False
        """The user was told that another study would be stopped."""

    def compose(self) -> ComposeResult:
        self.heading, self.what, self.detail = Bar(id="page-title"), Lines(id="study-what"), Lines(id="study-detail")
        self.list, self.line = FormList(self._fields), FormLine(self)
        self.what.can_focus = self.detail.can_focus = False
        yield self.heading
        yield self.what
        with Column(id="study-lines"):
            yield self.list
            yield self.line
        yield self.detail

    def on_mount(self) -> None:
        self.list.texts = self._texts
        self.list.rows_changed()
        hint = Text("↑↓ · ← → chooses · enter runs · esc back ", self.heading.style_of("dim"))
        self.heading.show(Text(f" {self._study} study", Style(bold=True)), hint)
        fault = self._control.state.study.failed.get(self._study)
        if fault is not None:
            self._wrong = ("", f"{fault.message} {fault.remedy}")
        self.what.styles.padding = (0, 1)
        self.detail.styles.height = _DETAIL + 1
        self.line.display = True
        self.line.focus()
        self.watch(self.list, "scroll_y", self._place, init=False)  # the wheel moves lines, and not the cursor
        self.call_after_refresh(self._place)
        self._enter()

    def on_resize(self) -> None:
        width = self.app.size.width
        text = inspect.getdoc(STUDIES[self._study]) or ""
        first, *more = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
        room = self.app.size.height - len(self._fields) - _DETAIL - 3
        lines = [line for paragraph in (first, *more) for line in wrapped(paragraph, width - 2)]
        if len(lines) > max(room, 1):
            lines = wrapped(first, width - 2)[: max(room, 1)]
        self.what.styles.height = len(lines)
        dim = self.heading.style_of("dim")
        self.what.show(lambda width: [Text(line, dim) for line in lines])
        self.call_after_refresh(self._place)

    def follow(self, state: State, old: State) -> None:
        """The engine became ready or went away: what was said about it may be past."""
        if (
            self.is_mounted
            and state.engine.phase != old.engine.phase
            and self._wrong is not None
            and not self._wrong[0]
        ):
            self._wrong = None
            self._describe()

    # --- the line under the cursor ------------------------------------------------------------------------------

    @property
    def here(self) -> FormField:
        """The setting under the cursor."""
        return self._fields[self.list.cursor]

    def _place(self) -> None:
        """Put the field on its line, over the value that is drawn there."""
        left, size = self.list.name_size + 4, self.list.value_size(self.list.room)
        self.line.styles.offset = (left, self.list.cursor - self.list.scroll_offset.y)
        self.line.styles.width = size

    def _enter(self) -> None:
        """The cursor came to a line: its text into the field, after that of the line it left was kept."""
        self._keep()
        field, text = self.here, self._texts[self.here.name]
        self._at = field
        with self.line.prevent(Input.Changed):
            self.line.placeholder = "–"
            self.line.value = f"‹{text}›" if field.is_choice else text
            self.line.cursor_position = 0 if field.is_choice else len(self.line.value)
            if field.kind in {"whole", "number"}:
                self.line.select_all()  # what is typed replaces a number
        self._place()
        self._describe()

    def _describe(self) -> None:
        """What the setting is, its words, and what is wrong."""
        field, width = self.here, max(self.app.size.width - 2, 20)
        said, style = field.help, self.heading.style_of("dim")
        if field.words:
            said += f" {' · '.join(field.words)}"
        elif field.kind == "list":
            said += " Several: commas between them; in quotes a comma stays."
        elif field.default not in (None, "", ()):
            said += f" Nothing: {field.default}."
        wrong = self._wrong[1] if self._wrong is not None else ""
        self.list.wrong = self._wrong[0] if self._wrong is not None else ""
        self.list.refresh()
        red = self.heading.style_of("error")
        lines = [Text(f" {line}", red) for line in (wrapped(wrong, width) if wrong else ())]
        lines += [Text(f" {line}", style) for line in wrapped(said, width)]
        self.detail.show(lambda width: lines)

    @on(Input.Changed, "#study-field")
    def _typed(self, event: Input.Changed) -> None:
        """What is typed is seen, also where the wheel had moved its line off the screen."""
        event.stop()
        self.list.reveal()
        if self._wrong is not None and self._wrong[0] == self.here.name and event.value != self._texts[self.here.name]:
            self._wrong = None
            self._describe()

    def _keep(self) -> None:
        """What stands in the field is the setting's text."""
        if self._at is not None and not self._at.is_choice:
            self._texts[self._at.name] = self.line.value

    def _choose(self, text: str) -> None:
        self._texts[self.here.name] = text
        self._enter()

    def _move(self, step: int) -> None:
        before = self.list.cursor
        self.list.show_cursor(max(0, min(before + step, len(self._fields) - 1)))
        if self.list.cursor != before:
            self._enter()

    def pressed(self, key: str, character: str | None) -> bool:
        """Do what a key means; False where it is the field's own."""
        field, text = self.here, self._texts[self.here.name]
        if key in _STEPS:
            self._move(_STEPS[key])
        elif key == "enter":
            self._run()
        elif field.is_choice and key in {"left", "right", "space"}:
            self._choose(next_word(field, text, -1 if key == "left" else 1))
        elif field.is_choice and character is not None and character.isprintable():
            self._choose(word_from(field, text, character))
        else:
            return field.is_choice and key in _EDITS
        return True

    def on_line_list_moved(self) -> None:
        """A click went to a line; the field was on another."""
        self._enter()

    # --- running ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._keep()
        why, other = self._control.why_not(), self._control.under_way()
        if why:
            self._refuse("", why)
        else:
            try:
                self._control.check(self._study, self._texts)
            except Wrong as wrong:
                self._refuse(wrong.field, wrong.reason)
                return
            if other and not self._warned:
                self._warned = True
                self._refuse("", f"The {other} study is under way: Enter again stops it, and keeps what it has found.")
                return
            self._control.run(self._study, self._texts)
            self.dismiss(True)

    def _refuse(self, name: str, reason: str) -> None:
        """Say what is wrong, with the cursor on the setting it concerns."""
        self._wrong = (name, visible(reason))
        place = next((n for n, field in enumerate(self._fields) if field.name == name), self.list.cursor)
        self.list.show_cursor(place)
        self._enter()

    def action_leave(self) -> None:
        self._keep()
        self._control.keep(self._study, self._texts)
        self.dismiss(False)


_STEPS = {"up": -1, "down": 1, "shift+tab": -1, "tab": 1, "pageup": -100, "pagedown": 100}
_EDITS = frozenset({"backspace", "delete", "ctrl+u", "ctrl+k", "ctrl+w", "ctrl+d", "ctrl+x", "ctrl+v"})
