"""What every test shares: places of its own on disk, and tiny models made on the spot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

# One converted default model serves all tests of a run, and later runs on the same machine.
_SHARED_CACHE = os.environ.get("SAESCOPE_CACHE", "")

# Several processes share the cores: one thread each, in the engines they start too.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's sessions, settings or sets."""
    monkeypatch.setenv("SAESCOPE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SAESCOPE_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("SAESCOPE_DATA", str(tmp_path / "data"))
    if not _SHARED_CACHE:
        monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run_python() -> RunPython:
    """Run a piece of Python in an interpreter of its own, from the project's root."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
        )

    return run


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of four layers with a byte-level tokenizer, as a Hugging Face folder."""
    return tiny.save_model(tiny.model("llama"), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def dictionary_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """TopK dictionaries for layers 1 and 2 of the tiny models."""
    root = tmp_path_factory.mktemp("dictionaries")
    return tuple(tiny.save_dictionary(root / f"{layer}-res-tiny", "topk", layer=layer) for layer in (1, 2))


@pytest.fixture(scope="session")
def default_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the default model, converted once."""
    base = tmp_path_factory.getbasetemp()
    cache = Path(_SHARED_CACHE) if _SHARED_CACHE else (base.parent if _WORKER else base) / "default-cache"
    cache.mkdir(parents=True, exist_ok=True)
    previous = os.environ.get("SAESCOPE_CACHE")
    os.environ["SAESCOPE_CACHE"] = str(cache)
    try:
        from engine import default_model
        from engine.job import Job

        with FileLock(cache / "tests.lock"):  # the workers of one run share it
            default_model.ensure(Job())
    finally:
        if previous is None:
            del os.environ["SAESCOPE_CACHE"]
        else:
            os.environ["SAESCOPE_CACHE"] = previous
    return cache


@pytest.fixture
def default_set(default_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default model is ready to open; returns its folder."""
    monkeypatch.setenv("SAESCOPE_CACHE", str(default_cache))
    return default_cache / "models" / "smollm2-135m-instruct"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
