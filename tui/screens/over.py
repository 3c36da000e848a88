"""Actions that lay a page over the screen, or send something out of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen

from engine.protocol import FeatureRef, SaescopeError, SessionError
from sessions.quicklist import feature_url
from sessions.store import new_session
from tui import reducer
from tui.actions import Group
from tui.recorder import to_session
from tui.screens.page import HelpPage, LogPage, TextPage
from tui.text import counted

if TYPE_CHECKING:
    from tui.app import SaescopeApp


class PageActions(Screen[None]):
    """A part of the one screen. Pages are imported when the first of their kind opens: the first frame has none."""

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
        from tui.screens.numbers import NumbersPage

        self.app.push_screen(NumbersPage(self.saescope.state))

    def action_studies(self) -> None:
        from tui.screens.studies import StudiesPage

        self.rest()
        self.app.push_screen(StudiesPage(self.saescope.studies))

    def action_try_it(self) -> None:
        from tui.screens.try_it import TryPage

        feature = self._selected()
        if feature is not None and self.saescope.labels.may("texts are tried"):
            self.app.push_screen(TryPage(feature, self.saescope.tries), self._take_feature)

    # --- labels -------------------------------------------------------------------------------------------------

    def action_labels(self) -> None:
        from tui.screens.labels import LabelsPage

        if self.saescope.labels.may("labels are looked for"):
            self.app.push_screen(LabelsPage(self.saescope.labels.seek), self._take_feature)

    def action_labels_like(self) -> None:
        from tui.screens.labels import LabelsPage

        labels, feature = self.saescope.labels, self._selected()
        if feature is None or not labels.may("labels are looked for"):
            return
        if labels.is_unlabelled(feature):
            self.saescope.say(f"{feature} has no label.", "N gives it one; B finds others by their words.", "warning")
        else:
            self.app.push_screen(LabelsPage(labels.seek, feature), self._take_feature)

    def action_label(self) -> None:
        from tui.screens.naming import NamingPage

        feature = self._selected()
        if feature is not None and self.saescope.labels.may("labels are given"):
            self.app.push_screen(NamingPage(feature, self.saescope.labels))

    def _take_feature(self, feature: FeatureRef | None) -> None:
        """A feature was chosen on a page: select it, whether it fires on the prompt or not."""
        if feature is not None:
            self.saescope.change(lambda s: reducer.select_feature(s, feature))
            self.go_to("card")

    def _selected(self) -> FeatureRef | None:
        """The selected feature, with what is under a cursor selected first; says so where there is none."""
        self.rest()
        feature = self.saescope.state.feature
        if feature is None:
            self.saescope.say("No feature is selected.", "Choose one in the list.", "warning")
        return feature

    # --- addresses ----------------------------------------------------------------------------------------------

    def action_import_marks(self) -> None:
        from tui.screens.asking import AskPage

        self.app.push_screen(
            AskPage(
                "Mark the features of a quicklist",
                "Paste the address of a Neuronpedia quicklist, or of one feature's page, or several, one a line. "
                "Features of the open dictionaries are marked; for the others it says which dictionaries they need.",
                self._import,
                placeholder="https://neuronpedia.org/quick-list/?name=…",
            )
        )

    def _import(self, address: str) -> None:
        from sessions.marks import import_address

        imported = import_address(address, self.saescope.state.engine.dictionaries)
        if not imported.marks:
            raise SessionError("None of these features is in an open dictionary.", "\n".join(imported.notes))
        before = len(self.saescope.state.marks)
        self.saescope.change(lambda s: reducer.mark_all(s, imported.marks))
        now = len(self.saescope.state.marks)
        marked = counted(now - before, "feature was", "features were")
        known = len(imported.marks) - (now - before)
        already = f" {known} of the list {'was' if known == 1 else 'were'} before." if known else ""
        text = f"{marked} marked, {now} {'is' if now == 1 else 'are'} marked now.{already}"
        self.saescope.say(" ".join((text, *imported.notes)), "S steers them, x lists them.")

    def action_copy_link(self) -> None:
        feature = self._selected()
        if feature is None:
            return
        info = self.saescope.state.dictionaries.get(feature.source)
        text = feature_url(info.neuronpedia, feature.index) if info and info.neuronpedia else str(feature)
        self.saescope.say(f"{self.saescope.send_to_clipboard(text)} {text}")

    def action_export(self) -> None:
        from sessions.export import export_quicklist
        from tui.screens.marked import MarkedPage

        state = self.saescope.state
        if not state.marks:
            self.saescope.say("No feature is marked in this session.", "Mark features with the space bar.", "warning")
            return
        try:
            exported = export_quicklist(to_session(state, new_session(state.opening)))
        except SaescopeError as error:
            self.app.push_screen(MarkedPage(state, (), (f"{error.message} {error.remedy}",)))
        else:
            self.app.push_screen(MarkedPage(state, exported.urls, exported.notes))
