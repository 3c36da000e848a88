"""Dictionary health beside the bare forward pass, on the same text, in one process.
`python -m tests.benchmarks.health`.

The bare pass runs the model's blocks over the same batches of contexts and reads nothing; neither computes logits.
Both end after the last dictionary's site, so what is compared is the cost of encoding, decoding and counting. The way
that keeps every activation in memory and encodes densely, as notebooks do, stands beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

import torch

from engine.corpus.text import contexts_of, documents_of
from engine.job import Job
from engine.opening import OpenSet, open_set
from engine.quiet import quiet_libraries
from engine.requests import Open
from engine.studies.health.study import ROWS
from engine.studies.health.tally import Firing, read_contexts
from engine.training.corpus import Context, batches
from tests.benchmarks.measuring import extra_megabytes, machine, medians, table


def bare(opened: OpenSet, groups: list[list[Context]]) -> None:
    """The forward pass alone, up to the last site that is read."""
    last = max((d.site for d in opened.dictionaries.values()), key=lambda site: site.depth)
    for group in groups:
        ids, _ = next(batches(group, len(group)))
        opened.model.read(torch.from_numpy(ids).to(opened.model.device, torch.long), {last: lambda x: None})


def notebook(opened: OpenSet, groups: list[list[Context]]) -> None:
    """Dense activations of every dictionary on every token, frequencies by their mean."""
    dictionaries = list(opened.dictionaries.values())
    for group in groups:
        ids, _ = next(batches(group, len(group)))
        held = opened.model.capture(
            torch.from_numpy(ids).to(opened.model.device, torch.long), {d.site for d in dictionaries}
        )
        for dictionary in dictionaries:
            with torch.inference_mode():
                x = held[dictionary.site].flatten(0, 1).float()
                activations = dictionary.encode(x)
                (activations > 0).float().mean(0)
                (x - dictionary.decode(activations, x)).square().sum()


def ours(opened: OpenSet, groups: list[list[Context]]) -> None:
    firings = [Firing(dictionary) for dictionary in opened.dictionaries.values()]
    for group in groups:
        read_contexts(opened.model, firings, group, Job())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--text", default=None, help="a file of text; the sample that ships with saescope otherwise")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    quiet_libraries()
    opened = open_set(Open(id=1, device=given.device, dtype=given.dtype), Job())
    text = (given.text,) if given.text else ()
    stream: Iterator[Context] = contexts_of(opened, documents_of(text), 128, given.tokens)
    groups = []
    while group := list(islice(stream, ROWS)):
        groups.append(group)
    tokens = sum(len(context.ids) for group in groups for context in group)
    jobs = {
        "bare forward pass": lambda: bare(opened, groups),
        "dictionary health": lambda: ours(opened, groups),
        "dense, as in a notebook": lambda: notebook(opened, groups),
    }
    synchronise = torch.cuda.synchronize if given.device.startswith("cuda") else lambda: None
    seconds = medians(jobs, given.rounds, synchronise)
    first = seconds["bare forward pass"]
    rows = [
        [
            name,
            f"{tokens / taken:,.0f}",
            f"{taken / first:.2f}×",
            f"{extra_megabytes(jobs[name], given.device):.0f} MB",
        ]
        for name, taken in seconds.items()
    ]
    print(machine(given.device))
    head = ["", "tokens per second", "time", "extra memory"]
    table(f"{len(opened.dictionaries)} dictionaries, {tokens:,} tokens in contexts of 128, {given.dtype}", head, rows)


if __name__ == "__main__":
    main()
