"""What the user does with studies: forms filled, requests sent, results looked at, marked from and deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.protocol import STUDIES, FeatureRef, MeasureStudy, SaescopeError
from sessions.model import StudyRecord
from sessions.quicklist import feature_url
from sessions.store import now
from tui import reducer, study_reducer
from tui.state import State
from tui.study_fields import fields_of, settings_of, texts_of
from tui.study_sections import SectionKey
from tui.study_words import ended_words

if TYPE_CHECKING:
    from tui.app import SaescopeApp


class StudyControl:
    """Stands between the pages of studies and the app."""

    def __init__(self, app: SaescopeApp) -> None:
        self._app = app
        self._since = 0.0
        self._before: tuple[StudyRecord, ...] = ()
        """The results there were when the last study was asked for."""
        self.sections: dict[tuple[str, str], SectionKey] = {}
        """When a result came, and of which study → the section its page was left at."""

    @property
    def state(self) -> State:
        return self._app.state

    @property
    def seconds(self) -> float:
        """How long the study under way has taken."""
        return time.monotonic() - self._since

    # --- forms --------------------------------------------------------------------------------------------------

    def texts(self, study: str, record: StudyRecord | None = None) -> dict[str, str]:
        """The lines of a form: those of a result, or defaults with what is selected and what was typed last."""
        if record is not None:
            return texts_of(study, record.result.settings)
        return {**self._fresh(study), **self.state.study.typed.get(study, {})}

    def _fresh(self, study: str) -> dict[str, str]:
        """Settings of the newest result of the kind, else defaults; prompt and features as on the screen."""
        state = self.state
        newest = next((r.result.settings for r in reversed(state.studies) if r.result.study == study), {})
        texts = texts_of(study, newest)
        features = state.marks or ((state.feature,) if state.feature else ())
        if "features" in texts and features:
            texts["features"] = ", ".join(map(str, features))
        if "prompt" in texts and state.result is not None:
            texts["prompt"] = state.result.prompt
        return texts

    @staticmethod
    def knows(study: str) -> bool:
        """Whether there is such a study; a session may come from a newer saescope."""
        return study in STUDIES

    def why_not(self) -> str:
        """Why no study can be carried out now; "" where one can."""
        state = self.state
        if state.replaying:
            return "This is a recording: studies are carried out in a live session. Start saescope for one."
        if state.engine.phase != "ready":
            return " ".join(state.unready)
        return ""

    def under_way(self) -> str:
        """The study that runs, "" for none."""
        return self.state.study.asked if self.state.task("study") else ""

    def run(self, study: str, texts: Mapping[str, str]) -> None:
        """Carry a study out.

        Raises:
            Wrong: a line of the form does not fit.
        """
        request = MeasureStudy(id=self._app.next_id(), settings=settings_of(study, texts))
        changed = self._changed(study, texts)
        self._since = time.monotonic()
        self._app.change(lambda s: study_reducer.started(s, request.id, study, changed, now()))
        self._before = self.state.studies
        self._app.send(request)

    def check(self, study: str, texts: Mapping[str, str]) -> None:
        """Raise Wrong where a line of the form does not fit."""
        settings_of(study, texts)

    def keep(self, study: str, texts: Mapping[str, str]) -> None:
        """The form is left; what was typed stands there when it opens again."""
        self._app.change(lambda s: study_reducer.typed(s, study, self._changed(study, texts)))

    def _changed(self, study: str, texts: Mapping[str, str]) -> dict[str, str]:
        fresh = self._fresh(study)
        return {f.name: texts[f.name] for f in fields_of(study) if texts[f.name] != fresh[f.name]}

    def newest(self) -> StudyRecord | None:
        """What the study asked for last has found; None where that is nothing yet."""
        new = (r for r in reversed(self.state.studies) if all(r is not other for other in self._before))
        return self.state.study.growing or next(new, None)

    def stop(self) -> str:
        """End the study under way and keep what it has found; says what was ended, "" where nothing ran."""
        task, found, name = self.state.task("study"), self.state.study.growing, self.state.study.asked
        if task is None:
            return ""
        self._app.cancel((task,))
        self._app.change(lambda s: study_reducer.kept(s, now()))
        return ended_words(found.result) if found else f"The {name} study was stopped before it had found anything."

    def heard(self, before: State, after: State) -> None:
        """Say that a study is done, where its page is not on screen."""
        if len(after.studies) != len(before.studies) + 1 or before.task("study") is None:
            return
        record = after.studies[-1]
        if record.result.finished and not self._is_shown(record):
            self._app.say(ended_words(record.result), "7 shows it.")

    def _is_shown(self, record: StudyRecord) -> bool:
        return getattr(self._app.screen, "record", None) is record

    # --- results ------------------------------------------------------------------------------------------------

    def delete(self, record: StudyRecord) -> bool:
        """Take a result out of the session; whether that could be done: one that grows is stopped first."""
        if all(record is not other for other in self.state.studies):
            return False
        self._app.change(lambda s: study_reducer.delete(s, record))
        return True

    def undelete(self) -> bool:
        """Bring back what was deleted last; whether there was anything."""
        if self.state.study.gone is None:
            return False
        self._app.change(study_reducer.undelete)
        return True

    def mark(self, features: Sequence[FeatureRef]) -> str:
        """Mark features, or take the marks away where all of them have one; says what was done."""
        known = set(self.state.marks)
        if known.issuperset(features):
            self._app.change(lambda s: study_reducer.unmark_all(s, features))
            return f"{_named(features)} unmarked, {len(self.state.marks)} marked now."
        self._app.change(lambda s: reducer.mark_all(s, tuple(features)))
        return f"{_named(features)} marked, {len(self.state.marks)} marked now. S steers them, x lists them."

    def take(self, feature: FeatureRef) -> None:
        """Leave the pages and select a feature, whether it fires on the prompt or not."""
        self._leave_pages()
        self._app.change(lambda s: reducer.select_feature(s, feature))
        self._app.inspect.go_to("card")

    def steer(self, features: Sequence[FeatureRef]) -> None:
        """Leave the pages and take features into steering."""
        self._leave_pages()
        self._app.steers.take(tuple(features))
        self._app.inspect.go_to("steering")

    def link(self, feature: FeatureRef) -> str:
        """Copy a feature's link or name; says so."""
        info = self.state.dictionaries.get(feature.source)
        text = feature_url(info.neuronpedia, feature.index) if info and info.neuronpedia else str(feature)
        return f"{self._app.send_to_clipboard(text)} {text}"

    def show_quicklist(self, title: str, features: Sequence[FeatureRef], pages: Mapping[str, str]) -> None:
        """Show the addresses that hold features; `pages` are the Neuronpedia ids of sources that came with them."""
        from sessions.export import export_features
        from tui.screens.study_list import QuicklistPage

        known = {d.source: d.neuronpedia for d in self.state.engine.dictionaries if d.neuronpedia}
        urls: tuple[str, ...] = ()
        try:
            exported = export_features(title, features, {**known, **pages}, "auto", ("features", "features"))
            urls, notes = exported.urls, exported.notes
        except SaescopeError as error:
            notes = (f"{error.message} {error.remedy}",)
        self._app.push_screen(QuicklistPage(self.state, title, features, urls, notes))

    def _leave_pages(self) -> None:
        while self._app.screen is not self._app.inspect and len(self._app.screen_stack) > 1:
            self._app.pop_screen()


def _named(features: Sequence[FeatureRef]) -> str:
    return str(features[0]) if len(features) == 1 else f"{len(features)} features"


def studies() -> tuple[tuple[str, str], ...]:
    """All studies: name, and what it does in one line."""
    return tuple((name, (kind.__doc__ or "").strip().split("\n")[0]) for name, kind in STUDIES.items())
