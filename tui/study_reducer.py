"""How the state changes with studies: what is asked, what grows, what is kept, what the user deletes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.protocol import EngineFault, FeatureRef, StudyResult
from sessions.model import StudyRecord
from tui.session_log import logged
from tui.state import END_STUDY, State, Task
from tui.text import counted


def _with(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


def _view(state: State, **changes: Any) -> State:
    return _with(state, study=msgspec.structs.replace(state.study, **changes))


# --- what the engine said -----------------------------------------------------------------------------------------


def started(state: State, request: int, name: str, typed: Mapping[str, str], at: str) -> State:
    """A study was asked for; one under way is superseded, and what it had found is kept."""
    state = kept(state, at)
    failed = {study: fault for study, fault in state.study.failed.items() if study != name}
    state = _view(state, asked=name, failed=failed, typed={**state.study.typed, name: dict(typed)})
    return _with(state, tasks=(*state.tasks, Task(request, "study", f"{name} study")), notice=None)


def grown(state: State, result: StudyResult, at: str) -> State:
    """More of the result, or all of it."""
    before = state.study.growing
    return _view(state, growing=StudyRecord(before.at if before else at, result))


def settled(state: State, at: str) -> State:
    """Once no study runs any more, or its last result is there, it is kept, and the log says so."""
    growing = state.study.growing
    if growing is None or (state.task("study") is not None and not growing.result.finished):
        return state
    return logged(_with(_view(state, growing=None), studies=(*state.studies, growing)), at, story(growing))


def kept(state: State, at: str) -> State:
    """No study is waited for any more: one under way is kept as far as it came."""
    return settled(_with(state, tasks=tuple(task for task in state.tasks if task.kind != "study")), at)


def failed(state: State, fault: EngineFault) -> State:
    """The study came to nothing, or to no end."""
    return _view(state, failed={**state.study.failed, state.study.asked: fault})


def story(record: StudyRecord) -> str:
    """One line for the log."""
    result = record.result
    how = f"in {result.seconds:.1f} s" if result.finished else "stopped before it was finished"
    return f"{result.study} study: {result.title}; {counted(len(result.tables), 'table', 'tables')}, {how}"


# --- what the user did --------------------------------------------------------------------------------------------


def to_stop(state: State) -> tuple[Task, ...]:
    """What the user means to stop: a study, which takes long, only where nothing else runs."""
    return tuple(task for task in state.tasks if task.kind != "study") or state.tasks


def asked_to_end(state: State) -> State:
    """Ask whether the study under way is to be ended."""
    return _with(state, notice=END_STUDY)


def withdrawn(state: State) -> State:
    """Ask that no longer: an Escape much later means something else."""
    return _with(state, notice=None) if state.notice == END_STUDY else state


def typed(state: State, study: str, changed: Mapping[str, str]) -> State:
    """A form was left: what was typed into it, by field."""
    kept = {name: texts for name, texts in state.study.typed.items() if name != study}
    return _view(state, typed={**kept, study: dict(changed)} if changed else kept)


def unmark_all(state: State, refs: Iterable[FeatureRef]) -> State:
    """Take the marks of features away, whichever have one."""
    gone = frozenset(refs)
    return _with(state, marks=tuple(mark for mark in state.marks if mark not in gone))


def delete(state: State, record: StudyRecord) -> State:
    """Take a result out of the session; `undelete` brings back the last one that went."""
    place = next((n for n, other in enumerate(state.studies) if other is record), None)
    if place is None:
        return state
    studies = (*state.studies[:place], *state.studies[place + 1 :])
    return _with(_view(state, gone=(place, record)), studies=studies)


def undelete(state: State) -> State:
    """Put the result that was deleted last where it stood."""
    if state.study.gone is None:
        return state
    place, record = state.study.gone
    return _with(_view(state, gone=None), studies=(*state.studies[:place], record, *state.studies[place:]))


def records(state: State) -> tuple[StudyRecord, ...]:
    """All results, the one that grows first, then the newest."""
    growing = () if state.study.growing is None else (state.study.growing,)
    return (*growing, *reversed(state.studies))


def successor(state: State, record: StudyRecord) -> StudyRecord | None:
    """The same study now: it may have grown, ended, or been deleted. One that grows is told by when it began."""
    found = records(state)
    if any(record is other for other in found):
        return record
    result = record.result
    if result.finished:
        return None
    return next((r for r in found if (r.at, r.result.study) == (record.at, result.study)), None)
