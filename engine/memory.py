"""Memory: how much there is, and going on in smaller pieces when it runs out."""

from __future__ import annotations

from collections.abc import Callable
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
    """How much memory could be taken now: free on the GPU, or what the system counts as available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return memory_in_use(device).total // 4
