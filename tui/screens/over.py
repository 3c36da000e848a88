"""Actions that lay a page over the screen, or send something out of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen

from engine.protocol import SaescopeError
from sessions.export import export_quicklist
from sessions.quicklist import feature_url
from sessions.store import new_session
from tui.actions import Group
from tui.recorder import to_session
from tui.screens.page import HelpPage, LogPage, TextPage

if TYPE_CHECKING:
    from tui.app import SaescopeApp


class PageActions(Screen[None]):
    """A part of the one screen."""

    @property
    def saescope(self) -> SaescopeApp:
        raise NotImplementedError

    @property
    def at(self) -> Group:
        raise NotImplementedError

    def rest(self) -> None:
        """Select what is under a cursor now."""
        raise NotImplementedError

    def action_help(self) -> None:
        self.app.push_screen(HelpPage(self.at))

    def action_log(self) -> None:
        self.app.push_screen(LogPage(self.saescope.state))

    def action_explain(self) -> None:
        notice = self.saescope.state.notice
        if notice is None:
            self.saescope.say("There is nothing to explain.")
            return
        text = "\n\n".join(filter(None, (notice.text, notice.remedy, notice.detail)))
        self.app.push_screen(TextPage("What happened", text, text))

    def action_copy_link(self) -> None:
        self.rest()
        state = self.saescope.state
        if state.feature is None:
            self.saescope.say("No feature is selected.", "Choose one in the list.", "warning")
            return
        info = state.dictionaries.get(state.feature.source)
        text = feature_url(info.neuronpedia, state.feature.index) if info and info.neuronpedia else str(state.feature)
        self.saescope.say(f"{self.saescope.send_to_clipboard(text)} {text}")

    def action_export(self) -> None:
        state = self.saescope.state
        try:
            exported = export_quicklist(to_session(state, new_session(state.opening)))
        except SaescopeError as error:
            self.saescope.say(error.message, error.remedy, "warning")
            return
        urls = "\n".join(exported.urls)
        self.app.push_screen(TextPage("Neuronpedia quicklist", "\n\n".join([*exported.notes, *exported.urls]), urls))
