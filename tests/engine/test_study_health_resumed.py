"""Dictionary health that goes on: after a cancel, a kill and with more text, and which states it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.corpus.text import documents_of
from engine.errors import BadRequest, Cancelled
from engine.events import Progress
from engine.job import Job
from engine.loading import open_model
from engine.model import LanguageModel
from engine.opening import OpenSet
from engine.protocol import Event
from engine.studies.health.study import measure
from engine.studies.measure import Growing
from engine.study_results import StudyResult
from engine.study_settings.health import Health
from tests.conftest import ROOT
from tests.engine.health_scene import made, measured, opening, plain_contexts, settings_for, write_text
from tests.engine.study_scene import figure


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LanguageModel:
    return open_model(llama_folder, "cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "words.jsonl")


def without_resume(result: StudyResult) -> Any:
    plain = msgspec.to_builtins(result)
    notes = [note for note in plain.get("notes", ()) if "had been read before" not in note]
    return {**{k: v for k, v in plain.items() if k not in ("settings", "provenance")}, "notes": notes}


def stopped_after(batches: int) -> Job:
    def emit(event: Event) -> None:
        nonlocal batches
        if isinstance(event, Progress) and event.text == "reading text":
            batches -= 1
            if batches == 0:
                job.cancel()

    job = Job(1, emit)
    return job


def test_what_was_cancelled_goes_on_and_counts_nothing_twice(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    whole = measured(opened, settings_for(text, loss_tokens=400))
    asked = settings_for(text, loss_tokens=400, resume=str(file))
    for _ in range(2):
        with pytest.raises(Cancelled):
            measure(opened, asked, Growing(stopped_after(2)))
    again = measured(opened, asked)
    assert without_resume(again) == without_resume(whole)
    assert any("had been read before" in note for note in again.notes)
    passes: list[str] = []
    job = Job(1, lambda event: passes.append(event.text) if isinstance(event, Progress) else None)
    assert without_resume(measure(opened, asked, Growing(job))) == without_resume(whole)
    assert not [said for said in passes if "reading text" in said or "loss" in said]  # all of it was kept


def test_finding_the_place_again_can_be_stopped(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    asked = settings_for(text, resume=str(file))
    measured(opened, asked)
    kept, said = file.read_bytes(), []
    rests: list[int] = []

    def emit(event: Event) -> None:
        assert isinstance(event, Progress)
        said.append((event.text, event.done))
        if event.done:
            job.cancel()

    job = Job(1, emit, lambda: rests.append(len(said)))
    with pytest.raises(Cancelled):
        measure(opened, asked, Growing(job))
    assert {text for text, _ in said} == {"finding the place in the text"}
    assert len(rests) >= 2
    assert file.read_bytes() == kept


def test_what_was_too_short_is_told_of_all_the_text(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened = opening(model, made(tmp_path, "topk"))
    asked = settings_for(text, resume=str(tmp_path / "state"))
    every = sum(len(model.tokenizer.encode(d.text, bos=False)) for d in documents_of((str(text),)))
    read = sum(map(len, plain_contexts(opened, asked)))
    assert every > read
    for _ in range(2):  # the second time all of it was read before
        assert any(f"{every - read:,} tokens were left out" in note for note in measured(opened, asked).notes)


def test_the_state_can_be_kept_at_home(tmp_path: Path, model: LanguageModel, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setenv("HOME", str(tmp_path))
    measured(opening(model, made(tmp_path, "topk")), settings_for(text, tokens=100, resume="~/state"))
    assert (tmp_path / "state").is_file()


_KILLED = """
import os, signal, sys
from pathlib import Path
from engine.events import Progress
from engine.formats.saelens import read_dictionary
from engine.job import Job
from engine.loading import open_model
from engine.opening import OpenSet
from engine.studies.health import study as health
from engine.studies.measure import Growing
from engine.study_settings.health import Health

folder, dictionary, text, state = sys.argv[1:]
health.SAVE_EVERY = 0
seen = []

def emit(event):
    if isinstance(event, Progress):
        seen.append(event.text)
        if seen.count("reading text") == 3:
            os.kill(os.getpid(), signal.SIGKILL)

read = read_dictionary(Path(dictionary))
opened = OpenSet(open_model(Path(folder), "cpu"), {read.source: read}, False, "")
settings = Health(text=(text,), context=40, rare=0.05, loss_tokens=0, resume=state)
health.measure(opened, settings, Growing(Job(1, emit)))
"""


def test_after_kill_9_the_result_is_that_of_one_run(
    tmp_path: Path, llama_folder: Path, model: LanguageModel, text: Path
) -> None:
    dictionary, file = made(tmp_path, "topk"), tmp_path / "state"
    folder = str(tmp_path / "1-res-tiny")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(llama_folder), folder, str(text), str(file)], cwd=ROOT, timeout=120
    )
    assert killed.returncode == -9
    assert file.is_file()
    (tmp_path / "state.partial").write_bytes(b"half a state that was being written")
    opened = opening(model, dictionary)
    again = measured(opened, settings_for(text, resume=str(file)))
    assert any("had been read before" in note for note in again.notes)
    assert without_resume(again) == without_resume(measured(opened, settings_for(text)))


def test_a_state_of_something_else_is_refused(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    dictionary, file = made(tmp_path, "topk"), tmp_path / "state"
    asked = settings_for(text, resume=str(file))
    measured(opening(model, dictionary), asked)

    def refused(opened: OpenSet, settings: Health, match: str) -> None:
        with pytest.raises(BadRequest, match=match) as caught:
            measured(opened, settings)
        assert caught.value.remedy

    other = replace(dictionary, sha256="another")
    refused(opening(model, other), asked, "made with other dictionaries")
    refused(OpenSet(model, {dictionary.source: dictionary}, False, "another model"), asked, "another model")
    refused(opening(model, dictionary), msgspec.structs.replace(asked, context=32), "contexts of another length")
    changed = write_text(tmp_path / "other.jsonl", seed=1)
    refused(opening(model, dictionary), settings_for(changed, resume=str(file)), "other text")
    short = write_text(tmp_path / "short.jsonl", documents=5)
    refused(opening(model, dictionary), settings_for(short, resume=str(file)), "more text")
    for damage in (b"", b"nonsense", file.read_bytes()[:2000]):
        file.write_bytes(damage)
        refused(opening(model, dictionary), asked, "no state of this study")
    refused(opening(model, dictionary), settings_for(text, resume=str(tmp_path)), "is a folder")
    refused(opening(model, dictionary), settings_for(text, resume=str(tmp_path / "no" / "file")), "no folder")


def test_more_text_can_be_read_later(tmp_path: Path, model: LanguageModel, text: Path) -> None:
    opened, file = opening(model, made(tmp_path, "topk")), tmp_path / "state"
    first = measured(opened, settings_for(text, tokens=500, loss_tokens=300, resume=str(file)))
    more = measured(opened, settings_for(text, tokens=1500, loss_tokens=300, resume=str(file)))
    assert 500 <= figure(first, "tokens read") < 600
    assert 1500 <= figure(more, "tokens read") < 1600
    assert more.figures["plain loss"] != first.figures["plain loss"]
