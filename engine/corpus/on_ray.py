"""An index built by the workers of a Ray cluster: shards are rows of a Ray Data set, an actor reads them one by one.

Every actor opens the model and the dictionaries once and then does what a single machine does, `build_share`. All of
them need the text, the model, the dictionaries and the index's folder under the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from engine.corpus.pinning import check_same_text
from engine.errors import BadRequest, Cancelled, SaescopeError
from engine.job import Job
from engine.opening import OpenSet, bos_option, open_set
from engine.requests import Open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.corpus.build import Plan

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, for as long as it takes."""

_PATIENCE = 0.1
"""Seconds between two looks at whether the work was cancelled."""
_TALKATIVE = ("ray", "ray.data._internal.execution.streaming_executor", "ray.data._internal.progress")


def opening_of(opened: OpenSet) -> Open:
    """The request that opens the same again.

    Raises:
        BadRequest: a dictionary is no file that could be opened by its path.
    """
    for dictionary in opened.dictionaries.values():
        if dictionary.place is None or dictionary.place.extra:
            raise BadRequest(
                f"{dictionary.source} cannot be opened by its path, as the workers would have to.",
                "Read it on one machine, without --ray.",
            )
    places = (d.place for d in opened.dictionaries.values())
    return Open(
        id=1,
        model=str(opened.model.folder.resolve()),
        dictionaries=tuple(str(place.path.resolve()) for place in places if place is not None),
        device=opened.model.device.type,  # which of several a worker has is up to Ray
        dtype=str(opened.model.dtype).removeprefix("torch."),
        bos=bos_option(opened.info().bos),
        fold=opened.folded,
    )


class Reader:
    """The actor: opens the set once and reads the shards it is given."""

    def __init__(self, opening: Open, plan: Plan, folder: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._opened = open_set(opening, Job())
        self._plan, self._folder = plan, folder
        found = {s: d.sha256 for s, d in self._opened.dictionaries.items() if s in plan.manifest.dictionaries}
        if found != {s: d.sha256 for s, d in plan.manifest.dictionaries.items()} or (
            self._opened.sha256 != plan.manifest.model_sha256
        ):
            raise RuntimeError("A worker has another model or other dictionaries under these paths.")
        check_same_text(plan.text, plan.manifest.text)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from engine.corpus.build import build_share, shard_folder

        shards = [int(number) for number in batch["id"]]
        done = [
            build_share(self._opened, self._plan, shard_folder(self._folder, n), Job(), lambda *_: None, n)
            for n in shards
        ]
        return {"id": shards, "tokens": [progress.tokens for progress in done]}


def read_shards(
    opened: OpenSet,
    plan: Plan,
    folder: Path,
    address: str,
    workers: int | None,
    job: Job,
    told: Callable[[int, int], None],
) -> None:
    """Have all shards read; `told` hears of each that is done how many there are and its tokens.

    Raises:
        Cancelled: at any moment; workers are ended, and what they kept is there.
        BadRequest: Ray is not installed, or there is no such cluster.
        SaescopeError: a worker failed; what is read is kept, and the next call goes on from there.
    """
    opening = opening_of(opened)
    ray = _ray()
    _connect(ray, address, workers)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0)) if opened.model.device.type == "cuda" else 0
        cpus = int(ray.cluster_resources().get("CPU", 1))
        count = min(workers or gpus or max(1, cpus - 1), plan.shards)  # one is for what hands out the shards
        driver = ray.remote(num_cpus=0, max_retries=0)(_drive).options(num_returns="streaming")
        rows = driver.remote(opening, plan, folder, count, bool(gpus))
        done = 0
        while True:
            with contextlib.redirect_stdout(sys.stderr):  # where Ray says what a worker met: results go to the other
                if ray.wait([rows], timeout=_PATIENCE)[0]:
                    try:
                        tokens = ray.get(next(rows))
                    except StopIteration:
                        return
                else:
                    tokens = None
            if tokens is None:
                job.rest()
                continue
            done += 1
            told(done, int(tokens))
    except (SaescopeError, Cancelled, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a worker or the cluster met, wrapped by Ray
        raise BadRequest(
            f"A worker of Ray failed: {_last_line(error)}.",
            "Run the same command again: finished shards are kept. Paths must be the same on all machines.",
        ) from error
    finally:
        ray.shutdown()


def _drive(opening: Open, plan: Plan, folder: Path, count: int, on_gpus: bool) -> Iterator[int]:
    """The tokens of every shard as it is done. A task on the cluster: here the work could not be left at any moment."""
    import ray.data

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    read = ray.data.range(plan.shards, override_num_blocks=plan.shards).map_batches(
        Reader,
        fn_constructor_args=(opening, plan, folder, 1 if not on_gpus else (os.cpu_count() or 1)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_gpus=1 if on_gpus else None,
        num_cpus=None if on_gpus else 1,
    )
    for row in read.iter_rows():
        yield int(row["tokens"])


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise BadRequest("Ray is not installed.", 'Install it: pip install "saescope[ray]".') from None
    return ray


def _connect(ray: Any, address: str, workers: int | None) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {
            "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
        },
    }
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, num_cpus=(workers or os.cpu_count() or 1) + 1, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise BadRequest(
            f"There is no Ray cluster at {address}: {_last_line(error)}.",
            "Start one with `ray start --head`, or give --ray local.",
        ) from None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
