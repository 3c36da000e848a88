"""Memory: how much there is, and going on in smaller pieces when it runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from engine.errors import OutOfMemory
from engine.protocol import Memory

T = TypeVar("T")
_SMALLEST_PIECE = 16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextmanager
def telling_out_of_memory(
    message: str = "A pass over the prompts does not fit in memory.",
    remedy: str = "Shorten them, open fewer dictionaries, or use another device.",
) -> Iterator[None]:
    """What cannot be done in smaller pieces, a model's clean run above all, says that it does not fit.

    Raises:
        OutOfMemory: with this message and remedy.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(message, remedy, str(error)) from None


def in_smaller_pieces(attempt: Callable[[int], T], whole: int, *, can_split: bool = True) -> T:
    """`attempt(whole)`, and on running out of memory with half as much, and half again.

    Raises:
        OutOfMemory: even 16 at a time do not fit, or the work cannot be split.
    """
    piece = whole
    while True:
        try:
            return attempt(piece)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not can_split or piece <= _SMALLEST_PIECE:
            raise OutOfMemory(
                f"A prompt of {whole} tokens does not fit in memory.",
                "Shorten it, open fewer dictionaries, or use --dtype bfloat16.",
                reason,
            )
        piece = max(_SMALLEST_PIECE, piece // 2)


def memory_in_use(device: torch.device) -> Memory:
    """Bytes used and there in all: on the GPU by everyone, on a CPU by this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(used=total - free, total=total)
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    import os

    size = os.sysconf("SC_PAGE_SIZE")
    return Memory(used=pages * size, total=os.sysconf("SC_PHYS_PAGES") * size)


def available_bytes(device: torch.device) -> int:
    """How much memory could be taken now: free on the GPU; else what the system, the container or batch job this
    process is in, and its own limits leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = (_system_available(), cgroup_available(), _address_space_left())
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else memory_in_use(device).total // 4


def _system_available() -> int | None:
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def cgroup_available(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the tightest control group around this process leaves, or None where none limits it.

    Containers and Slurm limit memory this way, and the system's own figure knows nothing of it. Files that the kernel
    can drop again do not count as used.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return None
    left = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers:  # version 2, alone or beside version 1
            bases, names = (root, root / "unified"), ("memory.max", "memory.high", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            bases = (root / "memory", root / controllers)
            names = ("memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = Path(path.lstrip("/"))
        # In a container the path may be the host's, of which only the root is to be seen here.
        left += [_left_in(base / group, *names) for base in bases for group in (inside, *inside.parents)]
    return min((n for n in left if n is not None), default=None)


def _left_in(group: Path, limit: str, soft_limit: str, usage: str, droppable: str) -> int | None:
    """What one control group leaves; None where it sets no limit."""
    limits = [n for name in (limit, soft_limit) if name and (n := _number_in(group / name)) is not None]
    used = _number_in(group / usage)
    if not limits or used is None or min(limits) >= 1 << 60:  # version 1 writes "none" as almost 2**63
        return None
    return max(0, min(limits) - used + (_number_in(group / "memory.stat", droppable) or 0))


def _number_in(file: Path, key: str = "") -> int | None:
    """The number a file holds, or the one after a key; None where there is none, or it says "max"."""
    try:
        words = file.read_text().split()
        return int(words[words.index(key) + 1] if key else words[0])
    except (OSError, ValueError, IndexError):
        return None


def _address_space_left() -> int | None:
    """What `ulimit -v` leaves, or None."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _number_in(Path("/proc/self/statm"))
    if limit == resource.RLIM_INFINITY or pages is None:
        return None
    return max(0, limit - pages * resource.getpagesize())
