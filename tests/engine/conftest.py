"""Stand-ins of the models and dictionaries that open by name, in both layouts of a machine without network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import named_models as named


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named.in_both_layouts(tmp_path_factory.mktemp("named"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named.leave_alone(monkeypatch, tmp_path / "empty")


@pytest.fixture
def mirror(built: Path, alone: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAESCOPE_MIRROR", str(built / "mirror"))
    return built / "mirror"
