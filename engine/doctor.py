"""`saescope doctor`: what is installed, what the machine and the terminal can do, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine import default_model, paths, sets
from engine.text import visible

PACKAGES = (
    "saescope", "torch", "transformers", "transformer-lens", "sae-lens", "textual", "rich", "typer", "plotext",
    "msgspec", "numpy", "safetensors", "gguf",
)  # fmt: skip


def examine(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything worth knowing, as plain data; `hints` says what to do."""
    environment = os.environ if environment is None else environment
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "terminal": _terminal(environment),
        "paths": {
            "config": str(paths.config_dir()),
            "state": str(paths.state_dir()),
            "cache": str(paths.cache_dir()),
            "data": str(paths.data_dir()),
            "log": str(paths.log_file()),
        },
        "sets": [{"name": s.name, "model_ready": s.model_ready} for s in sets.all_sets()],
        "free_disk_gb": round(shutil.disk_usage(_existing(paths.cache_dir())).free / 1e9, 1),
    }
    found["hints"] = _hints(found)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    """Asked of torch in another process: a broken CUDA must not take the doctor with it."""
    code = (
        "import torch,json;"
        "print(json.dumps({'threads':torch.get_num_threads(),'cuda_build':torch.version.cuda,"
        "'cuda':[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]"
        " if torch.cuda.is_available() else []}))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return {"error": f"torch cannot be imported: {said[-1]}"}
    except (subprocess.SubprocessError, OSError) as error:
        return {"error": f"torch cannot be imported: {error}"}
    import json

    seen: dict[str, Any] = json.loads(done.stdout)
    return {"cpus": os.cpu_count(), **seen}


def _terminal(environment: Mapping[str, str]) -> dict[str, Any]:
    size = shutil.get_terminal_size()
    truecolor = environment.get("COLORTERM", "").lower() in {"truecolor", "24bit"}
    term = environment.get("TERM", "")
    colours = 0 if "NO_COLOR" in environment else 1 << 24 if truecolor else 256 if "256" in term else 16
    return {
        "TERM": term,
        "COLORTERM": environment.get("COLORTERM", ""),
        "colours": colours,
        "size": f"{size.columns}x{size.lines}",
        "tmux": "TMUX" in environment,
        "ssh": "SSH_CONNECTION" in environment or "SSH_TTY" in environment,
        "utf8": "utf" in (sys.stdout.encoding or "").lower(),
    }


def _hints(found: Mapping[str, Any]) -> list[str]:
    hints = []
    missing = [name for name, number in found["packages"].items() if number is None]
    if missing:
        hints.append(f"Not installed: {', '.join(missing)}. Run pip install -e . again.")
    if "error" in found["devices"]:
        hints.append(found["devices"]["error"])
    elif not found["devices"]["cuda"]:
        hints.append("No CUDA device: the engine runs on the CPU.")
    terminal = found["terminal"]
    if terminal["TERM"] in {"", "dumb", "unknown"}:
        hints.append("This terminal cannot show the inspector; the commands with --json work.")
    elif terminal["colours"] == 256:
        hints.append("256 colours. If your terminal has more: export COLORTERM=truecolor.")
    if terminal["tmux"]:
        hints.append("In tmux, copying needs: set -g set-clipboard on.")
    elif terminal["ssh"]:
        hints.append("Over SSH, run saescope inside tmux: a dropped line then costs nothing.")
    if not terminal["utf8"]:
        hints.append("The locale is not UTF-8: export LANG=C.UTF-8.")
    if not default_model.is_ready():
        hints.append("The default model is fetched (93 MB) and converted on first use.")
        if found["free_disk_gb"] < 2:
            hints.append(f"Only {found['free_disk_gb']} GB are free for it; it needs 1 GB.")
    return hints


def _existing(path: os.PathLike[str]) -> str:
    """The nearest folder above `path` that is there."""
    place = os.path.abspath(path)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def report(found: Mapping[str, Any]) -> str:
    """The examination as text."""
    lines = [f"saescope on Python {found['python']}, {found['system']}"]
    lines += [f"  {name:<18} {number or 'missing'}" for name, number in found["packages"].items()]
    for section in ("devices", "terminal", "paths"):
        lines.append(f"{section}:")
        lines += [f"  {key:<18} {visible(str(value))}" for key, value in found[section].items()]
    lines.append(f"free disk for models: {found['free_disk_gb']} GB")
    lines += [f"* {hint}" for hint in found["hints"]]
    return "\n".join(lines)
