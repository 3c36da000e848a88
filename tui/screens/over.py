"""Actions that lay a page over the screen, or send something out of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen

from engine.protocol import FeatureRef, SaescopeError, SessionError
from sessions.export import export_quicklist
from sessions.quicklist import feature_url
from sessions.store import new_session
from tui import reducer
from tui.actions import Group
from tui.recorder import to_session
from tui.screens.asking import AskPage
from tui.screens.labels import LabelsPage
from tui.screens.numbers import NumbersPage
from tui.screens.page import HelpPage, LogPage, TextPage
from tui.text import counted

if TYPE_CHECKING:
    from tui.app import SaescopeApp

OWN = "you"
"""Whose label one's own is."""


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

    def go_to(self, group: Group) -> None:
        """Show a pane and give it the focus."""
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

    def action_numbers(self) -> None:
        self.app.push_screen(NumbersPage(self.saescope.state))

    # --- labels -------------------------------------------------------------------------------------------------

    def action_labels(self) -> None:
        if self.saescope.labels.ready:
            self.app.push_screen(LabelsPage(self.saescope.labels.seek), self._take_feature)

    def action_labels_like(self) -> None:
        feature = self._selected()
        if feature is not None and self.saescope.labels.ready:
            self.app.push_screen(LabelsPage(self.saescope.labels.seek, feature), self._take_feature)

    def action_label(self) -> None:
        feature = self._selected()
        if feature is None or not self.saescope.labels.ready:
            return
        card = self.saescope.state.cards.get(feature)
        own = next((label.text for label in card.labels if label.by == OWN), "") if card else ""
        self.app.push_screen(
            AskPage(
                f"Your label of {feature}",
                "It is kept on this machine, for every session, beside the labels of others; an empty line takes it "
                "away. `saescope labels export` prints all of yours.",
                lambda text: self.saescope.labels.put(feature, text),
                present=own,
                placeholder="what the feature is",
            )
        )

    def _take_feature(self, feature: FeatureRef | None) -> None:
        """A feature was chosen on a page: select it, whether it fires on the prompt or not."""
        if feature is not None:
            self.saescope.change(lambda s: reducer.select_feature(s, feature))
            self.go_to("card")

    def _selected(self) -> FeatureRef | None:
        self.rest()
        feature = self.saescope.state.feature
        if feature is None:
            self.saescope.say("No feature is selected.", "Choose one in the list.", "warning")
        return feature

    # --- addresses ----------------------------------------------------------------------------------------------

    def action_import_marks(self) -> None:
        self.app.push_screen(
            AskPage(
                "Mark the features of a quicklist",
                "Paste the address of a Neuronpedia quicklist, or of one feature's page. Features of the open "
                "dictionaries are marked; for the others it says which dictionaries they need.",
                self._import,
                placeholder="https://neuronpedia.org/quick-list/?name=…",
            )
        )

    def _import(self, address: str) -> None:
        from sessions.marks import import_address

        imported = import_address(address, self.saescope.state.engine.dictionaries)
        if not imported.marks:
            raise SessionError("No feature of this address is in an open dictionary.", " ".join(imported.notes))
        self.saescope.change(lambda s: reducer.mark_all(s, imported.marks))
        marked = counted(len(imported.marks), "feature is", "features are")
        self.saescope.say(f"{marked} marked. {' '.join(imported.notes)}".strip(), "S steers them, x lists them.")

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
