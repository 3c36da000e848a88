"""The features that fire: over the whole prompt or on the token under the cursor, sorted and filtered."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import Input

from engine.protocol import FeatureRef
from sessions.quicklist import feature_url
from tui.actions import bindings
from tui.panes.pane import Pane
from tui.state import Row, State
from tui.text import fit, number, visible, visible_token
from tui.widgets.field import Field
from tui.widgets.line_list import LineList

_ORDER_NAMES = {"activation": "", "share": "by share", "source": "by source", "position": "by position"}


class FeatureList(LineList):
    """The list itself. Columns: mark, site, index, activation, share of the site's strongest, token, peaks."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("features")]

    def action_open_card(self) -> None:
        self.choose()

    def __init__(self) -> None:
        super().__init__(id="feature-list")
        self.rows: tuple[Row, ...] = ()
        self.marked: frozenset[object] = frozenset()
        self.places: tuple[str, ...] = ()
        """What the column `at` says for each token."""
        self.stale = False
        self.ahead: FeatureRef | None = None
        """Where the user put the cursor, until it is selected: rows that change meanwhile do not take it back."""

    def _go(self, row: int) -> bool:
        moved = super()._go(row)
        if moved:
            self.ahead = self.ref_at(self.cursor)
        return moved

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def ref_at(self, row: int) -> FeatureRef | None:
        """The feature of a row; None where there is no such row."""
        return self.rows[row].ref if row < len(self.rows) else None

    def _columns(self, width: int) -> tuple[int, int, int]:
        """Widths of site, token and peaks; the numbers keep theirs."""
        site = max((len(r.ref.source) for r in self.rows), default=4)
        site = min(max(site, 4), 18 if width >= 60 else 10)
        rest = width - 2 - site - 1 - 8 - 8 - 6
        token = max(6, min(14, rest // 3))
        return site, token, max(0, rest - token - 2)

    def draw_header(self, width: int) -> list[Segment]:
        if not self.rows:
            return []
        site, token, peaks = self._columns(width)
        text = f"  {fit('site', site)} {fit('index', 8)}{fit('act', 7, right=True)} {fit('share', 5, right=True)}  "
        text += f"{fit('at', token)} {fit(self.heading, peaks) if peaks > 5 else ''}"
        return [Segment(text, self.style_of("header"))]

    @property
    def heading(self) -> str:
        """What the last column shows: labels where features have some, and dim what the others peak on."""
        return "label" if any(row.label for row in self.rows) else "peaks on"

    def draw_row(self, row: int, width: int) -> list[Segment]:
        item = self.rows[row]
        site, token, peaks = self._columns(width)
        dim = self.style_of("dim")
        place = self.places[item.position] if item.position < len(self.places) else ""
        index = f":{item.ref.index}"
        link = Style(link=feature_url(item.page, item.ref.index)) if item.page else Style()
        segments = [
            Segment("▌" if self.is_marked(row) else " ", self.style_of("accent")),
            Segment("●" if item.ref in self.marked else " ", self.style_of("accent")),
            Segment(fit(item.ref.source, site) + " ", dim),
            Segment(index, (self.style_of("link") if item.page else Style()) + link),
            Segment(" " * max(0, 8 - len(index))),
            Segment(fit(number(item.activation), 7, right=True) + " ", Style(bold=True)),
            Segment(fit("sink" if item.sink else f"{100 * item.share:.0f} %", 5, right=True) + "  ", dim),
            Segment(fit(place, token) + " "),
        ]
        if peaks > 5:
            named = Segment(fit(visible(item.label), peaks)) if item.label else None
            segments.append(named or Segment(fit(visible(item.hint), peaks), dim))
        if self.stale:
            segments = [Segment(s.text, dim) for s in segments]
        return segments


def places(state: State) -> tuple[str, ...]:
    """The tokens of the run as the list shows them."""
    return tuple(visible_token(t.text) for t in state.result.tokens) if state.result else ()


def _why_empty(state: State) -> str:
    if state.result is None:
        return "  The features of a prompt show here."
    if state.needle:
        return f"  Nothing matches {visible(state.needle)}; Escape clears the filter."
    return "  Nothing fires here."


class FeaturesPane(Pane):
    """Pane 3."""

    GROUP = "features"
    NUMBER = 3
    NAME = "Features"

    class FilterChanged(Message):
        """The user typed in the filter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def compose(self) -> ComposeResult:
        self.list = FeatureList()
        self.filter = Field(
            id="feature-filter", placeholder="filter: site, index, label, token; Enter keeps, Escape clears"
        )
        yield self.title_bar
        yield self.filter
        yield self.list

    @property
    def home(self) -> FeatureList:
        return self.list

    def show(self, state: State, old: State | None) -> None:
        before, rows, marked = self.list.rows, state.rows, frozenset(state.marks)
        texts = self.list.places if old is not None and state.result is old.result else places(state)
        stale = state.stale
        said = not rows and self.list.empty != _why_empty(state)
        if said or rows is not self.list.rows or marked != self.list.marked or stale != self.list.stale or old is None:
            self._show_rows(state, rows, marked, texts, stale)
        if old is None or state.feature != old.feature or rows is not before:
            at = {row.ref: place for place, row in enumerate(rows)}
            if (old is not None and state.feature != old.feature) or self.list.ahead not in at:
                self.list.ahead = None
            place = at.get(self.list.ahead or state.feature)  # type: ignore[arg-type]
            self.list.show_cursor(place, reveal=self.list.has_focus or rows != before)
        if old is None or (old.needle and not state.needle):  # otherwise the field is ahead of the state
            self.filter.value = state.needle
        self.filter.display = bool(state.needle) or self.filter.has_focus
        self._show_title(state)

    def _show_rows(
        self,
        state: State,
        rows: tuple[Row, ...],
        marked: frozenset[object],
        texts: tuple[str, ...],
        stale: bool,
    ) -> None:
        before, heading = self.list.rows, self.list.heading
        same_shape = len(before) == len(rows) and texts == self.list.places and stale == self.list.stale
        changed: set[int] | None = None
        if same_shape:
            remarked = marked ^ self.list.marked
            changed = {n for n, (a, b) in enumerate(zip(before, rows, strict=True)) if a != b or b.ref in remarked}
            if len(changed) > len(rows) // 2:
                changed = None
        self.list.rows, self.list.marked, self.list.places, self.list.stale = rows, marked, texts, stale
        if not same_shape:
            self.list.cursor = min(self.list.cursor, max(len(rows) - 1, 0))
        empty = _why_empty(state)
        if empty != self.list.empty and not rows:
            changed = None
        self.list.empty = empty
        self.list.rows_changed(changed)
        if changed is not None and self.list.heading != heading:
            self.list.header_changed()

    def _show_title(self, state: State) -> None:
        if state.result is None:
            self.title_bar.show_info("", "")
            return
        scope = "whole prompt" if state.scope == "prompt" else f"token {state.token}"
        how = state.result.rank if state.scope == "prompt" else ""
        parts = (scope, how, state.site or "all sites", _ORDER_NAMES[state.order])
        marks = f"{len(state.marks)} ● " if state.marks else ""
        total = sum(s.active for s in state.result.sites)
        count = f"{len(state.rows)} of {total}" if state.scope == "prompt" else str(len(state.rows))
        self.title_bar.show_info(" · ".join(filter(None, parts)), f"{marks}{count}")

    def on_descendant_focus(self) -> None:
        super().on_descendant_focus()
        self.list.reveal()

    # --- the filter ---------------------------------------------------------------------------------------------

    def open_filter(self) -> None:
        self.filter.display = True
        self.filter.focus()

    def close_filter(self, *, clear: bool) -> None:
        """Leave the filter, with or without what was typed."""
        if clear:
            self.filter.value = ""
        self.list.focus()
        self.filter.display = bool(self.filter.value)

    @on(Input.Changed, "#feature-filter")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.FilterChanged(event.value))

    @on(Input.Submitted, "#feature-filter")
    def _kept(self, event: Input.Submitted) -> None:
        event.stop()
        self.close_filter(clear=False)
