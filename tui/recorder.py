"""From the state to the session file, and when to write it."""

from __future__ import annotations

import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from sessions.model import Session, StudyRecord, View
from sessions.store import now, this_process, write_session
from tui.state import State


def to_session(state: State, base: Session) -> Session:
    """The session as the screen has it now; `base` gives identity and beginning."""
    steering = state.steering
    view = View(
        draft=state.draft,
        chat=state.chat,
        run=state.shown,
        token=state.token,
        feature=state.feature,
        scope=state.scope,
        site=state.site,
        steer=steering.shown if steering.shown >= 0 else len(state.steers) - 1,
        interventions=tuple(row.intervention for row in steering.rows),
        off=tuple(n for n, row in enumerate(steering.rows) if not row.on),
        circuit=state.circuit.shown,
        node_threshold=state.circuit.node_threshold,
        edge_threshold=state.circuit.edge_threshold,
    )
    return msgspec.structs.replace(
        base,
        updated=now(),
        opening=state.opening,
        title=state.title or _title(state),
        owner=this_process(),
        versions=_versions(),
        model=state.engine.model,
        dictionaries=state.engine.dictionaries,
        runs=state.runs,
        cards=tuple(state.cards.values()),
        hints=dict(state.hints),
        labels=dict(state.labels),
        plan=state.engine.plan,
        steers=state.steers,
        evidence=state.evidence,
        presets=state.presets,
        circuits=state.circuits,
        studies=_studies(state),
        marks=state.marks,
        log=state.log,
        view=view,
    )


def _title(state: State) -> str:
    """The first prompt, or else the first study, names a session until the user does."""
    studies = _studies(state)
    studied = studies[0].result.title if studies else ""
    first = state.runs[0].result.prompt if state.runs else state.draft or studied
    return " ".join(first.split())[:60]


def _studies(state: State) -> tuple[StudyRecord, ...]:
    """Results, and last what the study under way has found so far."""
    growing = state.study.growing
    return state.studies if growing is None else (*state.studies, growing)


def _versions() -> dict[str, str]:
    try:
        return {"saescope": version("saescope")}
    except PackageNotFoundError:
        return {}


_KEPT = (
    "draft", "chat", "shown", "token", "feature", "scope", "site", "runs", "cards", "hints", "labels", "steers",
    "evidence", "presets", "marks", "circuits", "circuit", "studies", "log", "title",
)  # fmt: skip  # the parts of the state that are in the file


_GROWING_EVERY = 30.0
"""Seconds after which what a study has found since is written: results are large and come twice a second."""


class Recorder:
    """Writes the session shortly after it changed; a session in which nothing happened leaves no file."""

    def __init__(self, path: Path, base: Session) -> None:
        self.path = path
        self._base = base
        self._written: State | None = None
        self._at = 0.0

    def is_dirty(self, state: State) -> bool:
        """Whether the file lacks something the state has."""
        written = self._written
        if written is None or any(getattr(state, k) is not getattr(written, k) for k in _KEPT):
            return True
        if state.study.growing is not written.study.growing and time.monotonic() - self._at >= _GROWING_EVERY:
            return True
        was, now = written.steering, state.steering  # texts that stream are not in the file
        return was.rows is not now.rows or was.shown != now.shown

    def write(self, state: State, *, closing: bool = False) -> str:
        """Write the file and return the time, or "" where there is nothing to keep.

        `closing` says that the session is left in good order.
        """
        session = to_session(state, self._base)
        if closing:
            session = msgspec.structs.replace(session, owner=None)
        if session.is_empty and not self.path.exists():
            return ""
        write_session(self.path, session)
        self.mark_written(state)
        return datetime.now().strftime("%H:%M")

    def mark_written(self, state: State) -> None:
        """The state is what the file holds already."""
        self._written, self._at = state, time.monotonic()
