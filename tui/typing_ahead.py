"""What is typed while nothing listens waits for what gets the focus, so that keys over a slow line are not lost."""

from __future__ import annotations

from textual import events
from textual.app import App, ScreenStackError
from textual.timer import Timer
from textual.widgets import Input, TextArea

from tui.actions import moves_focus
from tui.screens.inspect import InspectScreen

_MOVED_WITHIN = 0.2
"""Seconds after which a key that was to move the focus has not done so."""


class TypingAhead(App[None]):
    """A part of the app."""

    inspect: InspectScreen
    _moving = False
    """A key was pressed that moves the focus, and it has not moved yet."""
    _patience: Timer | None = None
    """Ends the waiting for that."""
    _held: list[events.Event]
    """Keys that came while nothing had the focus."""

    async def on_event(self, event: events.Event) -> None:
        """As Textual does, but what is typed while nothing has the focus waits for what gets it.

        At the start, and when a change of size moves the focus, text would be taken for commands otherwise. So would
        what follows a key that opens a field or a page, or goes to a pane, where both arrive in one piece.
        """
        typed = isinstance(event, events.Key | events.Paste) and not event.is_forwarded
        if typed and self._nothing_listens:
            self._held.append(event)
            return
        if typed and isinstance(event, events.Key) and self._focus_will_move(event):
            self._stop_waiting()
            self._moving, self._patience = True, self.set_timer(_MOVED_WITHIN, self.take_keys)
        await super().on_event(event)

    def _focus_will_move(self, event: events.Key) -> bool:
        """Whether a key outside a text field opens one, here or on a page, or goes to another pane."""
        if self.screen is not self.inspect or isinstance(self.focused, TextArea | Input):
            return False
        return any(moves_focus(key, self.inspect.at) for key in (event.key, event.character) if key)

    @property
    def _nothing_listens(self) -> bool:
        try:
            return self._moving or bool(self._held) or (self.screen is self.inspect and self.focused is None)
        except ScreenStackError:  # before the first screen
            return True

    def take_keys(self) -> None:
        """Something has the focus: what was typed so far goes there, in order."""
        self._stop_waiting()
        if self._held:
            self.call_next(self._hand_out)

    def _stop_waiting(self) -> None:
        self._moving = False
        if self._patience is not None:
            self._patience.stop()
            self._patience = None

    async def _hand_out(self) -> None:
        """Not by posting them: keys that the app has and has not looked at yet would come first.

        Where one moves the focus, those after it are held again.
        """
        held, self._held = self._held, []
        for event in held:
            await self.on_event(event)

    def send_held(self) -> None:
        """Nothing took the focus although keys wait for it: the pane that had it last does.

        Not while something is about to: a field would lose it again before it had its Enter.
        """
        if self._held and not self._moving:
            self.inspect.panes[self.inspect.at].home.focus()
