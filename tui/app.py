"""The app: it owns the state, hands it to the screen, and talks to the engine. Nothing else does either."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import ClassVar

import msgspec
from textual import on
from textual.timer import Timer

from engine.client import Connect, EngineClient, EngineLost
from engine.protocol import (
    AnyEvent,
    Cancel,
    Count,
    Done,
    Failed,
    Hello,
    Open,
    Request,
    Run,
    SessionError,
    Stopped,
)
from sessions.history import History
from sessions.model import Session
from sessions.store import now, unfinished
from themes.builtin import FALLBACK_VARIABLES, THEMES
from themes.palettes import DEFAULT
from tui import reducer, steering_reducer, study_reducer
from tui.circuit_control import CircuitControl
from tui.clipboard import Clipboard
from tui.commands import ActionProvider
from tui.label_control import LabelControl
from tui.messages import EngineSpoke, PromptSubmitted
from tui.recorder import Recorder
from tui.restore import from_session
from tui.screens.following import Following
from tui.screens.inspect import InspectScreen
from tui.state import Notice, State, Task
from tui.steering_control import SteeringControl
from tui.study_control import StudyControl
from tui.styles import STYLE_SHEETS
from tui.try_control import TryControl
from tui.typing_ahead import TypingAhead
from tui.wants import Wants

_SAVE_AFTER = 1.5
_COUNT_AFTER = 0.12
_SLOW_AFTER = 0.33
_MAX_DEATHS = 3
_LEAVE_WITHIN = 2.0
_ASKED_FOR = 8.0
"""Seconds for which Escape answers the question whether a study is to be ended."""
_PER_SITE = 20
"""Features of every site in the list, so that showing one site alone shows something."""


class SaescopeApp(TypingAhead, Clipboard):
    """The inspector, live or replaying a session."""

    CSS_PATH = STYLE_SHEETS
    COMMANDS: ClassVar = {ActionProvider}
    TITLE = "saescope"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"

    def __init__(
        self,
        opening: Open,
        connect: Connect | None,
        recorder: Recorder | None,
        *,
        session: Session | None = None,
        theme: str | None = None,
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        for available in THEMES.values():
            self.register_theme(available)
        self.theme = theme or DEFAULT
        self.state = State(opening=opening, replaying=connect is None)
        if connect is None:
            self.state = reducer.without_engine(self.state)
        if session is not None:
            self.state = from_session(self.state, session)
        self._recorder = recorder
        if recorder is not None and session is not None:
            recorder.mark_written(self.state)
        self._client = EngineClient(connect, self._deliver) if connect else None
        self._wants = Wants(self.next_id)
        self._history = History()
        self._recalled = 0
        self._saving: Timer | None = None
        self._counting: Timer | None = None
        self._busy_since = time.monotonic()
        self.inspect = InspectScreen()
        self.circuits = CircuitControl(self)
        self.steers = SteeringControl(self)
        self.labels = LabelControl(self)
        self.studies = StudyControl(self)
        self.tries = TryControl(self)
        self._held = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return FALLBACK_VARIABLES

    def get_default_screen(self) -> InspectScreen:
        return self.inspect

    # --- life ---------------------------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGHUP, signal.SIGTERM):
            loop.add_signal_handler(name, self._leave_on_signal)
        self.set_interval(1.0, self._tick)
        self.theme_changed_signal.subscribe(self, lambda _: self.inspect.show(self.state, None))
        if self._client is not None:
            self.call_after_refresh(self._start_engine)
            if left := await asyncio.to_thread(unfinished):
                self.say(
                    f"A session of {left[0][1].updated[11:16]} UTC was not closed: “{left[0][1].title}”.",
                    "Escape, then U opens it.",
                )

    async def _start_engine(self) -> None:
        assert self._client is not None
        self._busy_since = time.monotonic()
        self._wants.forget()
        try:
            await self._client.start()
        except OSError as error:
            self.receive(EngineLost(str(error)))
            return
        self._client.send(msgspec.structs.replace(self.state.opening, id=self.next_id()))

    def _leave_on_signal(self) -> None:
        """The line was cut or we were told to go: keep the session, leave the rest.

        Where the terminal is gone Textual may wait for it for ever, so the process ends in any case.
        """
        last = threading.Timer(_LEAVE_WITHIN, os._exit, [0])
        last.daemon = True
        last.start()
        self.save(cut=True)
        if self._client is not None:
            self._client.cut()
        self.exit(return_code=0)

    async def action_quit(self) -> None:
        self.save(closing=True)
        if self._client is not None:
            self._client.cut()
        self.exit()

    def next_id(self) -> int:
        """A number for a request."""
        return self._client.next_id() if self._client is not None else 0

    # --- the state ----------------------------------------------------------------------------------------------

    def change(self, step: Callable[[State], State]) -> None:
        """The one way the state changes."""
        old, self.state = self.state, step(self.state)
        if self.state is old:
            return
        if self.is_running and self.inspect.is_mounted:  # a timer may still fire while the screen is taken down
            self.inspect.show(self.state, old)
            for page in self.screen_stack:
                if isinstance(page, Following):
                    page.follow(self.state, old)
        for request in self._wants.missing(self.state):
            self.send(request)
        if self._recorder is not None and self._saving is None and self._recorder.is_dirty(self.state):
            self._saving = self.set_timer(_SAVE_AFTER, self._save_later)

    def say(self, text: str, remedy: str = "", level: str = "info", detail: str = "") -> None:
        """One sentence on the status line."""
        self.change(lambda s: reducer.notify(s, Notice(text, level, remedy, detail)))  # type: ignore[arg-type]

    def _deliver(self, event: AnyEvent | EngineLost) -> None:
        self.post_message(EngineSpoke(event))

    @on(EngineSpoke)
    def _heard(self, message: EngineSpoke) -> None:
        self.receive(message.event)

    def receive(self, event: AnyEvent | EngineLost) -> None:
        """Take what the engine said."""
        if isinstance(event, Done | Stopped | Failed):
            self._wants.answered(event.id)
        if isinstance(event, Hello):
            self._busy_since = time.monotonic()
        before, ready = self.state, self.state.engine.phase == "ready"
        self.change(lambda s: reducer.reduce_event(s, event, now()))
        self.circuits.heard(before, self.state)
        self.steers.heard(before, self.state)
        self.studies.heard(before, self.state)
        if isinstance(event, EngineLost):
            self._restart(ready)
        elif not ready and self.state.engine.phase == "ready":
            self._count_now()
            if self.state.queued:
                self.run_prompt(self.state.queued)

    def _restart(self, was_ready: bool) -> None:
        """Start a dead engine again, unless it dies every time."""
        if self.state.engine.deaths >= _MAX_DEATHS or not (was_ready or self.state.engine.deaths == 1):
            self.change(lambda s: reducer.left_alone(s, now()))
            return
        self.call_later(self._start_engine)

    def ask(self, request: Request, started: Callable[[State], State]) -> None:
        """Send what the user waits for; what is on screen is dimmed where the answer takes its time."""
        self._busy_since = time.monotonic()
        self.change(started)
        self.send(request)
        self.set_timer(_SLOW_AFTER, lambda: self.change(lambda s: reducer.request_is_slow(s, request.id)))

    def send(self, request: Request) -> bool:
        """Send what nobody waits for; False where there is no engine to send it to."""
        return self._client is not None and self._client.send(request)

    # --- time ---------------------------------------------------------------------------------------------------

    @property
    def busy_seconds(self) -> float:
        """How long the work under way has taken, as the status line names it."""
        if self.state.tasks and self.state.tasks[-1].kind == "study":
            return self.studies.seconds
        return time.monotonic() - self._busy_since

    def _tick(self) -> None:
        """Once a second while something runs the status line counts; idle, nothing is sent."""
        self.send_held()
        if self.state.tasks or self.state.engine.phase in {"starting", "opening"}:
            self.inspect.show_status(self.state)

    # --- prompts ------------------------------------------------------------------------------------------------

    @on(PromptSubmitted)
    def _submitted(self, message: PromptSubmitted) -> None:
        self._history.add(message.text)
        self._recalled = 0
        self.run_prompt(message.text)

    def run_prompt(self, text: str) -> None:
        """Run a prompt now, or as soon as the engine is ready."""
        if self.state.replaying:
            self.say("This is a recording: no model is open.", "Start saescope to run prompts.", "warning")
            return
        if self.state.trouble is not None:
            self.change(lambda s: reducer.notify(s, s.trouble))
            return
        if self.state.engine.phase != "ready":
            self.change(lambda s: reducer.queue_prompt(s, text))
            return
        chat, rank = self.state.chat, self.state.rank
        self.steers.leave(text, chat)
        request = Run(id=self.next_id(), prompt=text, chat=chat, rank=rank, per_site=_PER_SITE)
        self.ask(request, lambda s: reducer.run_started(s, request.id))

    def rank_anew(self) -> None:
        """Change how features are ranked, and rank the prompt on screen again."""
        self.change(reducer.next_rank)
        if self.state.result is not None and not self.state.replaying:
            self.run_prompt(self.state.result.prompt)

    def stop_tasks(self) -> None:
        """Stop what runs; a study, which may have taken long, only once the user has said so twice."""
        if all(task.kind == "study" for task in self.state.tasks):
            self._end_study()
            return
        self.cancel(study_reducer.to_stop(self.state))
        self.steers.keep()
        self.change(lambda s: reducer.stopped(s, now()))
        self.say("Stopped.")

    def _end_study(self) -> None:
        if self.state.ending:
            self.say(self.studies.stop())
        elif self.state.tasks:
            self.change(study_reducer.asked_to_end)
            self.set_timer(_ASKED_FOR, lambda: self.change(study_reducer.withdrawn))

    def drop_queued(self) -> None:
        """Let go of the prompt that waits for the engine, once the user has said so twice."""
        self.change(lambda s: reducer.drop_queued(s, now()) if s.dropping else reducer.ask_to_drop(s))

    def draft(self, text: str) -> None:
        """The prompt field changed: count its tokens once typing pauses."""
        if text == self.state.draft:
            return
        self.change(lambda s: reducer.set_draft(s, text))
        self._count_soon()

    def _count_soon(self) -> None:
        if self._counting is not None:
            self._counting.stop()
        self._counting = self.set_timer(_COUNT_AFTER, self._count_now)

    def _count_now(self) -> None:
        if self.state.engine.phase == "ready" and not self.state.replaying:
            self.send(Count(id=self.next_id(), prompt=self.state.draft, chat=self.state.chat))

    def recall(self, step: int) -> None:
        """An older or newer prompt of the history into the field."""
        text, place = self._history.recall(self._recalled, step, self.state.draft)
        if place != self._recalled:
            self._recalled = place
            self.change(lambda s: reducer.put_draft(s, text))
            self._count_soon()

    def toggle_chat(self) -> None:
        self.change(reducer.toggle_chat)
        self.say(f"The chat template is {'on' if self.state.chat else 'off'} for the next prompt that is run.")
        self._count_now()

    def cancel(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self.send(Cancel(id=self.next_id(), target=task.id))

    # --- the session file ---------------------------------------------------------------------------------------

    def _save_later(self) -> None:
        self._saving = None
        self.save()

    def save(self, *, closing: bool = False, cut: bool = False) -> SessionError | None:
        """Write the session file; a failure is said, where anything can still be said, and costs nothing else.

        `closing`: it is left in good order. `cut`: it is not, and the next start offers it.
        """
        if self._recorder is None or not (closing or cut or self._recorder.is_dirty(self.state)):
            return None
        if closing or cut:
            at = now()
            self.state = study_reducer.kept(steering_reducer.kept(self.state, at, self.busy_seconds), at)
        try:
            at = self._recorder.write(self.state, closing=closing)
        except SessionError as error:
            if not (closing or cut):
                self.say(error.message, error.remedy, "error")
            return error
        if at and not (closing or cut):
            self.change(lambda s: reducer.saved(s, at))
        return None

    def resume(self) -> None:
        """Open the newest session that was not closed in good order, and go on in its file."""
        left = unfinished()
        if not left or self.state.replaying:
            self.say("No unfinished session.", "`saescope replay FILE` looks at any other.")
            return
        path, session = left[0]
        self.cancel(self.state.tasks)  # their answers are of the session that is left
        if (error := self.save(closing=True)) is not None:
            self.say(error.message, error.remedy, "error")
            return
        self._recorder = Recorder(path, session)
        self.change(lambda s: from_session(s, session))
        self._count_soon()
        self.say(f"Resumed the session of {session.updated[11:16]} UTC.")
