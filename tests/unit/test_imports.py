"""What may load when: the first frame must not wait for torch, and the engine must not know Textual.

import-linter reads the code; these run it, which is the only proof that a late import is late.
"""

from __future__ import annotations

import pytest

from tests.conftest import RunPython

MODEL_LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "transformer_lens", "sae_lens", "safetensors")
SCREEN = ("textual", "tui", "themes")


def _loaded(run_python: RunPython, statement: str, forbidden: tuple[str, ...]) -> list[str]:
    done = run_python(f"import sys\n{statement}\nprint(','.join(m for m in {forbidden!r} if m in sys.modules))")
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.rstrip("\n").split("\n")[-1].split(",") if name]


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import tui.app, tui.launch", (*MODEL_LIBRARIES, "plotext", "sqlite3")),
        ("import engine.client, engine.protocol, engine.text", (*MODEL_LIBRARIES, *SCREEN, "rich")),
        ("import engine.server, engine.lazy", (*MODEL_LIBRARIES, *SCREEN, "rich")),
        ("import engine.headless, engine.sets, engine.doctor", (*MODEL_LIBRARIES, *SCREEN, "rich", "tqdm")),
        ("import engine.headless_circuits, engine.pairs, engine.circuit_reports", (*MODEL_LIBRARIES, *SCREEN, "rich")),
        (
            "import engine.headless_steering, engine.steering_reports, engine.typed_interventions",
            (*MODEL_LIBRARIES, *SCREEN, "rich"),
        ),
        (
            "import engine.headless_studies, engine.study_reports, engine.study_settings, engine.selection",
            (*MODEL_LIBRARIES, *SCREEN, "rich"),
        ),
        ("import engine.core", (*SCREEN, "rich", "transformer_lens", "sae_lens")),
        ("import engine.training.pipeline", (*SCREEN, "sae_lens", "wandb")),
        (
            "import sessions.export, sessions.store, sessions.quicklist, sessions.history, sessions.circuit_export, "
            "sessions.links, sessions.marks, sessions.listing, sessions.studies, sessions.study_export, "
            "sessions.study_picture",
            (*MODEL_LIBRARIES, *SCREEN, "rich"),
        ),
    ],
)
def test_imports(run_python: RunPython, statement: str, forbidden: tuple[str, ...]) -> None:
    assert _loaded(run_python, statement, forbidden) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["study", "walk", "--help"],
        *([name, "--help"] for name in ("features", "open", "steer", "import", "link", "prompts", "study")),
    ],
)
def test_help_loads_nothing_heavy(run_python: RunPython, arguments: list[str]) -> None:
    statement = f"""
import contextlib, io, main
sys.argv = ["saescope", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main.main()"""
    assert _loaded(run_python, statement, (*MODEL_LIBRARIES, *SCREEN, "rich", "plotext")) == []


def test_replaying_loads_no_model_library(run_python: RunPython) -> None:
    """A recorded session is decoded, reduced and laid out without torch."""
    statement = """
import asyncio, pathlib
from engine.protocol import Open
from sessions.store import new_session
from tui.app import SaescopeApp
async def look():
    session = new_session(Open(id=0))
    async with SaescopeApp(session.opening, None, None, session=session).run_test() as pilot:
        await pilot.pause()
asyncio.run(look())"""
    assert _loaded(run_python, statement, MODEL_LIBRARIES) == []
