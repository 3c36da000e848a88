"""First features of a prompt with dictionaries on the device, in main memory and on disk. `python -m
tests.benchmarks.residency`.

GPT-2 small's shape with random weights. On a CPU main memory is the device, so that `host` shows only what paging
itself costs; with `--device cuda` it shows the copies. Files are in the system's cache after the first round.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from engine.answer import Answer, Question
from engine.dictionary import Dictionary
from engine.features import read_prompt
from engine.formats.read import read
from engine.job import Job
from engine.loading import open_model
from engine.memory.residency import Shelf, keep, tensors_of
from engine.model import LanguageModel
from engine.places import Place
from engine.protocol import MemoryPlan
from engine.quiet import quiet_libraries
from engine.results import Residency
from tests.benchmarks.features import PER_TOKEN, TOP, Case, gpt2_case
from tests.benchmarks.measuring import extra_megabytes, machine, medians, table


def _way(case: Case, model: LanguageModel, residency: Residency, at_once: int) -> tuple[Callable[[], object], Shelf]:
    """A job that reads the prompt with dictionaries of a residency, `at_once` of them on the device."""
    dictionaries: list[Dictionary] = []
    shelf = Shelf(0)
    for folder in case.dictionaries:
        fresh = read(Place("saelens", folder))
        size = sum(tensor.numel() for tensor in tensors_of(fresh)) * fresh.precision.itemsize
        if model.dtype.itemsize < fresh.precision.itemsize:
            size += fresh.encoder.numel() * model.dtype.itemsize
        shelf.budget = at_once * size
        plan = MemoryPlan(0, 0, 0, 0, 0, str(model.device), "", residency, shelf.budget, "")
        dictionaries.append(keep(fresh, plan, shelf, model.device, model.dtype))

    def run() -> list[float]:
        answers: list[Answer] = []
        read_prompt(model, dictionaries, case.ids, Question(top=TOP, per_token=PER_TOKEN), Job(), answers.append)
        return [hit.activation for hit in answers[0].hits]

    return run, shelf


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--latents", type=int, default=12_288)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as root:
        case = gpt2_case(Path(root), options.layers, options.latents)
        model = open_model(case.model, options.device, options.dtype)
        half = max(1, options.layers // 2)
        ways = {
            "on the device": _way(case, model, "device", options.layers),
            "main memory, half at a time": _way(case, model, "host", half),
            "main memory, two at a time": _way(case, model, "host", 2),
            "disk, all at a time": _way(case, model, "disk", options.layers),
            "disk, half at a time": _way(case, model, "disk", half),
            "disk, two at a time": _way(case, model, "disk", 2),
        }
        expected = ways["on the device"][0]()
        for name, (run, _) in ways.items():
            if run() != expected:
                raise SystemExit(f"{name} found other features")
        synchronise = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
        seconds = medians({name: run for name, (run, _) in ways.items()}, options.rounds, synchronise)
        rows = []
        for name, (run, shelf) in ways.items():
            before = shelf.loads
            megabytes = extra_megabytes(run, options.device)
            fetched = str(shelf.loads - before)
            ratio = seconds[name] / seconds["on the device"]
            rows.append([name, f"{seconds[name] * 1e3:.0f} ms", f"{ratio:.1f}×", fetched, f"{megabytes:.0f} MB"])
        size = sum(folder.stat().st_size for d in case.dictionaries for folder in d.iterdir()) / 1e6
        print(machine(options.device))
        title = f"{case.name}, {len(case.ids)} tokens, {options.dtype}; {size:.0f} MB of dictionaries"
        table(title, ["dictionaries", "median", "ratio", "fetched", "extra memory"], rows)


if __name__ == "__main__":
    main()
