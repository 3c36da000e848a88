"""Where saescope keeps things, by the conventions of the platform, with one override each."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

APP = "saescope"


def _directory(override: str, default: str) -> Path:
    return Path(os.environ.get(override) or default).expanduser()


def cache_dir() -> Path:
    """Converted models and hashes: safe to delete, costly to make again."""
    return _directory("SAESCOPE_CACHE", platformdirs.user_cache_dir(APP))


def state_dir() -> Path:
    """Sessions, prompt history and logs."""
    return _directory("SAESCOPE_STATE", platformdirs.user_state_dir(APP))


def data_dir() -> Path:
    """Sets the user trained or added."""
    return _directory("SAESCOPE_DATA", platformdirs.user_data_dir(APP))


def config_dir() -> Path:
    return _directory("SAESCOPE_CONFIG", platformdirs.user_config_dir(APP))


def sessions_dir() -> Path:
    return state_dir() / "sessions"


def log_file() -> Path:
    return state_dir() / "engine.log"


def bundled_sets_dir() -> Path:
    """The dictionaries that ship with the package."""
    return Path(__file__).parent / "sets"


def private_directory(path: Path) -> Path:
    """Make `path` for this user alone (0700) if it is not there, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
