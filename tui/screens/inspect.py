"""The one screen: panes, what moves between them, and how the user's actions reach the app.

Panes never call one another. Their messages come here, become a change of state through the app, and return to
every pane as the new state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.reactive import Reactive
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import TextArea

from tui import reducer
from tui.actions import Group, bindings, footer
from tui.messages import PromptSubmitted
from tui.panes.card import CardPane
from tui.panes.circuit import CircuitPane
from tui.panes.circuit_body import CircuitAsked
from tui.panes.features import FeaturesPane
from tui.panes.pane import Pane
from tui.panes.prompt import PromptArea, PromptPane
from tui.panes.steering import SteeringPane
from tui.panes.steering_list import InterventionList, SteeringAsked
from tui.panes.steering_text import SteeringText
from tui.panes.tokens import TokensPane
from tui.screens.over import PageActions
from tui.state import State
from tui.status import Context, Header, Status
from tui.widgets.frames import Column, Row
from tui.widgets.line_list import LineList
from tui.widgets.token_view import TokenView

if TYPE_CHECKING:
    from tui.app import SaescopeApp

_SETTLE = 0.08
"""Seconds the list cursor rests before the card follows: held keys do not flood a slow line."""
_WIDE = 100
_LOWER: tuple[Group, ...] = ("card", "circuit", "steering")


class InspectScreen(PageActions):
    """Composes the panes and listens to them."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("anywhere")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    AUTO_FOCUS = "#prompt-area"

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """Textual's own, without its repaint of the whole screen at every change of focus: the titles show the focus."""

    def __init__(self) -> None:
        super().__init__()
        self._lower: Group = "card"
        self._at: Group = "prompt"
        self._narrow = False
        self._settling: Timer | None = None
        self._unsettled: Callable[[], None] = lambda: None

    def compose(self) -> ComposeResult:
        self.header, self.context, self.status = Header(), Context(), Status()
        self.prompt, self.tokens, self.features = PromptPane(), TokensPane(), FeaturesPane()
        self.card, self.circuit, self.steering = CardPane(), CircuitPane(), SteeringPane()
        self.panes: dict[Group, Pane] = {
            p.GROUP: p for p in (self.prompt, self.tokens, self.features, self.card, self.circuit, self.steering)
        }
        yield self.header
        yield self.context
        with Row(id="body"):
            with Column(id="left"):
                yield self.prompt
                yield self.tokens
            with Column(id="right"):
                yield self.features
                yield self.card
                yield self.circuit
                yield self.steering
        yield self.status

    def on_mount(self) -> None:
        tabs = tuple((self.panes[g].NUMBER, self.panes[g].NAME) for g in _LOWER)
        for group in _LOWER:
            self.panes[group].title_bar.set_tabs(tabs)
        self._narrow = self.app.size.width < _WIDE
        self._place("prompt")
        self.show(self.saescope.state, None)

    @property
    def saescope(self) -> SaescopeApp:
        return cast("SaescopeApp", self.app)

    @property
    def at(self) -> Group:
        """The group of the pane that has the focus, or had it last."""
        return self._at

    # --- showing a state ----------------------------------------------------------------------------------------

    def show(self, state: State, old: State | None) -> None:
        """Hand a new state to every pane."""
        with self.app.batch_update():
            for pane in self.panes.values():
                pane.show(state, old)
            self.header.update(state)
            self.context.update(state)
        self.show_status(state)
        wrong = state.notice is not None and state.notice.where == "prompt"
        if wrong and (old is None or state.notice != old.notice) and not self.prompt.display:
            self.go_to("prompt")  # what is wrong with a prompt is said there

    def show_status(self, state: State) -> None:
        seen = frozenset(group for group, pane in self.panes.items() if pane.display)
        self.status.update(state, footer(self._at), self.saescope.busy_seconds, seen)

    # --- moving between panes -----------------------------------------------------------------------------------

    def _place(self, group: Group) -> None:
        """Lay the screen out around a pane."""
        self._at = group
        if group in _LOWER:
            self._lower = group
        self._arrange()

    def _arrange(self) -> None:
        """Tell the style sheet which panes to show.

        A class of the screen repaints all of it, so none changes that does not have to: in two columns only the
        lower pane matters, and in one column tokens and features stand together.
        """
        wanted = {f"-lower-{self._lower}"}
        if self.has_class("-zoom"):
            wanted.add(f"-at-{self._at}")
        elif self._narrow:
            wanted.add("-at-lists" if self._at in ("tokens", "features") else f"-at-{self._at}")
        present = {name for name in self.classes if name.startswith(("-at-", "-lower-"))}
        if wanted != present:
            self.remove_class(*present - wanted)
            self.add_class(*wanted - present)

    def go_to(self, group: Group) -> None:
        """Show a pane and give it the focus; what is under a cursor that moved is selected before."""
        if self._settling is not None:
            self.rest()
        self._place(group)
        self.panes[group].home.focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self.saescope.take_keys()
        pane = next((a for a in event.widget.ancestors_with_self if isinstance(a, Pane)), None)
        if pane is not None and self._at != pane.GROUP:
            self._place(pane.GROUP)
        self.show_status(self.saescope.state)

    def on_resize(self, event: events.Resize) -> None:
        """Say which panes one column shows before Textual lays it out: a hidden pane would lose the focus."""
        self._narrow = event.size.width < _WIDE
        self._arrange()
        self.call_after_refresh(self._resized)

    def _resized(self) -> None:
        if self.focused is None:  # what had the focus was not on screen at this size
            self.panes[self._at].home.focus()
        self.show(self.saescope.state, None)

    def action_pane(self, group: Group) -> None:
        self.go_to(group)

    def action_next_pane(self, step: int) -> None:
        order: list[Group] = ["prompt", "tokens", "features", self._lower]
        place = order.index(self._at) if self._at in order else 3
        self.go_to(order[(place + step) % len(order)])

    def action_zoom(self) -> None:
        with self.app.batch_update():
            self.toggle_class("-zoom")
            self._arrange()

    def action_back(self) -> None:
        """Leave the innermost thing: a field, the zoom, what runs, the pane, at last a prompt that waits."""
        state = self.saescope.state
        if self.features.filter.has_focus or (self._at == "features" and state.needle):
            self.features.close_filter(clear=True)
        elif self.steering.field.has_focus:
            self.steering.close_field()
        elif self.circuit.field.has_focus:
            self.circuit.close_field()
        elif any(task.kind != "study" for task in state.tasks):
            self.saescope.stop_tasks()
        elif self._at == "circuit" and state.circuit.grid:
            self.saescope.circuits.do("grid", 0)
        elif self.has_class("-zoom"):
            self.action_zoom()
        elif self._at == "prompt":
            self.go_to("tokens")
        elif state.queued and self._at in ("tokens", "features"):
            self.saescope.drop_queued()
        elif state.notice is not None and not state.ending:
            self.saescope.change(lambda s: reducer.notify(s, None))
        elif state.tasks:
            self.saescope.stop_tasks()  # a study takes long: one stops it only where nothing is nearer
        else:
            self.go_to("tokens" if self._at == "features" else "features")

    def action_explain(self) -> None:
        """The long story of what is said, or of why nothing is open."""
        if self.saescope.state.notice is None:
            self.saescope.change(lambda s: reducer.notify(s, s.trouble))
        super().action_explain()

    async def action_in_pane(self, group: Group, verb: str) -> None:
        """Go to a pane and do there what its key would do."""
        self.go_to(group)
        await self.app.run_action(verb, default_namespace=self.panes[group].home)

    # --- selection from any pane --------------------------------------------------------------------------------

    def action_token(self, step: int) -> None:
        self.saescope.change(lambda s: reducer.select_token(s, s.token + step))

    def action_feature(self, step: int) -> None:
        self.features.list.move(step)

    def action_site(self, step: int) -> None:
        self.saescope.change(lambda s: reducer.next_site(s, step))

    def action_run(self, step: int) -> None:
        self.saescope.change(lambda s: reducer.show_run(s, step))

    def action_scope(self) -> None:
        self.saescope.change(reducer.toggle_scope)

    def action_order(self) -> None:
        self.saescope.change(reducer.next_order)

    def action_rank(self) -> None:
        self.saescope.rank_anew()

    def action_clear_feature(self) -> None:
        self.saescope.change(lambda s: reducer.select_feature(s, None))

    def action_mark(self) -> None:
        feature = self._selected()
        if feature is not None:
            self.saescope.change(lambda s: reducer.toggle_mark(s, feature))

    def action_filter(self) -> None:
        self.go_to("features")
        self.features.open_filter()

    def action_steer(self) -> None:
        feature = self._selected()
        if feature is not None:
            self.saescope.steers.take((feature,))
            self.go_to("steering")

    def action_steer_marked(self) -> None:
        marks = self.saescope.state.marks
        if not marks:
            self.saescope.say("No feature is marked.", "Space marks the selected one.", "warning")
            return
        self.saescope.steers.take(marks)
        self.go_to("steering")

    def action_trace(self) -> None:
        self.go_to("circuit")
        self.saescope.circuits.trace()

    def action_chat(self) -> None:
        self.saescope.toggle_chat()

    def action_resume(self) -> None:
        self.saescope.resume()

    def action_theme(self, name: str) -> None:
        self.app.theme = name

    def action_bars(self) -> None:
        self.tokens.view.bars = not self.tokens.view.bars

    # --- what the panes say -------------------------------------------------------------------------------------

    @on(PromptArea.Submitted)
    def _submitted(self, event: PromptArea.Submitted) -> None:
        if event.text.strip():
            self.post_message(PromptSubmitted(event.text))
            self.go_to("tokens")
        else:
            self.saescope.say("The prompt is empty.", "Type some text, or ↑ for an earlier prompt.", "warning")

    @on(PromptArea.HistoryWanted)
    def _history(self, event: PromptArea.HistoryWanted) -> None:
        self.saescope.recall(event.step)

    @on(TextArea.Changed, "#prompt-area")
    def _typed(self, event: TextArea.Changed) -> None:
        self.saescope.draft(event.text_area.text)

    @on(TokenView.Moved)
    def _token_moved(self, event: TokenView.Moved) -> None:
        self.saescope.change(lambda s: reducer.select_token(s, event.token))

    @on(LineList.Moved, "#feature-list")
    def _feature_moved(self) -> None:
        if self.features.list.ahead is not None:  # rows may have been reordered since it was said
            self._settle(self._select_row)

    def _settle(self, select: Callable[[], None]) -> None:
        """Select what is under a cursor once it rests."""
        if self._settling is not None:
            self._settling.stop()
        self._settling, self._unsettled = self.set_timer(_SETTLE, self.rest), select

    def rest(self) -> None:
        """Select it now: the cursor came to rest, or the user does something with what is under it."""
        if self._settling is not None:
            self._settling.stop()
            self._settling = None
            self._unsettled()
        elif self.features.list.ahead is not None:
            self._select_row()  # its own word that it moved may still be on the way

    def _select_row(self) -> None:
        listed = self.features.list
        ref = listed.ref_at(listed.cursor)
        if ref is not None:
            self.saescope.change(lambda s: reducer.select_feature(s, ref))

    @on(LineList.Chosen, "#feature-list")
    def _feature_chosen(self) -> None:
        self.rest()
        self._select_row()
        self.go_to("card")

    @on(LineList.Moved, "#circuit-body")
    def _circuit_moved(self, event: LineList.Moved) -> None:
        self.saescope.circuits.moved(event.row)
        self._settle(self.saescope.circuits.select)

    @on(CircuitAsked)
    def _circuit_asked(self, event: CircuitAsked) -> None:
        self.saescope.circuits.do(event.what, event.step)

    @on(CircuitPane.Typed)
    def _circuit_typed(self, event: CircuitPane.Typed) -> None:
        self.saescope.circuits.typed(event.field, event.text, event.ref)

    @on(FeaturesPane.FilterChanged)
    def _filtered(self, event: FeaturesPane.FilterChanged) -> None:
        self.saescope.change(lambda s: reducer.filter_by(s, event.text))

    @on(LineList.Moved, "#steering-list")
    def _intervention_moved(self, event: LineList.Moved) -> None:
        self.saescope.steers.moved(event.row)

    @on(SteeringAsked)
    def _steering_asked(self, event: SteeringAsked) -> None:
        self.saescope.steers.do(event.what, event.step)

    @on(InterventionList.Slid)
    def _slid(self, event: InterventionList.Slid) -> None:
        self.saescope.steers.slid(event.row, event.share)

    @on(InterventionList.Boxed)
    def _boxed(self, event: InterventionList.Boxed) -> None:
        self.saescope.steers.boxed(event.row)

    @on(SteeringText.Pointed)
    def _pointed(self, event: SteeringText.Pointed) -> None:
        self.saescope.steers.pointed(event.token)

    @on(SteeringPane.Typed)
    def _steering_typed(self, event: SteeringPane.Typed) -> None:
        self.saescope.steers.typed(event.field, event.text)
