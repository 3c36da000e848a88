"""What the user does in the steering pane, made into requests to the engine and changes of the state.

Moving a control sends at once what is newest, unless a run is under way that has shown nothing yet: then the newest
waits for its first step. So at most one run waits, and text comes all the while one drags.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from engine.protocol import (
    Adjust,
    BadRequest,
    FeatureRef,
    MeasureControl,
    MeasureImpact,
    MeasureSweep,
    Prepare,
    RankAblations,
    Request,
    parse_feature,
    parse_positions,
)
from sessions.model import EvidenceRecord
from sessions.store import now
from tui import reducer, steering_reducer, steering_rows
from tui.panes.steering_settings import parse_settings
from tui.state import Notice, State
from tui.steering_state import parse_strength, with_strength

if TYPE_CHECKING:
    from textual.screen import ModalScreen

    from tui.app import SaescopeApp
    from tui.panes.steering_fields import Field
    from tui.panes.steering_list import Wanted
    from tui.steering_reducer import Evidence, Measured

_CONTROLS = 2
"""Random directions beside every strength of a sweep."""
_KEYS: dict[Evidence, tuple[str, str]] = {
    "control": ("The random directions were measured.", "n"),
    "sweep": ("The strengths were measured.", "w"),
    "impact": ("What else changes was measured.", "I"),
    "ablations": ("The features were ranked by taking them out.", "A"),
}


class SteeringControl:
    """Stands between the steering pane and the app."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app

    @property
    def _state(self) -> State:
        return self._app.state

    def _warn(self, text: str, remedy: str = "", level: str = "warning") -> None:
        """Something cannot be done; said in the pane."""
        self._app.change(lambda s: reducer.notify(s, Notice(text, level, remedy, where="steering")))  # type: ignore[arg-type]

    def _clear(self) -> None:
        """The user goes on: a warning has been read; an error stays until Escape."""
        notice = self._state.notice
        if notice is not None and notice.where == "steering" and notice.level == "warning":
            self._app.change(lambda s: reducer.notify(s, None))

    # --- asking for text ----------------------------------------------------------------------------------------

    def _can_ask(self) -> bool:
        if self._state.replaying:
            self._warn("This is a recording: no engine is there to generate or measure.", "Start saescope to steer.")
        elif self._state.engine.phase != "ready":
            self._warn(*self._state.unready)
        elif self._state.result is None:
            self._warn("There is no prompt to continue.", "Run one in pane 1.")
        else:
            return True
        return False

    def take(self, features: tuple[FeatureRef, ...]) -> None:
        """Rows for features; the prompt is read ahead, so that the first text comes sooner."""
        self._clear()
        self._app.change(lambda s: steering_rows.add_all(s, features))
        state = self._state
        if state.engine.phase == "ready" and state.result is not None and not state.replaying:
            request = Prepare(id=self._app.next_id(), prompt=state.result.prompt, chat=state.result.chat)
            self._app.send(request)

    def generate(self) -> None:
        """Continue the prompt on screen, plain and steered, whatever runs."""
        if not self._state.steering.rows:
            self._warn("There is nothing to steer.", "Select a feature and press s, or type one with a.")
        elif self._can_ask():
            self._steer()

    def _steer(self) -> None:
        request = steering_reducer.steer_of(self._state, self._app.next_id())
        if request is not None:
            self._app.ask(request, lambda s: steering_reducer.started(s, "steer", request.id))

    def _adjust(self) -> None:
        task = self._state.task("steer")
        if task is not None:
            request = Adjust(id=self._app.next_id(), target=task.id, interventions=self._state.steering.acting)
            self._app.change(lambda s: steering_reducer.adjusting(s, request.id))
            self._app.send(request)

    def edit(self, change: Callable[[State], State], *, settings: bool = False) -> None:
        """Change rows, or settings that only a new run can follow, and let text follow."""
        if self._state.replaying:
            self._can_ask()
            return
        before = self._state.steering
        self._app.change(change)
        after = self._state.steering
        if (after.acting, after.sampling) != (before.acting, before.sampling) and self._can_ask():
            self._follow(settings=settings)

    def _follow(self, *, settings: bool) -> None:
        """Send the newest values, or let them wait."""
        state = self._state
        running = state.task("steer") is not None
        inside = state.steering.live and running and not settings
        if inside and (state.steering.adjusting or not steering_reducer.begun(state)):
            self._app.change(lambda s: steering_reducer.wait(s, "adjust"))
        elif inside:
            self._adjust()
        elif running and not steering_reducer.begun(state):
            self._app.change(lambda s: steering_reducer.wait(s, "steer"))
        else:
            self._steer()

    def heard(self, before: State, after: State) -> None:
        """The engine spoke: what waits may go out now, and a page of what was measured may open."""
        if before.steering.coming is not None and after.steering.coming is None:
            self._app.cancel(t for t in before.tasks if t.kind == "steer")  # another prompt came
        if after.evidence is not before.evidence and after.evidence:
            self._measured(after.evidence[-1])
        steering, running = after.steering, after.task("steer") is not None
        if not steering.waits or after.engine.phase != "ready":
            return
        if not running or (steering.waits == "steer" and steering_reducer.begun(after)):
            self._steer()
        elif steering.waits == "adjust" and steering_reducer.begun(after) and not steering.adjusting:
            self._adjust()

    def leave(self, prompt: str, chat: bool) -> None:
        """Another prompt is to be run: it does not wait for a text that goes when it is there."""
        coming, task = self._state.steering.coming, self._state.task("steer")
        if task is not None and coming is not None and (coming.prompt, coming.chat) != (prompt, chat):
            self.keep()
            self._app.cancel((task,))
            self._app.change(steering_reducer.left)

    def keep(self) -> None:
        """The user stops what runs: the text so far stays."""
        self._app.change(lambda s: steering_reducer.kept(s, now(), self._app.busy_seconds))

    # --- evidence -----------------------------------------------------------------------------------------------

    def measure(self, kind: Evidence) -> None:
        """Show what was measured and still fits, or measure it."""
        state = self._state
        if kind != "ablations" and not self._can_measure(kind):
            return
        varied = sum(row.on for row in state.steering.rows[: state.steering.cursor])
        known = steering_reducer.found(state, kind, varied)
        if known is not None:
            self._app.push_screen(_page(known))
            return
        if not self._can_ask():
            return
        request = self._request(kind, varied)
        if request is not None:
            self._app.ask(request, lambda s: steering_reducer.started(s, kind, request.id))

    def _can_measure(self, kind: Evidence) -> bool:
        row = self._state.steering.row
        if not self._state.steering.acting:
            self._warn("No intervention is on.", "x turns the row under the cursor on.")
        elif kind == "sweep" and row is not None and not row.on:
            self._warn("This intervention is off.", "x turns it on; the sweep varies the strength under the cursor.")
        elif kind == "sweep" and row is not None and not row.intervention.has_strength:
            self._warn("An ablation has no strength to vary.", "m chooses another kind, j and k another row.")
        else:
            return True
        return False

    def _request(self, kind: Evidence, varied: int) -> Request | None:
        number = self._app.next_id()
        steer = steering_reducer.steer_of(self._state, number)
        if steer is None:
            return None
        prompt, chat = steer.prompt, steer.chat
        match kind:
            case "control":
                return MeasureControl(id=number, steer=steer)
            case "sweep":
                return MeasureSweep(id=number, steer=steer, varied=varied, controls=_CONTROLS)
            case "impact":
                return MeasureImpact(
                    id=number,
                    prompt=prompt,
                    chat=chat,
                    interventions=steer.interventions,
                    keep_error=steer.keep_error,
                )
        return RankAblations(id=number, prompt=prompt, chat=chat)

    def _measured(self, record: EvidenceRecord) -> None:
        """Open the page where the user still waits for it in the pane."""
        kind = next(k for k in _KEYS if getattr(record, k) is not None)
        screen = self._app.inspect
        waits = screen.at == "steering" and self._app.screen is screen and self._state.engine.phase == "ready"
        if waits:
            self._app.push_screen(_page(getattr(record, kind)))
        else:
            text, key = _KEYS[kind]
            self._app.say(text, f"{key} in pane 6 shows it.")

    # --- presets ------------------------------------------------------------------------------------------------

    def _presets(self) -> None:
        if not self._state.presets:
            self._warn("No preset was saved in this session.", "W saves the rows that are on under a name.")
            return
        from tui.screens.presets import PresetPage

        self._app.push_screen(PresetPage(self._state.presets), self._chosen)

    def _chosen(self, name: str | None) -> None:
        """A preset was chosen: its interventions take the place of the rows."""
        preset = next((p for p in self._state.presets if p.name == name), None)
        if preset is not None:
            self.edit(lambda s: steering_rows.put_rows(s, preset.interventions))

    # --- the pane's keys ----------------------------------------------------------------------------------------

    def do(self, what: Wanted, step: int) -> None:
        """Do what a key of the pane stands for, at the cursor."""
        self._clear()
        state, rows = self._state, steering_rows
        if what in _OF_A_ROW and state.steering.row is None:
            self._warn("There is nothing to steer.", "Select a feature and press s, or type one with a.")
            return
        match what:
            case "coarse" | "fine":
                self._need_strength(lambda: self.edit(lambda s: rows.step(s, step, fine=what == "fine")))
            case "mark":
                self._need_strength(lambda: self.edit(rows.to_mark))
            case "toggle":
                self.edit(lambda s: rows.toggle(s, s.steering.cursor))
            case "delete" if len(state.steering.rows) == 1 and not state.replaying:
                self._app.cancel(t for t in state.tasks if t.kind == "steer")
                self._app.change(lambda s: steering_reducer.emptied(rows.delete(s)))
            case "delete":
                self.edit(rows.delete)
            case "kind":
                self.edit(rows.next_kind)
            case "next_positions":
                self.edit(rows.next_positions)
            case "error":
                self.edit(rows.toggle_error, settings=True)
            case "seed" if state.steering.sampling.temperature == 0:
                self._warn("At T 0 the likeliest token is taken: a seed changes nothing.", "o and T 0.7 sets T.")
            case "seed":
                self.edit(rows.next_seed, settings=True)
            case "generate":
                self.generate()
            case "live":
                self._app.change(rows.toggle_live)
            case "colour":
                self._app.change(rows.toggle_colour)
            case "token":
                self._app.change(lambda s: rows.move_token(s, step))
            case "number":
                self._need_strength(lambda: self._app.inspect.steering.open_field("number", state))
            case "feature" if state.replaying:
                self._can_ask()
            case "feature" | "positions" | "settings":
                self._app.inspect.steering.open_field(what, state)
            case "save" if not state.steering.acting:
                self._warn("No intervention is on.", "x turns the row under the cursor on.")
            case "save":
                self._app.inspect.steering.open_field("preset", state)
            case "presets":
                self._presets()
            case "control" | "sweep" | "impact" | "ablations":
                self.measure(what)

    def _add(self, features: tuple[FeatureRef, ...]) -> None:
        """Features the user named; their cards are read, so that strengths have a scale."""
        known = self._state.dictionaries
        for ref in features:
            if (info := known.get(ref.source)) is None:
                raise BadRequest(f"No dictionary called {ref.source} is open.", f"Open are {', '.join(known)}.")
            if ref.index >= info.d_sae:
                raise BadRequest(
                    f"{ref.source} has no feature {ref.index}.", f"Its features are 0 to {info.d_sae - 1}."
                )
        if not features:
            raise BadRequest("No feature was named.", "Write SOURCE:INDEX; Escape leaves.")
        self.take(features)
        self._app.change(lambda s: reducer.select_feature(s, features[-1]))

    def _need_strength(self, then: Callable[[], None]) -> None:
        row = self._state.steering.row
        if row is not None and not row.intervention.has_strength:
            self._warn("An ablation has no strength.", "m chooses another kind.")
        else:
            then()

    def slid(self, place: int, share: float) -> None:
        """A slider was dragged; the row may be gone meanwhile."""
        self._clear()
        if place < len(self._state.steering.rows):
            self.edit(lambda s: steering_rows.slide(steering_rows.move_to(s, place), place, share))

    def boxed(self, place: int) -> None:
        """A row's box was clicked."""
        self._clear()
        if place < len(self._state.steering.rows):
            self.edit(lambda s: steering_rows.toggle(steering_rows.move_to(s, place), place))

    def moved(self, place: int) -> None:
        """The cursor went to a row."""
        self._clear()
        self._app.change(lambda s: steering_rows.move_to(s, place))

    def pointed(self, token: int) -> None:
        """A generated token was clicked."""
        self._app.change(lambda s: steering_rows.put_token(s, token))

    def typed(self, field: Field, text: str) -> None:
        """A line was entered; what is wrong with it is said, and it stays to be mended."""
        try:
            self._typed(field, text)
        except BadRequest as error:
            self._warn(error.message, error.remedy)
        else:
            self._app.inspect.steering.close_field()

    def _typed(self, field: Field, text: str) -> None:
        row, place = self._state.steering.row, self._state.steering.cursor
        self._clear()
        if field == "feature":
            self._add(tuple(map(parse_feature, text.split())))
        elif field == "settings":
            was = self._state.steering.sampling
            sampling, patch = parse_settings(text, was)
            change = partial(steering_rows.put_sampling, sampling=sampling)
            if patch is not None:
                change = partial(steering_rows.put_settings, sampling=sampling, patch=patch)
            self.edit(change, settings=sampling != was)
        elif field == "preset":
            if not text.strip():
                raise BadRequest("A preset needs a name.", "Type one; Escape leaves.")
            self._app.change(lambda s: steering_rows.keep_preset(s, text.strip()))
            self._app.say(f"Saved as “{text.strip()}”.", "O opens it.")
        elif row is not None and field == "positions":
            positions = parse_positions(text)
            self.edit(lambda s: steering_rows.put_positions(s, positions))
        elif row is not None:
            one = row.intervention
            strength = parse_strength(text, one, self._state.scale_of(one.feature))
            if strength is None:
                raise BadRequest(
                    f"{text[:30]!r} is not a strength.", "Write 60, -2.5x (times its maximum) or 0; below a million."
                )
            self.edit(lambda s: steering_rows.put_strength(s, place, with_strength(one, strength).strength))


_OF_A_ROW = frozenset(
    {"coarse", "fine", "mark", "toggle", "delete", "kind", "next_positions", "number", "positions", "generate"}
)


def _page(result: Measured) -> ModalScreen[None]:
    """The page of what was measured; its module is imported when the first one opens."""
    from engine.protocol import ControlResult, ImpactResult, SweepResult
    from tui.screens import evidence

    if isinstance(result, ControlResult):
        return evidence.ControlPage(result)
    if isinstance(result, SweepResult):
        return evidence.SweepPage(result)
    return evidence.ImpactPage(result) if isinstance(result, ImpactResult) else evidence.AblationPage(result)
