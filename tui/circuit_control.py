"""What the user does in the circuit pane, made into requests to the engine and changes of the state."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.protocol import FeatureRef, MeasureFaithfulness, NodeRef
from tui import circuit_reducer, reducer
from tui.circuit_state import Path
from tui.panes.circuit_grid import cell_at, grid_of
from tui.screens.faithfulness import FaithfulnessPage
from tui.state import Notice, State

if TYPE_CHECKING:
    from tui.app import SaescopeApp
    from tui.panes.circuit import Field
    from tui.panes.circuit_body import Wanted


class CircuitControl:
    """Stands between the circuit pane and the app."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app

    @property
    def _state(self) -> State:
        return self._app.state

    def _warn(self, text: str, remedy: str = "") -> None:
        """Something cannot be done; said in the pane."""
        self._app.change(lambda s: reducer.notify(s, Notice(text, "warning", remedy, where="circuit")))

    def _clear(self) -> None:
        """The user goes on: a warning has been read; an error stays until Escape."""
        notice = self._state.notice
        if notice is not None and notice.where == "circuit" and notice.level == "warning":
            self._app.change(lambda s: reducer.notify(s, None))

    # --- asking the engine --------------------------------------------------------------------------------------

    def _can_ask(self) -> bool:
        if self._state.replaying:
            self._warn("This is a recording: no engine is there to compute.", "Start saescope to trace and verify.")
        elif self._state.engine.phase != "ready":
            self._warn(*self._state.unready)
        else:
            return True
        return False

    def trace(self) -> None:
        """Trace the prompt on screen."""
        if not self._can_ask():
            return
        request = circuit_reducer.trace_of(self._state, self._app.next_id())
        if request is None:
            self._warn("There is no prompt to trace.", "Run one in pane 1.")
            return
        if request.against and not request.target:
            self._warn("There is nothing before the /.", "T: write what to explain, then / and what to compare with.")
            return
        self._app.ask(request, lambda s: circuit_reducer.started(s, "trace", request.id))

    def _held(self) -> bool:
        """Whether the engine can measure the circuit on screen."""
        if not self._can_ask():
            return False
        if self._state.task("trace") is not None:
            self._warn("The circuit still grows; it can be measured when it is there.", "Escape stops it as it is.")
            return False
        held = circuit_reducer.held(self._state)
        if held is None or held is not self._state.traced:
            self._warn(
                "The engine can only measure its own last trace, and this is another.", "c traces the prompt on screen."
            )
            return False
        return True

    def _verify(self, path: Path, whole: bool) -> None:
        if circuit_reducer.node_of(self._state, path) is None:
            self._warn("There is nothing to verify on this line.", "Choose a node under the metric.")
        elif self._held():
            request = circuit_reducer.verify_of(self._state, path, whole, self._app.next_id())
            self._app.ask(request, lambda s: circuit_reducer.started(s, "verify", request.id))

    def _faithfulness(self) -> None:
        """Show what was measured, or measure it."""
        record = self._state.traced
        if record is not None and record.faithfulness is not None:
            self._app.push_screen(FaithfulnessPage(record.faithfulness))
        elif self._held():
            request = MeasureFaithfulness(id=self._app.next_id())
            self._app.ask(request, lambda s: circuit_reducer.started(s, "faithfulness", request.id))

    def heard(self, before: State, after: State) -> None:
        """Open the page of what was just measured, where the user still waits for it in the pane."""
        was = before.traced.faithfulness if before.traced else None
        record = after.traced
        if record is None or record.faithfulness is None or was is not None or before.task("faithfulness") is None:
            return
        screen = self._app.inspect
        if screen.at == "circuit" and self._app.screen is screen:
            self._app.push_screen(FaithfulnessPage(record.faithfulness))
        else:
            self._app.say("Faithfulness was measured.", "F in pane 5 shows it.")

    # --- the pane's keys ----------------------------------------------------------------------------------------

    def do(self, what: Wanted, step: int) -> None:
        """Do what a key of the pane stands for, at the cursor."""
        self._clear()
        state, change = self._state, self._app.change
        path = self._path()
        match what:
            case "enter" if state.traced is None:
                self.trace()
            case "enter" if state.circuit.grid:
                self._leave_grid()
            case "enter":
                change(lambda s: circuit_reducer.toggle_fold(s, path))
            case "sideways" if state.circuit.grid:
                change(lambda s: circuit_reducer.move_column(s, step))
                self.select()
            case "sideways":
                change(lambda s: (circuit_reducer.unfold if step > 0 else circuit_reducer.fold)(s, path))
                self.select()
            case "method":
                change(circuit_reducer.next_method)
            case "verify" | "verify_whole":
                self._verify(path, what == "verify_whole" or state.circuit.grid)
            case "pin":
                if (pinned := self._node(path)) is not None:
                    change(partial(circuit_reducer.toggle_pin, ref=pinned))
            case "aim":
                self._app.inspect.circuit.open_field("aim", state, None)
            case "rename" | "group":
                if (ref := self._node(path)) is not None:
                    self._app.inspect.circuit.open_field(what, state, ref)
            case "grid":
                if state.traced is not None:
                    change(circuit_reducer.toggle_grid)
            case "faithfulness":
                self._faithfulness()
            case "nodes":
                change(lambda s: circuit_reducer.move_nodes(s, step))
            case "edges":
                change(lambda s: circuit_reducer.move_edges(s, step))
            case "circuit":
                if self._state.traced is not None and not circuit_reducer.has_circuit(self._state, step):
                    which = "oldest" if step < 0 else "newest"
                    self._warn(f"This is the {which} circuit of the session.")
                change(lambda s: circuit_reducer.show_circuit(s, step))

    def typed(self, field: Field, text: str, ref: NodeRef | None) -> None:
        """A line was entered."""
        if field == "aim":
            self._app.change(lambda s: circuit_reducer.aim_at(s, text))
            self.trace()
        elif ref is not None:
            change = circuit_reducer.rename if field == "rename" else circuit_reducer.put_in_group
            self._app.change(lambda s: change(s, ref, text))

    def _path(self) -> Path:
        """The node under the cursor, in the grid the strongest of the cell."""
        if self._state.circuit.grid:
            cell = cell_at(self._state)
            return (cell.strongest,) if cell else ()
        row = circuit_reducer.at_cursor(self._state)
        return row.path if row else ()

    def _node(self, path: Path) -> NodeRef | None:
        ref = circuit_reducer.node_of(self._state, path)
        if ref is None:
            self._warn("This line is no node.", "Choose one under the metric.")
        return ref

    def _leave_grid(self) -> None:
        """Go to the tree, to the node the cursor was on."""
        cell = cell_at(self._state)
        if cell is not None:
            self._app.change(lambda s: circuit_reducer.reveal(s, cell.strongest))
        self._app.change(circuit_reducer.toggle_grid)

    # --- moving -------------------------------------------------------------------------------------------------

    def moved(self, row: int) -> None:
        """The cursor went to a line."""
        self._clear()
        if self._state.circuit.grid:
            self._app.change(lambda s: circuit_reducer.move_site(s, row))
        elif row < len(self._state.tree):
            path = self._state.tree[row].path
            self._app.change(lambda s: circuit_reducer.put_cursor(s, path))

    def select(self) -> None:
        """The feature under the cursor colours the tokens; an error node leaves them as they are."""
        if self._state.circuit.grid and grid_of(self._state) is None:
            return
        ref = circuit_reducer.node_of(self._state, self._path())
        if ref is not None and ref.index >= 0:
            self._app.change(lambda s: reducer.select_feature(s, FeatureRef(ref.source, ref.index)))
